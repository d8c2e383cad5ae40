"""Files of a `dts` element as they are written: sent from where they lie, or gathered first and then sent.

What is sent lies there under a name that only depends on the file, so that the next attempt goes on where the last one
was cut off; only when it is whole does it get the attempt's own temporary name.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Generic, TypeVar

import structlog

from dtscore.errors import (
    ConfigurationError,
    CredentialsError,
    DestinationDiffersError,
    DtsError,
    NotFoundError,
    StreamLostError,
)
from dtsnet.carriage import Carried
from dtsnet.carry import give, push, third
from dtsnet.outgoing import Outgoing
from storage.dts_stream import SMALL, DtsReader
from storage.element import Digest, FileStat, Reader
from storage.file import FileReader
from storage.pump import HEAD, Pump, Pumped
from storage.roles import AT_SOURCE, AT_TARGET

if TYPE_CHECKING:
    from storage.dts import DtsElement

_log = structlog.get_logger(__name__)
_TEMPORARY = re.compile(r"\.(.*)\.[A-Za-z0-9-]{1,64}\.part\Z")
_SENT = ("adler32", "crc32c")

T = TypeVar("T")


class DtsWriter:
    """A new file of a `dts` element."""

    def __init__(self, element: DtsElement, path: str, full: str, size: int) -> None:
        """Keep where it is to go; nothing is there before `sync` or `take`."""
        self._element = element
        self._path = path
        self._full = full
        self._small: bytearray | None = bytearray()
        self._large: IO[bytes] | None = None
        self._there = False

    def write(self, data: memoryview, /) -> None:
        """Gather the bytes: small files in memory, others in a temporary file of this host."""
        if self._small is not None and len(self._small) + len(data) > SMALL:
            self._large = tempfile.TemporaryFile(prefix="dts-")  # noqa: SIM115, it is closed by `close`
            self._large.write(self._small)
            self._small = None
        if self._large is not None:
            self._large.write(data)
        elif self._small is not None:
            self._small += data

    def clone(self, source: Reader) -> bool:
        """Not offered; `take` is."""
        return False

    def take(self, source: Reader, algorithms: Sequence[str], size: int, pump: Pump) -> Pumped | None:
        """Take a whole file from where it lies, without its bytes going through here one by one.

        From a file of this host the connections send straight from its descriptor; a file of another `dts` element is
        sent by its site. None where neither is possible, or does not pay.
        """
        if size <= SMALL:
            return None
        if isinstance(source, FileReader):
            return self._from_here(source, algorithms, size, pump)
        if isinstance(source, DtsReader):
            return self._from_site(source, algorithms, size, pump)
        return None

    def _from_here(self, source: FileReader, algorithms: Sequence[str], size: int, pump: Pump) -> Pumped:
        mine = tuple(name for name in algorithms if name not in _SENT)
        identity = source.stat()
        with Aside(lambda check: Pump(check, lambda _: None).hash(source, mine, size, close=False)) as hashing:
            carried = self._send(lambda: os.dup(source.descriptor), size, identity, pump)
            hashed = hashing.result()
        digest = Digest(carried.size, {**hashed.digest.checksums, **carried.checksums})
        return Pumped(digest, hashed.head)

    def _send(self, opener: Callable[[], int], size: int, seen: FileStat, pump: Pump) -> Carried:
        """Send a file under the name that depends on it alone, then give it the attempt's."""
        landing = self._landing(size, seen)
        full = self._element.full(landing)
        carry = give if self._element.listens else push
        moved = [0]

        def progress(count: int) -> None:
            moved[0] = count

        def once() -> Carried:
            options, one = self._element.carry, Outgoing(full, opener)
            guard, remote = (lambda: pump.tick(moved[0])), self._element.remote
            return carry(remote, lambda: (one,), full, options, guard=guard, progress=progress).one()

        try:
            carried = self._settled(once, landing)
        except DtsError as error:
            raise self._element.mapped(error) from error
        self._name(landing)
        return carried

    def _settled(self, once: Callable[[], Carried], landing: str) -> Carried:
        """Carry; where something else lies under the name that is only ours, it is thrown away, once."""
        try:
            return once()
        except DestinationDiffersError:
            self._element.remove(landing)
            return once()

    def _name(self, landing: str) -> None:
        with AT_TARGET:
            self._element.publish(landing, self._path, replace=False)
        self._there = True

    def _landing(self, size: int, seen: FileStat) -> str:
        """Return the name, a temporary one, under which any attempt at this very file sends it."""
        folder, slash, base = self._path.rpartition("/")
        match = _TEMPORARY.match(base)
        name = match[1] if match else base
        key = hashlib.sha256(f"{folder}\0{name}\0{size}\0{seen.identity}".encode()).hexdigest()[:24]
        cut = name.encode()[:160].decode(errors="ignore")
        return f"{folder}{slash}.{cut}.{key}.part"

    def _from_site(self, source: DtsReader, algorithms: Sequence[str], size: int, pump: Pump) -> Pumped | None:
        other, mine = source.element, self._element
        head = source.first[:HEAD]
        if other.remote.address.url == mine.remote.address.url:
            with AT_TARGET:
                return Pumped(self._copied(source, algorithms, pump), head)
        if not (mine.third and other.third and mine.site):
            return None
        with Aside(lambda check: other.digest_by(source.path, tuple(algorithms), check)) as digesting:
            carried = self._sent_by_site(source, size, pump)
            if carried is None:
                return None
            with AT_SOURCE:
                digest = digesting.result()
        return Pumped(digest, head)

    def _copied(self, source: DtsReader, algorithms: Sequence[str], pump: Pump) -> Digest:
        """Have the daemon copy a file of its own."""
        found = self._element.copy_there(source.element.full(source.path), self._full, algorithms, pump.tick)
        self._there = True
        return found

    def _sent_by_site(self, source: DtsReader, size: int, pump: Pump) -> Carried | None:
        """Have the source's site send to ours; None where it does not know ours, or is not let in there."""
        other, mine = source.element, self._element
        landing = self._landing(size, source.found)
        moved = [0]

        def progress(count: int) -> None:
            moved[0] = count

        def once() -> Carried:
            return third(
                other.remote, other.full(source.path), mine.site, mine.full(landing), mine.carry,
                mode="give" if mine.listens else "push", guard=lambda: pump.tick(moved[0]), progress=progress,
            ).one()  # fmt: skip

        try:
            carried = self._settled(once, landing)
        except (CredentialsError, ConfigurationError, NotFoundError) as error:
            _log.warning("one site cannot send to the other; the file goes through here", source=other.name,
                         target=mine.name, reason=error.message)  # fmt: skip
            return None
        except StreamLostError as error:  # on our way to the site that sends
            with AT_SOURCE:
                raise other.mapped(error) from error
        except DtsError as error:
            raise mine.mapped(error) from error
        self._name(landing)
        return carried

    def sync(self) -> None:
        """Send what was gathered; it is durable there when this returns."""
        if self._there:
            return
        if self._small is not None:
            self._element.call("seWrite", self._full, bytes(self._small))
        elif self._large is not None:
            large = self._large
            large.flush()
            status = os.fstat(large.fileno())
            seen = FileStat(status.st_size, None, (status.st_dev, status.st_ino, status.st_mtime_ns))
            self._send(lambda: os.dup(large.fileno()), status.st_size, seen, Pump(lambda: None, lambda _: None))
        self._there = True

    def close(self) -> None:
        """Let go of what was gathered."""
        if self._large is not None:
            with suppress(OSError):
                self._large.close()


class Aside(Generic[T]):
    """Work done in a thread beside the block of a `with`; it is told to stop where the block ends by an error."""

    def __init__(self, work: Callable[[Callable[[], None]], T]) -> None:
        """`work` gets a function that it calls now and then, and that raises when it is to stop."""
        self._work = work
        self._stop = threading.Event()
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="aside", daemon=True)

    def _run(self) -> None:
        try:
            self._result.append(self._work(self._check))
        except BaseException as error:  # whoever asks for the result gets it
            self._error = error

    def _check(self) -> None:
        if self._stop.is_set():
            raise InterruptedError("what it was for has failed")

    def result(self) -> T:
        """Wait for the result and return it; raises what the work raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result[0]

    def __enter__(self) -> Aside[T]:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._stop.set()
        self._thread.join()
