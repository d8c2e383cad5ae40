"""Small files that land together: written one by one, made durable and named together."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress

from dtscore import linux
from dtscore.errors import DtsError
from dtsnet.arriving import Description
from dtsnet.incoming import give_name, temporary_name
from dtsnet.reasons import storage_error
from dtsnet.sandbox import Sandbox
from dtsnet.sums import combine, sum_of

_MANY = 16
"""From so many files on, one flush of the whole file system is cheaper than one for each file."""


class SmallFile:
    """One of them, and what went wrong with it."""

    def __init__(self, description: Description, content: memoryview) -> None:
        """Begin with nothing written."""
        self.description = description
        self.content = content
        self.error: DtsError | None = None
        self.folder = self.descriptor = -1
        self.temporary = ""
        self.checksums = combine([sum_of(content, 0)] if content else [])

    def attempt(self, step: Callable[[SmallFile], object]) -> None:
        """Take a step, unless an earlier one went wrong."""
        if self.error is not None:
            return
        try:
            step(self)
        except DtsError as error:
            self.error = error
        except OSError as error:
            self.error = storage_error(error, self.description.path)


class Batch:
    """Several small files below a sandbox, taken through the steps of landing."""

    def __init__(self, sandbox: Sandbox, files: Sequence[tuple[Description, memoryview]]) -> None:
        """Begin with no step taken."""
        self.files = [SmallFile(description, content) for description, content in files]
        self._sandbox = sandbox
        self._folders: dict[str, int] = {}

    def write(self, small: SmallFile) -> None:
        """Write a file under a name that nobody else has; a folder is made at once."""
        description = small.description
        if description.folder:
            os.close(self._sandbox.folder(description.path, make=True))
            return
        above, _, name = description.path.rpartition("/")
        if above not in self._folders:
            self._folders[above] = self._sandbox.folder(above, make=True)
        small.folder = self._folders[above]
        temporary = temporary_name(name, secrets.token_hex(16))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        small.descriptor = os.open(temporary, flags, 0o640, dir_fd=small.folder)
        small.temporary = temporary
        done = 0
        while done < len(small.content):
            done += os.write(small.descriptor, small.content[done:])

    def flush(self) -> None:
        """Make the bytes of all files durable."""
        written = [small for small in self.files if small.error is None and small.descriptor >= 0]
        if len(written) >= _MANY and linux.syncs_whole(written[0].descriptor):
            try:
                linux.sync_file_system(written[0].descriptor)
            except OSError as error:
                for small in written:
                    small.error = storage_error(error, small.description.path)
            return
        for small in written:
            small.attempt(lambda one: os.fsync(one.descriptor))

    @staticmethod
    def give_name(small: SmallFile) -> None:
        """Give a durable file its final name."""
        if small.descriptor < 0:
            return
        name = small.description.path.rpartition("/")[2]
        give_name(small.folder, small.temporary, name, small.description, small.checksums)
        small.temporary = ""

    def flush_folders(self) -> None:
        """Make the names durable."""
        for folder in self._folders.values():
            try:
                os.fsync(folder)
            except OSError as error:
                for small in self.files:
                    if small.folder == folder:
                        small.error = small.error or storage_error(error, small.description.path)

    def close(self) -> None:
        """Let go of everything, and throw away what has not got its name."""
        for small in self.files:
            if small.temporary:
                with suppress(OSError):
                    os.unlink(small.temporary, dir_fd=small.folder)
            if small.descriptor >= 0:
                os.close(small.descriptor)
        for folder in self._folders.values():
            os.close(folder)
