"""The `fsspec` element: whatever fsspec has an adapter for, S3 above all.

An object is visible only when its upload is complete. There is no rename, so a file lands under a temporary key, is
read back, and is then copied by the server to its final key; the copy too is visible only when it is complete.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import Any, ClassVar

import aiohttp
import fsspec
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError  # type: ignore[import-untyped]
from fsspec.exceptions import FSTimeoutError

from dtscore.errors import (
    ConfigurationError,
    CredentialsError,
    ElementUnavailableError,
    NameRefusedError,
    SourceChangedError,
    UnsupportedError,
    WorkError,
)
from dtscore.names import check_pfn
from storage.element import FileStat, NameTakenError, Promises, Reader, StorageElement, check_trash, in_trash
from storage.mapping import work_error
from storage.s3copy import copy_if_absent, error_code
from storage.secret_file import read_secret

_ERRORS = (OSError, BotoCoreError, ClientError, aiohttp.ClientError, FSTimeoutError, asyncio.TimeoutError)
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
_OWN_TYPE = {"file": "file", "local": "file", "sftp": "sftp", "ssh": "sftp"}
_SECRETS = {"key_file": "key", "secret_file": "secret", "token_file": "token", "password_file": "password"}
_FETCH = 8 << 20
_PART = 16 << 20
_MOST_PARTS = 9_000
_MOMENTS = ("LastModified", "last_modified", "modified", "mtime", "updated", "created")
_BAD_CREDENTIALS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"})


def _file_stat(info: Mapping[str, Any]) -> FileStat:
    moment = next((info[key] for key in _MOMENTS if info.get(key)), None)
    if isinstance(moment, (int, float)):
        moment = datetime.fromtimestamp(moment, timezone.utc)
    elif isinstance(moment, datetime) and moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return FileStat(int(info["size"]), moment if isinstance(moment, datetime) else None)


def fsspec_error(error: Exception, element: str, what: str) -> WorkError:
    """Return the error of our tree for one of fsspec's or of its adapters'."""
    message = f"element {element!r}: {what}: {error or type(error).__name__}"
    code = error_code(error)
    if code in _BAD_CREDENTIALS or isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return CredentialsError(message, "check key_file and secret_file", element=element)
    if code == "NoSuchBucket":
        return ElementUnavailableError(message, "make the bucket, or correct the url", element=element)
    unavailable = code in ("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout")
    network = (BotoCoreError, aiohttp.ClientError, FSTimeoutError, asyncio.TimeoutError)
    if unavailable or (isinstance(error, network) and not isinstance(error, (FileNotFoundError, PermissionError))):
        return ElementUnavailableError(message, f"is what [se.{element}] names up, and there?", element=element)
    return work_error(error, element, what)


@contextmanager
def _mapped(element: str, what: str) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        raise fsspec_error(error, element, what) from error


class ObjectReader:
    """An object read range by range; keeps no connection and no position but its own."""

    def __init__(self, element: FsspecElement, path: str, info: Mapping[str, Any]) -> None:
        """Remember what the object was when it was opened."""
        self._element = element
        self._path = path
        self._size = int(info["size"])
        self._tag = info.get("ETag")
        self._position = 0
        self._rest = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer as far as the object goes."""
        filled = 0
        while filled < len(buffer):
            if not self._rest and not self._fetch():
                break
            count = min(len(buffer) - filled, len(self._rest))
            buffer[filled : filled + count] = self._rest[:count]
            self._rest = self._rest[count:]
            filled += count
        return filled

    def _fetch(self) -> bool:
        end = min(self._position + _FETCH, self._size)
        if self._position >= end:
            return False
        self._rest = memoryview(self._element.fetch(self._path, self._position, end))
        self._position += len(self._rest)
        return bool(self._rest)

    def stat(self) -> FileStat:
        """Ask for size and time again; raises SourceChangedError if it is another object by now."""
        info = self._element.info(self._path)
        if info.get("ETag") != self._tag:
            message = f"element {self._element.name!r}: {self._path!r} was replaced while it was read"
            raise SourceChangedError(message, "submit files only when they are complete", element=self._element.name)
        return _file_stat(info)

    def close(self) -> None:
        """Nothing to let go of."""
        self._rest = memoryview(b"")


