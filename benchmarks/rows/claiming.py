"""Row 2: claiming and ending files with catalog and accounting rows, against job queues with no-op jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from benchmarks.bench import Bench, plain_url
from benchmarks.children import crew, ours, run, span
from benchmarks.report import Line, against, within
from benchmarks.stage import fill_finished, queue
from benchmarks.turns import Series, in_turn

FINISHED = 1_000_000
WORST_CLAIM = 0.1
SHARES = 0.2
_PGQUEUER = {100: 2.0, 10: 1.5}
_HUEY = {100: 15.0, 1: 0.4}
_numbers = count(1)


@dataclass
class Crews:
    """What the workers of our turns answered, by subject."""

    worst: dict[str, list[float]] = field(default_factory=dict)
    uneven: dict[str, list[float]] = field(default_factory=dict)

    def keep(self, subject: str, answers: list[dict[str, Any]]) -> None:
        """Keep the longest claim (s) and the largest deviation of a worker from an equal share."""
        shares = [answer["files"] for answer in answers]
        mean = sum(shares) / len(shares)
        self.worst.setdefault(subject, []).append(max(answer["worst"] for answer in answers))
        self.uneven.setdefault(subject, []).append(max(abs(share - mean) for share in shares) / mean)


def measure(bench: Bench) -> list[Line]:
    """Measure on SQLite, on PostgreSQL, and on both with many finished rows."""
    lines = _sqlite(bench)
    for batch in (1, 10, 100):
        lines += _postgres(bench, batch)
    for backend in bench.backends:
        lines += _finished(bench, backend, bench.size((1, 4), (1,), (4,)))
    return lines


def files_for(bench: Bench, batch: int) -> int:
    """Return how many files a turn takes: some seconds' worth."""
    full, quick, tiny = {1: (600, 200, 8), 10: (4000, 1500, 40), 100: (20_000, 6000, 400)}[batch]
    return bench.size(full, quick, tiny)


def drain(bench: Bench, backend: str, batch: int, workers: int, keep: Callable[[list[dict[str, Any]]], None]) -> float:
    """Let workers end all files of a new database; return files per second."""
    with bench.database(backend) as url:
        return drain_again(url, files_for(bench, batch), batch, workers, keep)


def drain_again(
    url: str, files: int, batch: int, workers: int, keep: Callable[[list[dict[str, Any]]], None] = lambda _: None
) -> float:
    """Queue files in a database and let workers end them; return files per second."""
    queue(url, files, f"queue{next(_numbers)}")
    answers = crew([ours("claim", url, str(batch))] * workers)
    done = sum(answer["files"] for answer in answers)
    if done != files:
        raise RuntimeError(f"{done} of {files} files were done")
    keep(answers)
    return files / span(answers)


def peer(bench: Bench, name: str, jobs: int, argument: int, workers: int) -> float:
    """Let a peer's workers do no-op jobs in a database of its own; return jobs per second."""
    with bench.database("SQLite" if name == "huey" else "PostgreSQL", empty=True) as url:
        address = url.removeprefix("sqlite:///") if name == "huey" else plain_url(url)
        run(bench.peer(name, "prepare", address, str(jobs)))
        answers = crew([bench.peer(name, "work", address, str(argument))] * workers)
    done = sum(answer["files"] for answer in answers)
    if done != jobs:
        raise RuntimeError(f"{name} did {done} of {jobs} jobs")
    return jobs / span(answers)


def _sqlite(bench: Bench) -> list[Line]:
    """One worker against huey at each batch, and four against one."""
    crews = Crews()
    subjects: dict[str, Callable[[], float]] = {}
    for batch, workers in ((1, 1), (10, 1), (100, 1), (10, 4), (100, 4)):
        name = _name(batch, workers)
        subjects[name] = partial(drain, bench, "SQLite", batch, workers, partial(crews.keep, name))
    with_peers = bench.level != "tiny"
    if with_peers:
        subjects["huey"] = partial(peer, bench, "huey", bench.size(4000, 2000, 8), 1, 1)
    found = in_turn(subjects, bench.repeats)
    lines = []
    for batch in (1, 10, 100) if with_peers else ():
        what = f"SQLite, batch {batch}, 1 worker"
        theirs = ("huey", found["huey"])
        lines.append(against(2, what, "files/s", found[_name(batch, 1)], theirs, "≥", _HUEY.get(batch)))
    for batch in (10, 100):
        lines += _fairness(found, crews, batch)
    return lines


def _fairness(found: dict[str, Series], crews: Crews, batch: int) -> list[Line]:
    """Return what four SQLite agents do to each other."""
    four = _name(batch, 4)
    what = f"SQLite, batch {batch}, 4 agents"
    worst, uneven = Series(tuple(crews.worst[four])), Series(tuple(crews.uneven[four]))
    return [
        against(2, what, "files/s", found[four], ("one agent", found[_name(batch, 1)]), "≥", 0.6),
        within(2, f"{what}, worst claim", "s", worst, WORST_CLAIM),
        within(2, f"{what}, largest deviation from an equal share", "of the share", uneven, SHARES),
    ]


def _name(batch: int, workers: int) -> str:
    return f"batch {batch}, {workers}"


def _postgres(bench: Bench, batch: int) -> list[Line]:
    """Return our workers against pgqueuer's, and against procrastinate's at batch 1, which is all it can."""
    lines = []
    for workers in bench.size((1, 4), (4,), (4,)):
        subjects: dict[str, Callable[[], float]] = {
            "ours": partial(drain, bench, "PostgreSQL", batch, workers, lambda _: None)
        }
        if bench.level != "tiny":
            jobs = files_for(bench, batch)
            subjects["pgqueuer"] = partial(peer, bench, "pgqueuer", jobs, batch, workers)
            if batch == 1:
                subjects["procrastinate"] = partial(peer, bench, "procrastinate", jobs, 1, workers)
        found = in_turn(subjects, bench.repeats)
        what = f"PostgreSQL, batch {batch}, {workers} worker{'s' if workers > 1 else ''}"
        for name, series in list(found.items())[1:]:
            target = 3.0 if name == "procrastinate" else _PGQUEUER.get(batch)
            lines.append(
                against(2, what, "files/s", found["ours"], (name, series), "≥", target if workers > 1 else None)
            )
    return lines


def _finished(bench: Bench, backend: str, crews: Sequence[int]) -> list[Line]:
    """Return the rate beside many finished rows against the rate in an empty database."""
    files = files_for(bench, 100)
    finished = bench.size(FINISHED, FINISHED // 10, 2000)
    lines = []
    with ExitStack() as stack:
        full = stack.enter_context(bench.database(backend))
        fill_finished(full, finished)
        for workers in crews:
            empty = partial(drain, bench, backend, 100, workers, lambda _: None)
            beside = partial(drain_again, full, files, 100, workers)
            found = in_turn({"beside": beside, "empty": empty}, bench.repeats)
            what = f"{backend}, batch 100, {workers} worker{'s' if workers > 1 else ''}, {finished:,} finished rows"
            lines.append(against(2, what, "files/s", found["beside"], ("empty tables", found["empty"]), "≥", 0.9))
    return lines
