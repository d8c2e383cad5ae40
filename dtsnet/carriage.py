"""How a transfer is wished for, and how it went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dtscore import errors
from dtscore.errors import DtsError, NotFoundError, ProtocolError, WorkError
from dtsnet.outgoing import Sent


@dataclass(frozen=True, slots=True)
class CarryOptions:
    """Streams (0: self-tuned), bytes a second (0: any), whether names that are taken are replaced.

    `patience`: seconds without any progress after which it is given up. `host`: the address at which the other side
    reaches us when we listen ('': as our calls reach it), `port` (0: any). `tls`: whether data is encrypted where we
    listen (None: as the calls are).
    """

    streams: int = 4
    rate: float = 0.0
    overwrite: bool = False
    patience: float = 300.0
    idle: float = 60.0
    host: str = ""
    port: int = 0
    tls: bool | None = None


@dataclass(frozen=True, slots=True)
class Carried:
    """How one file ended: size and checksums where it landed, else the error.

    `resumed` bytes were there from an attempt before; `moved` is False where the whole file was there already.
    """

    path: str
    size: int
    checksums: Mapping[str, str]
    resumed: int = 0
    moved: bool = True
    error: DtsError | None = None


@dataclass(frozen=True, slots=True)
class Carriage:
    """How it all went: the files, bytes that went over connections, seconds, streams, sessions, tuning decisions."""

    files: tuple[Carried, ...]
    sent: int
    seconds: float
    streams: int
    sessions: int
    decisions: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.sent / self.seconds if self.seconds > 0 else 0.0

    def one(self) -> Carried:
        """Return the only file; raises its error where it did not land."""
        if len(self.files) != 1:
            raise ProtocolError(f"{len(self.files)} files came of one", "is it a folder?")
        if self.files[0].error is not None:
            raise self.files[0].error
        return self.files[0]


class SessionOverError(NotFoundError):
    """The other side does not know the transfer any more: it was restarted, or gave the transfer up."""


def fields(value: object) -> dict[str, Any]:
    """Return an answer that is a struct; raises ProtocolError."""
    if not isinstance(value, dict):
        raise ProtocolError("the daemon's answer is not a struct", "both sides must run the same version of DTS")
    return value


def carried_of(sent: Sent) -> Carried:
    """Return how a file ended from what the sender says."""
    error = error_of(sent.error_class, sent.message, sent.hint) if sent.error_class else None
    was_there = sent.size and sent.resumed >= sent.size
    return Carried(sent.path, sent.size, sent.checksums, sent.resumed, error is None and not was_there, error)


def carried_from(one: Mapping[str, Any]) -> Carried:
    """Return how a file ended from what a daemon says."""
    error = error_of(one["error"], one["message"], one["hint"]) if one["error"] else None
    resumed, moved = one.get("resumed", 0), one.get("moved", True)
    return Carried(one["path"], one["size"], one["checksums"], resumed, moved and error is None, error)


_BY_WORD: dict[str, type[DtsError]] = {
    **{
        kind.error_class: kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, WorkError)
    },
    **{kind.__name__: kind for kind in (errors.StateError, errors.NameRefusedError, errors.StreamLostError,
                                        errors.ProtocolError, errors.NotFoundError)},
    "source": errors.StorageFaultError,
    "storage": errors.StorageFaultError,
}  # fmt: skip


def error_of(word: str, message: str, hint: str) -> DtsError:
    """Return the error of our tree that a word of the other side stands for."""
    return _BY_WORD.get(word, WorkError)(message, hint)
