"""procrastinate with no-op jobs; run by the peers' own Python. It takes jobs one by one: there is no batch."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import procrastinate


def make_app(url: str) -> procrastinate.App:
    """Return the application on psycopg."""
    return procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))


async def prepare(url: str, jobs: int) -> None:
    """Install its schema and defer jobs."""
    app = make_app(url)
    task = app.task(name="no_op")(no_op)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await task.batch_defer_async(*({} for _ in range(jobs)))


async def no_op() -> None:
    """Do nothing."""


async def work(url: str, concurrency: int) -> None:
    """Get ready, wait for the word, and do jobs until none is left."""
    app = make_app(url)
    done = 0

    @app.task(name="no_op")
    async def counted() -> None:
        nonlocal done
        done += 1

    async with app.open_async():
        print("ready", flush=True)
        sys.stdin.readline()
        begun = time.monotonic()
        await app.run_worker_async(
            wait=False, concurrency=concurrency, listen_notify=False, install_signal_handlers=False
        )
        print(json.dumps({"begun": begun, "ended": time.monotonic(), "files": done}), flush=True)


if __name__ == "__main__":
    verb, address, number = sys.argv[1:]
    asyncio.run(prepare(address, int(number)) if verb == "prepare" else work(address, int(number)))
