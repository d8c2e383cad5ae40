"""The `dts` element: a folder of any site that runs the daemon, reached by its calls and striped data connections."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dtscore.errors import (
    ConfigurationError,
    DeadlinePassedError,
    DestinationDiffersError,
    DtsError,
    ElementUnavailableError,
    LeaseLostError,
    NameRefusedError,
    OutOfTimeError,
    ProtocolError,
    StorageFaultError,
    StreamLostError,
    UsageError,
    WorkCancelledError,
    WorkError,
)
from dtscore.names import check_pfn
from dtscore.units import parse_duration, parse_size
from dtsnet.carriage import CarryOptions, SessionOverError, fields
from dtsnet.fetching import Reception
from dtsnet.loop import Found, Guard, copy, digest
from dtsnet.reach import channel_of
from dtsnet.rpc import Address, Remote, read_key
from storage.dts_stream import FIRST, DtsReader
from storage.dts_writer import DtsWriter
from storage.element import (
    Digest,
    FileStat,
    NameTakenError,
    Promises,
    StorageElement,
    Tick,
    check_trash,
    in_trash,
)
from storage.served import heard, told

INTERRUPTIONS = (WorkCancelledError, LeaseLostError, OutOfTimeError, DeadlinePassedError)
"""What a guard raises: it is not the element's."""

_LISTED = 2000
_READ_BACK = "xxh3-128"