class ObjectWriter:
    """An object being uploaded; it is visible only after `sync`."""

    def __init__(self, element: str, path: str, file: Any) -> None:
        """Take over fsspec's open file."""
        self._element = element
        self._what = f"writing {path!r}"
        self._file = file
        self._done = False

    def write(self, data: memoryview, /) -> None:
        """Hand on the bytes; parts are uploaded as they fill."""
        with _mapped(self._element, self._what):
            self._file.write(data)

    def clone(self, source: Reader) -> bool:
        """Not offered."""
        return False

    def sync(self) -> None:
        """Complete the upload."""
        with _mapped(self._element, self._what):
            self._file.close()
        self._done = True

    def close(self) -> None:
        """Give up an upload that was not completed."""
        if self._done:
            return
        self._done = True
        with suppress(*_ERRORS):
            self._file.discard()
        with suppress(AttributeError):  # files in memory have no such flag to set
            self._file.closed = True  # or the garbage collector completes the upload


class FsspecElement(StorageElement):
    """A store behind an fsspec URL."""

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "url": "where the files lie, such as s3://bucket/folder or memory://name",
        "key_file": "file with the access key on its first line (mode 0600)",
        "secret_file": "file with the secret key on its first line (mode 0600)",
        "token_file": "file with the session token on its first line (mode 0600)",
        "password_file": "file with the password on its first line (mode 0600)",
        "trash": "name of the folder below the URL that takes removed files (default .trash)",
        "node": "the host that alone can reach this store (default: any host can)",
    }

    promises = Promises(
        refuses_overwrite="S3 publishes with If-None-Match, which AWS and MinIO honour; where it is not honoured, and "
        "on all other stores, it looks first and then copies: two publishers at the same instant may both succeed.",
        atomic_publish="An object is visible only when complete: the server copies the verified temporary one.",
        durable="As durable as the store makes an object before it confirms it.",
        trash="Removed files are copied by the server into the trash folder, then deleted: moved, but not in one step.",
    )

    def __init__(self, name: str, filesystem: Any, root: str, *, trash: str = ".trash", node: str = "") -> None:
        """Keep an fsspec file system and the path of the root in it."""
        protocol = filesystem.protocol if isinstance(filesystem.protocol, str) else filesystem.protocol[0]
        super().__init__(name, protocol, node)
        self._fs = filesystem
        self._root = root.rstrip("/")
        self.trash = check_trash(trash)
        self._publishing = threading.Lock()

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, str]) -> FsspecElement:
        """Make the element from its settings, or raise ConfigurationError."""
        place = f"[se.{name}]"
        url = options.get("url", "")
        protocol, separator, _ = url.partition("://")
        if not separator:
            raise ConfigurationError(f"{place} url: {url!r} is not a URL", "write it as s3://bucket/folder")
        if protocol in _OWN_TYPE:
            hint = f"type = {_OWN_TYPE[protocol]}"
            raise ConfigurationError(f"{place} url: {protocol}:// has a type of its own", hint)
        keywords = _storage_options(place, options)
        try:
            filesystem = fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False, **keywords)
        except (ValueError, ImportError, TypeError) as error:
            hint = "see fsspec's list of protocols and their options"
            raise ConfigurationError(f"{place} url: {error}", hint) from error
        root = filesystem._strip_protocol(url)
        return cls(name, filesystem, root, trash=options.get("trash", ".trash"), node=options.get("node", ""))

    def _full(self, path: str) -> str:
        return f"{self._root}/{check_pfn(path)}"

    def info(self, path: str) -> Mapping[str, Any]:
        """Return fsspec's information on a file; raises FileMissingError or UnsupportedError (a folder)."""
        with _mapped(self.name, f"looking at {path!r}"):
            info: Mapping[str, Any] = self._fs.info(self._full(path))
        if info.get("type") != "file":
            message = f"element {self.name!r}: {path!r} is not a file"
            raise UnsupportedError(message, "only regular files are moved", element=self.name)
        return info

    def fetch(self, path: str, start: int, end: int) -> bytes:
        """Return a range of bytes."""
        with _mapped(self.name, f"reading {path!r}"):
            data: bytes = self._fs.cat_file(self._full(path), start=start, end=end)
            return data

    def stat(self, path: str) -> FileStat:
        """Return the size and time of a file."""
        return _file_stat(self.info(path))

    def open(self, path: str) -> ObjectReader:
        """Open a file for reading."""
        return ObjectReader(self, path, self.info(path))

    def create(self, path: str, size: int | None = None) -> ObjectWriter:
        """Begin an upload; parts grow with the size, as a store takes 10,000 of them at most."""
        full = self._full(path)
        self._refuse_taken(path)
        with _mapped(self.name, f"creating {path!r}"):
            self._make_folder(full)
            return ObjectWriter(
                self.name, path, self._fs.open(full, "wb", block_size=max(_PART, (size or 0) // _MOST_PARTS))
            )

    def _make_folder(self, full: str) -> None:
        if self.protocol not in _OBJECT_STORES:  # those have no folders, and s3fs would make a bucket
            self._fs.makedirs(full.rpartition("/")[0], exist_ok=True)

    def _refuse_taken(self, path: str) -> None:
        if self.find(path) is not None:
            message = f"element {self.name!r}: {path!r} exists already"
            raise NameTakenError(message, "another file has this name", element=self.name)

    def publish(self, temporary: str, final: str, *, replace: bool) -> None:
        """Copy to the final name on the server, then remove the temporary one."""
        self._move(temporary, final, f"publishing {final!r}", replace=replace)

    def _move(self, old: str, new: str, what: str, *, replace: bool) -> None:
        source, goal = self._full(old), self._full(new)
        with self._publishing:  # threads of this process, at least, never race
            size = self.stat(old).size
            if not replace:
                self._refuse_taken(new)
            with _mapped(self.name, what):
                self._copy(source, goal, size, replace=replace)
        with _mapped(self.name, what):
            self._fs.rm_file(source)

    def _copy(self, source: str, goal: str, size: int, *, replace: bool) -> None:
        if self.protocol in ("s3", "s3a") and not replace:
            copy_if_absent(self._fs, source, goal, size)
            return
        self._make_folder(goal)
        self._fs.cp_file(source, goal)

    def remove(self, path: str) -> None:
        """Delete a file; looks first, as stores do not say that there was none."""
        self.stat(path)
        with _mapped(self.name, f"removing {path!r}"):
            self._fs.rm_file(self._full(path))

    def to_trash(self, path: str, label: str) -> str:
        """Move to `<trash>/<label>/<base name>`."""
        goal = self.trash_path(path, label)
        self._move(path, goal, f"taking away {path!r}", replace=False)
        return goal

    def purge(self, trash_path: str) -> None:
        """Delete a file of the trash."""
        if not in_trash(self.trash, trash_path):
            raise NameRefusedError(f"{trash_path!r} is not in the trash of {self.name!r}", "purge only trash paths")
        if self.find(trash_path) is not None:
            self.remove(trash_path)

    def restore(self, trash_path: str, path: str) -> None:
        """Move back, without replacing anything."""
        self._move(trash_path, path, f"bringing back {path!r}", replace=False)

    def walk(self, folder: str = "") -> Iterator[tuple[str, FileStat]]:
        """Yield the files below a folder."""
        top = self._full(folder) if folder else self._root
        with _mapped(self.name, f"listing {folder!r}"):
            found: dict[str, Mapping[str, Any]] = self._fs.find(top, detail=True)
        for full, info in found.items():
            path = full[len(self._root) + 1 :]
            if info.get("type") == "file" and full.startswith(top + "/") and not in_trash(self.trash, path):
                yield path, _file_stat(info)


def _storage_options(place: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Return the adapter's own options: `option_…` as JSON or text, and the secrets from their files."""
    keywords: dict[str, Any] = {}
    for key, text in options.items():
        if not key.startswith("option_"):
            continue
        word = key.removeprefix("option_")
        if word in _SECRETS.values():
            raise ConfigurationError(f"{place} {key}: secrets do not stand in settings", f"name a file: {word}_file")
        try:
            keywords[word] = json.loads(text)
        except ValueError:
            keywords[word] = text
    for key, word in _SECRETS.items():
        if options.get(key):
            keywords[word] = read_secret(options[key], f"{place} {key}")
    return keywords
