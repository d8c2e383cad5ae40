"""A folder as the place where received files go: temporary names, group commit of small files, no overwriting.

Nothing has its final name before it is verified and durable. What has the name already is never touched unless the
sender was told to overwrite: the same bytes count as landed, other bytes refuse the file.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Sequence

from dtscore.errors import DtsError, NameRefusedError
from dtscore.names import check_pfn
from dtsnet.arriving import Description, Standing
from dtsnet.batch import Batch, SmallFile
from dtsnet.incoming import IncomingFile, Landed, is_temporary, standing
from dtsnet.sandbox import Sandbox


class FolderTarget:
    """Lands files below a sandbox."""

    def __init__(
        self, sandbox: Sandbox, *, admit: Callable[[Description], None] | None = None, landed: Landed | None = None
    ) -> None:
        """`admit` raises DtsError for a file that is not wanted, before it leaves a trace; `landed` hears of each file.

        `landed` is told the checksums by algorithm, when the file is durable and before the sender knows.
        """
        self._sandbox = sandbox
        self._admit = admit
        self._landed = landed

    def _check(self, description: Description) -> tuple[str, str]:
        """Return folder and name of a file that may come; raises DtsError."""
        check_pfn(description.path)
        above, _, name = description.path.rpartition("/")
        if is_temporary(name):
            raise NameRefusedError(f"{description.path!r} is the name of a file on its way", "rename it")
        if self._admit is not None:
            self._admit(description)
        return above, name

    def standing(self, description: Description) -> Standing | None:
        """Return what has this name, made durable; None where it is free or will be replaced in any case.

        Raises DtsError and OSError.
        """
        above, name = self._check(description)
        try:
            folder = self._sandbox.folder(above)
        except FileNotFoundError:
            return None
        try:
            return standing(folder, name, description)
        finally:
            os.close(folder)

    def accept(self, description: Description, there: Standing) -> None:
        """Count what has this name as landed: the sender says that it is the same."""
        if self._landed is not None:
            self._landed(description, there.checksums)

    def begin(self, description: Description) -> IncomingFile:
        """Open the temporary file that belongs to this file at the source, new or left from before.

        Raises DtsError and OSError.
        """
        above, name = self._check(description)
        return IncomingFile(self._sandbox.folder(above, make=True), name, description, self._landed)

    def land(self, files: Sequence[tuple[Description, memoryview]]) -> list[DtsError | None]:
        """Write all, make all durable, give all their names, and make these durable; return for each why not."""
        batch = Batch(self._sandbox, files)
        try:
            for small in batch.files:
                small.attempt(lambda one: self._check(one.description))
                small.attempt(batch.write)
            batch.flush()
            for small in batch.files:
                small.attempt(batch.give_name)
            batch.flush_folders()
            for small in batch.files:
                small.attempt(self._tell)
        finally:
            batch.close()
        return [small.error for small in batch.files]

    def _tell(self, small: SmallFile) -> None:
        if self._landed is not None:
            self._landed(small.description, small.checksums)


def sweep(sandbox: Sandbox, older_than: float) -> int:
    """Remove what broken-off transfers have left below a sandbox and nobody wrote to for `older_than` seconds.

    Returns how many files were removed. One that is being received just now is left alone. Raises OSError.
    """
    removed = 0
    root = sandbox.folder("")
    try:
        for _, _, names, folder in os.fwalk(".", dir_fd=root):
            for name in filter(is_temporary, names):
                removed += _remove_stale(folder, name, time.time() - older_than)
    finally:
        os.close(root)
    return removed


def _remove_stale(folder: int, name: str, before: float) -> bool:
    """Remove one file unless it is newer, or in use: whoever receives it has locked the file that a journal is of."""
    try:
        descriptor = os.open(name.removesuffix(".journal"), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        descriptor = -1
    try:
        if descriptor >= 0:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime > before:
            return False
        os.unlink(name, dir_fd=folder)
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return True