class DtsElement(StorageElement):
    """A folder below the root of a site's daemon."""

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "remote": "the site, a section [remote NAME] that says where its daemon is and who we are there",
        "folder": "the folder below the daemon's root that all paths are relative to (default: the root)",
        "mode": "push (default: the daemon there listens) or give (we listen, it connects to us)",
        "streams": "data connections of one file (default 0: tuned to the path)",
        "rate": "bytes a second at most, for each file (default 0: any)",
        "patience": "for so long a transfer waits for a daemon that was restarted or cut off (default 30 s)",
        "third": "yes (default): between two dts elements the one site sends to the other; no: all goes through here",
        "url": "where the daemon is, https://HOST:7740/RPC2, if no section says so; remote is then only its name",
        "user": "with url: who we are there",
        "secret_file": "with url: file of mode 0600 with our secret there",
        "ca_file": "with url: certificates that are trusted there (default: the system's)",
        "certificate_file": "with url: our client certificate, instead of a secret",
        "key_file": "with url: private key of our client certificate",
        "timeout": "with url: how long a call there may take (default 60 s)",
        "trash": "name of the folder below the folder that takes removed files (default .trash)",
        "node": "the host that alone can reach the daemon (default: any host can)",
    }

    promises = Promises(
        refuses_overwrite="The daemon publishes with renameat2(RENAME_NOREPLACE), or link(2) without that.",
        atomic_publish="Publishing is one rename within a folder there.",
        durable="The file, its folder and all new folders above are fsynced there before the daemon answers.",
        trash="Removed files are renamed into the trash folder.",
    )

    def __init__(
        self, name: str, remote: Remote, *, site: str = "", folder: str = "", carry: CarryOptions | None = None,
        third: bool = True, trash: str = ".trash", node: str = "",
    ) -> None:  # fmt: skip
        """Keep the daemon; `site` is what other sites call it. Nothing is connected yet."""
        super().__init__(name, "dts", node)
        self.remote = remote
        self.site = site
        self.third = third
        self.listens = False
        self.carry = carry or CarryOptions(patience=30.0)
        self.idle = self.carry.idle
        self.trash = check_trash(trash)
        self._folder = check_pfn(folder) if folder else ""

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, str]) -> DtsElement:
        """Make the element from its settings, or raise ConfigurationError."""
        place = f"[se.{name}]"
        if not options.get("url"):
            raise ConfigurationError(f"{place} remote is not set", f"remote: {cls.OPTIONS['remote']}")
        try:
            made = cls(
                name, Remote(_address(place, options)), site=options.get("remote", ""),
                folder=options.get("folder", "").strip("/"), carry=_carry(options),
                third=_choice(place, options, "third", ("yes", "no")) == "yes",
                trash=options.get("trash", ".trash"), node=options.get("node", ""),
            )  # fmt: skip
        except UsageError as error:
            raise ConfigurationError(f"{place}: {error.message}", error.hint) from error
        made.listens = _choice(place, options, "mode", ("push", "give")) == "give"
        return made

    # calls

    def full(self, path: str) -> str:
        """Return a path as the daemon knows it."""
        return f"{self._folder}/{check_pfn(path)}" if self._folder else check_pfn(path)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call the daemon; its errors are told as this element's."""
        try:
            return self.remote.call(method, *arguments)
        except DtsError as error:
            raise self.mapped(error) from error

    def mapped(self, error: DtsError) -> DtsError:
        """Return an error of the daemon, or of the way to it, as this element's."""
        named = isinstance(error, WorkError) and error.element
        if named or isinstance(error, (*INTERRUPTIONS, NameRefusedError)):
            return error
        message = f"element {self.name!r}: {error.message}"
        if isinstance(error, DestinationDiffersError):
            return NameTakenError(message, error.hint, element=self.name)
        if isinstance(error, WorkError):
            return type(error)(message, error.hint, element=self.name, scope=error.scope)
        kind = ElementUnavailableError if isinstance(error, (StreamLostError, SessionOverError)) else StorageFaultError
        return kind(message, error.hint or "see the daemon there", element=self.name)

    def find(self, path: str) -> FileStat | None:
        """Return the stat of a regular file, None if there is none."""
        found = self.call("seFind", self.full(path))
        return heard(found) if found else None

    def stat(self, path: str) -> FileStat:
        """Return the size and time of a regular file."""
        return self.read_some(path, 0, 0)[1]

    def read_some(self, path: str, offset: int, length: int) -> tuple[bytes, FileStat]:
        """Return some bytes of a file, and what is known of it."""
        found = fields(self.call("seRead", self.full(path), offset, length))
        data = found.get("data")
        if not isinstance(data, bytes):
            raise ProtocolError("a daemon reads something that is not bytes", "same version of DTS?")
        return data, heard(found)

    def open(self, path: str) -> DtsReader:
        """Open a regular file for reading; its beginning comes at once."""
        return DtsReader(self, path, *self.read_some(path, 0, FIRST))

    def create(self, path: str, size: int | None = None) -> DtsWriter:
        """Prepare a new file; it appears, whole, by the writer's `sync`."""
        full = self.full(path)
        if self.find(path) is not None:
            what = f"element {self.name!r}: {path!r} exists already"
            raise NameTakenError(what, "another file has this name", element=self.name)
        return DtsWriter(self, path, full, size or 0)

    def publish(self, temporary: str, final: str, *, replace: bool) -> None:
        """Rename there, durably."""
        self.call("sePublish", self.full(temporary), self.full(final), replace)

    def swap(self, temporary: str, final: str, seen: FileStat) -> None:
        """Exchange the two names there if the final one is still the file that was seen."""
        self.call("seSwap", self.full(temporary), self.full(final), told(seen))

    def harden(self, path: str) -> None:
        """Fsync the file and its folder there."""
        self.call("seHarden", self.full(path))

    def remove(self, path: str) -> None:
        """Remove a file there, durably."""
        self.call("seRemove", self.full(path))

    def move(self, path: str, target: str) -> None:
        """Rename a file there to a name that is free."""
        self.call("seMove", self.full(path), self.full(target))

    def to_trash(self, path: str, label: str) -> str:
        """Rename to `<trash>/<label>/<base name>`."""
        goal = self.trash_path(path, label)
        self.move(path, goal)
        return goal

    def purge(self, trash_path: str) -> None:
        """Remove a file of the trash and, when it was the last, its label's folder."""
        if not in_trash(self.trash, trash_path):
            raise NameRefusedError(f"{trash_path!r} is not in the trash of {self.name!r}", "purge only trash paths")
        self.call("sePurge", self.full(trash_path))

    def restore(self, trash_path: str, path: str) -> None:
        """Rename back, without replacing anything."""
        self.move(trash_path, path)

    def walk(self, folder: str = "") -> Iterator[tuple[str, FileStat]]:
        """Yield the regular files below a folder."""
        waiting = [check_pfn(folder) if folder else ""]
        while waiting:
            place = waiting.pop()
            for name, status in self._list(place):
                path = f"{place}/{name}" if place else name
                if status is not None:
                    yield path, status
                elif path != self.trash:
                    waiting.append(path)

    def _list(self, folder: str) -> Iterator[tuple[str, FileStat | None]]:
        full = self.full(folder) if folder else self._folder
        after = ""
        while entries := self.call("seList", full, after, _LISTED):
            for name, status in entries:
                yield name, heard(status) if status else None
            if len(entries) < _LISTED:
                return
            after = entries[-1][0]

    def free(self) -> int:
        """Return the bytes free there."""
        return int(self.call("seFree"))

    # bytes

    def digests_with(self, size: int) -> str:
        """Return the algorithm by which the daemon reads files again."""
        return _READ_BACK

    def digest_there(self, path: str, algorithm: str, tick: Tick | None = None) -> Digest:
        """Have the daemon read the file from its disk and digest it."""
        return self.digest_by(path, (algorithm,), (lambda: tick(0)) if tick else lambda: None, fresh=True)

    def digest_by(self, path: str, algorithms: tuple[str, ...], guard: Guard, *, fresh: bool = False) -> Digest:
        """Have the daemon digest a file; `guard` is called while it does."""
        return self._found(lambda: digest(self.remote, self.full(path), algorithms, guard, fresh=fresh))

    def copy_there(self, source: str, target: str, algorithms: Sequence[str], guard: Guard) -> Digest:
        """Have the daemon copy a file of its own, by its names for both; return the digest of what it read."""
        return self._found(lambda: copy(self.remote, source, target, algorithms, guard))

    def _found(self, ask: Callable[[], Found]) -> Digest:
        try:
            found = ask()
        except DtsError as error:
            raise self.mapped(error) from error
        return Digest(found.size, dict(found.checksums))

    def pull_into(self, reception: Reception, path: str) -> tuple[int, str]:
        """Have the daemon send a file to connections of ours; return the transfer's number and session."""
        streams, rate = self.carry.streams, float(self.carry.rate)
        origin = secrets.token_hex(16)
        offer = fields(self.call("xferPull", self.full(path), "file", streams, rate, True, origin))
        reception.come(channel_of(self.remote, offer, self.carry).connect, offer["most"])
        return offer["number"], offer["session"]

    def end_transfer(self, number: int, session: str) -> dict[str, Any]:
        """Return the daemon's last word on a transfer."""
        return fields(self.call("endTransfer", number, session))

    def forget(self, number: int, session: str) -> None:
        """Have a transfer of ours ended there that nobody reads any more; never raises."""
        try:
            self.remote.call("cancelTransfer", number)
        except DtsError:
            return  # it ends by itself when nobody comes

    def close(self) -> None:
        """Close the connections of calls."""
        self.remote.close()


def _address(place: str, options: Mapping[str, str]) -> Address:
    def path(key: str) -> Path | None:
        return Path(options[key]) if options.get(key) else None

    user, secret = options.get("user", ""), path("secret_file")
    return Address(
        options["url"], user, read_key(secret, f"{place} {user}") if secret else b"", path("ca_file"),
        path("certificate_file"), path("key_file"), parse_duration(options.get("timeout", "60 s")),
    )  # fmt: skip


def _carry(options: Mapping[str, str]) -> CarryOptions:
    streams = options.get("streams", "0").strip()
    if not streams.isdigit() or int(streams) > 64:
        raise UsageError(f"streams: {streams!r} is not a number of at most 64", "0 lets DTS choose")
    return CarryOptions(
        streams=int(streams), rate=float(parse_size(options.get("rate", "0"))),
        patience=parse_duration(options.get("patience", "30 s")),
    )  # fmt: skip


def _choice(place: str, options: Mapping[str, str], key: str, words: tuple[str, ...]) -> str:
    value = options.get(key, words[0])
    if value not in words:
        raise ConfigurationError(f"{place} {key}: {value!r} is not allowed", f"write {' or '.join(words)}")
    return value
