"""A launcher of agents that are broken on purpose: `python -m tests.torture.broken VARIANT`.

Each variant takes one promise out of DTS, in this process and its forks alone. A drill that does not notice proves
nothing, so each drill is run against its broken variant too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from agents import lease, outcome, replica_manager, runner
from agents.attempt import Achieved
from dtscore import database, linux
from dtsd.drills import launcher
from reqdb import finishing, turning
from reqdb.states import State
from storage import confined, direct, file, file_batch, landing
from storage.sftp import SftpElement


def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing where something must be done."""


def no_temporary_name() -> None:
    """Files are written straight under their final names, slowly."""

    def create(self: file.FileElement, path: str, size: int | None = None) -> file.FileWriter:
        with self._folder(path, "creating", make=True) as (folder, base):
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            return file.FileWriter(self.name, path, os.open(base, flags, 0o666, dir_fd=folder), size)

    def write(self: file.FileWriter, data: memoryview, /) -> None:
        half = len(data) // 2
        os.write(self.descriptor, data[:half])
        time.sleep(0.02)
        os.write(self.descriptor, data[half:])

    landing.temporary_path = lambda final, attempt: final
    file.FileElement.create = create  # type: ignore[method-assign]
    file.FileElement.publish = _nothing  # type: ignore[method-assign]
    file.FileWriter.write = write  # type: ignore[method-assign]


def no_temporary_name_there() -> None:
    """The same on a server, and nobody clears away what is cut off."""
    landing.temporary_path = lambda final, attempt: final
    landing.Landing._discard = _nothing  # type: ignore[method-assign]
    SftpElement.publish = _nothing  # type: ignore[method-assign]


def no_fsync() -> None:
    """Files and folders are not synced before they are acknowledged."""
    no_data_sync()
    no_folder_sync()


def no_data_sync() -> None:
    """The bytes of files are not synced, neither one by one nor together, nor by reading them past the cache."""
    file.sync_file = file_batch.sync_file = direct.sync_file = _nothing
    linux.sync_file_system = _nothing
    os.posix_fadvise = _nothing
    os.O_DIRECT = 0


def no_folder_sync() -> None:
    """The names of files are not synced."""
    confined.sync_folder = _nothing


def no_look_before_overwrite() -> None:
    """Whatever is at the destination by then is replaced."""
    file.FileElement.swap = lambda self, temporary, final, seen: self.publish(  # type: ignore[method-assign]
        temporary, final, replace=True
    )


def no_commit_sync() -> None:
    """SQLite acknowledges commits that are in memory only."""
    honest = database._sqlite_engine

    def engine(url: sa.URL, *, write: bool) -> sa.Engine:
        made = honest(url, write=write)
        sa.event.listen(made, "connect", lambda link, _: link.execute("PRAGMA synchronous=OFF"))
        return made

    database._sqlite_engine = engine


def no_remote_commit_sync() -> None:
    """PostgreSQL acknowledges commits that are in memory only."""
    honest = database._postgres_engine

    def engine(url: sa.URL) -> sa.Engine:
        made = honest(url)

        def forget(link: Any, _: Any) -> None:
            link.execute("SET synchronous_commit = off")
            link.commit()

        sa.event.listen(made, "connect", forget)
        return made

    database._postgres_engine = engine


def no_read_back() -> None:
    """What was written is not read again."""
    landing.Landing._read_back = _nothing  # type: ignore[method-assign]


def rename_before_verify() -> None:
    """The file stands under its final name before it was read back, by a rename of its own."""
    honest = landing.Landing._read_back

    def read_back(self: landing.Landing, temporary: str, sent: Any) -> None:
        final = self.job.target_path
        self.job.target.publish(temporary, final, replace=True)
        honest(self, final, sent)
        self.job.target.publish(final, temporary, replace=True)

    landing.Landing._read_back = read_back  # type: ignore[method-assign]


def no_declared_checksum() -> None:
    """The declared checksum is not compared."""
    landing.Landing._check_declared = _nothing  # type: ignore[method-assign]


def no_verification() -> None:
    """A verify operation does not read the file."""
    replica_manager.ReplicaManager.verify = lambda self, attempt: Achieved(1, None)  # type: ignore[method-assign]


def no_lease_check() -> None:
    """A worker does not ask whether its lease still holds before it publishes."""
    lease.Lease.check = _nothing  # type: ignore[method-assign]


def no_token() -> None:
    """Results are written whoever holds the file now, and whatever was written of it before."""
    no_lease_check()
    finishing._END_FILES._where = "(id > 0 OR :mine = 0)"
    finishing._ADD_ATTEMPTS = finishing.InsertRows(finishing.models.attempts, ())
    finishing._ADD_ATTEMPTS.run = _nothing  # type: ignore[method-assign]
    turning.Turn.take = (  # type: ignore[method-assign]
        lambda self, outcomes: finishing.take(self.connection, self.token, outcomes, self.now)
    )


def no_second_chance() -> None:
    """An outage of a storage element fails its files for good."""
    outcome._next_state = lambda policy, attempt, error: (State.FAILED, 0.0, True)


def no_watchdog() -> None:
    """The loop believes in its timer."""

    def run(self: runner.Loop) -> None:
        while not self.agent.draining:
            self.wake.wait()
            self.wake.clear()
            self._run_once()

    runner.Loop.run = run  # type: ignore[method-assign]


def no_look_at_the_clock() -> None:
    """A step of the clock ends leases."""
    runner.Keeper._watch_clock = _nothing  # type: ignore[method-assign]


VARIANTS: dict[str, Callable[[], None]] = {
    break_it.__name__.replace("_", "-"): break_it
    for break_it in (
        no_temporary_name, no_temporary_name_there, no_fsync, no_data_sync, no_folder_sync,
        no_look_before_overwrite, no_commit_sync, no_remote_commit_sync, no_read_back, rename_before_verify,
        no_declared_checksum, no_verification,
        no_lease_check, no_token, no_second_chance, no_watchdog, no_look_at_the_clock,
    )
}  # fmt: skip


def program(variant: str) -> tuple[str, ...]:
    """Return the command of a launcher whose agents are broken so."""
    return (sys.executable, "-m", "tests.torture.broken", variant)


if __name__ == "__main__":
    VARIANTS[sys.argv[1]]()
    launcher.serve()
