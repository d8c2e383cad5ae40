"""huey on SQLite with no-op tasks and its default durability; run by the peers' own Python.

The loop is that of its consumer's worker: dequeue one task, execute it. It stores no results, which is faster.
"""

from __future__ import annotations

import json
import sys
import time

from huey import SqliteHuey


def make_queue(path: str) -> SqliteHuey:
    """Return the queue in the SQLite file at `path`."""
    return SqliteHuey("bench", filename=path, results=False, timeout=60)


def prepare(path: str, tasks: int) -> None:
    """Enqueue tasks."""
    queue = make_queue(path)
    task = queue.task(name="no_op")(no_op)
    with queue.storage.db(commit=True) as cursor:
        rows = [(queue.name, memoryview(queue.serialize_task(task.s())), 0.0) for _ in range(tasks)]
        cursor.executemany("INSERT INTO task (queue, data, priority) VALUES (?, ?, ?)", rows)


def no_op() -> None:
    """Do nothing."""


def work(path: str) -> None:
    """Get ready, wait for the word, and do tasks until none is left."""
    queue = make_queue(path)
    queue.task(name="no_op")(no_op)
    print("ready", flush=True)
    sys.stdin.readline()
    done = 0
    begun = time.monotonic()
    while (task := queue.dequeue()) is not None:
        queue.execute(task)
        done += 1
    print(json.dumps({"begun": begun, "ended": time.monotonic(), "files": done}), flush=True)


if __name__ == "__main__":
    verb, address, number = sys.argv[1:]
    if verb == "prepare":
        prepare(address, int(number))
    else:
        work(address)
