"""pgqueuer with no-op jobs, through its fastest driver (asyncpg on uvloop); run by the peers' own Python."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode


async def prepare(url: str, jobs: int) -> None:
    """Install its tables and enqueue jobs."""
    connection = await asyncpg.connect(url)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    for begin in range(0, jobs, 1000):
        count = min(1000, jobs - begin)
        await queries.enqueue(["no_op"] * count, [None] * count, [0] * count)
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")
    await connection.close()


async def work(url: str, batch: int) -> None:
    """Get ready, wait for the word, and do jobs until none is left."""
    connection = await asyncpg.connect(url)
    queuer = PgQueuer(AsyncpgDriver(connection))
    done = 0

    @queuer.entrypoint("no_op")
    async def no_op(_job: Job) -> None:
        nonlocal done
        done += 1

    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.monotonic()
    await queuer.qm.run(batch_size=batch, mode=QueueExecutionMode.drain)
    print(json.dumps({"begun": begun, "ended": time.monotonic(), "files": done}), flush=True)
    await connection.close()


if __name__ == "__main__":
    verb, address, number = sys.argv[1:]
    uvloop.install()
    asyncio.run(prepare(address, int(number)) if verb == "prepare" else work(address, int(number)))
