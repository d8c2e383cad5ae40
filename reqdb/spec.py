"""What a user asks for: the content of a request, before and apart from its rows in the database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

TRANSFER = "transfer"
REGISTER = "register"
REMOVE = "remove"
VERIFY = "verify"
BUILD = "build"
DELIVER = "deliver"
FORWARD = "forward"
BRANCHES = (DELIVER, FORWARD)
"""What follows one copy of a file alone, and not its copies on all targets."""

LOWEST_PRIORITY = 0
DEFAULT_PRIORITY = 5
HIGHEST_PRIORITY = 9

LONGEST_WORDS = 255
"""Characters of a name or an owner at most."""


@dataclass(frozen=True, slots=True)
class OperationType:
    """What the request file may say about one kind of operation; the agent of the same name does it.

    `source` and `target` say whether the attribute is "required", "optional" or "refused"; `options` are the further
    attributes with their allowed words (an empty tuple: any word, checked elsewhere). The targets of a forward are
    queues, `REMOTE:QUEUE` of another site or `:QUEUE` of this one; those of all others are storage elements.
    """

    name: str
    source: str
    target: str
    options: Mapping[str, tuple[str, ...]]


_YES_NO = ("yes", "no")

BUILD_NUMBERS = ("exposure", "version", "assignment")
"""What a build operation says of its one file, all of them whole numbers: which version of which exposure, for whom."""

OPERATION_TYPES: Mapping[str, OperationType] = {
    kind.name: kind
    for kind in (
        OperationType(
            TRANSFER, "optional", "required", {"checksum": (), "overwrite": _YES_NO, "unmodified-since": ()}
        ),
        OperationType(REGISTER, "refused", "required", {"checksum": ()}),
        OperationType(REMOVE, "refused", "optional", {"everywhere": _YES_NO, "remove-last-copy": _YES_NO}),
        OperationType(VERIFY, "refused", "optional", {}),
        OperationType(DELIVER, "refused", "required", {"delivery": (), "folder": (), "remove-last-copy": _YES_NO}),
        OperationType(FORWARD, "optional", "required", {}),
        OperationType(BUILD, "refused", "required", dict.fromkeys(BUILD_NUMBERS, ())),
    )
}
"""All operations a request may hold. `checksum` names the algorithm to compute (`checksum="xxh3-128"`).

`unmodified-since` is a moment: a source that was written to after it is not sent.
"""


@dataclass(frozen=True, slots=True)
class FileSpec:
    """One file of an operation; `line` is where the request file says it (0: nowhere), and is not part of its identity.

    `checksum` is canonical, `algorithm:hex`; `size` is in bytes; `pfn` is relative to the root of the source
    (transfer) or of the target (register, remove, verify) and None where it follows from the LFN.
    """

    lfn: str
    pfn: str | None = None
    size: int | None = None
    checksum: str | None = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class OperationSpec:
    """One step of a request; `options` holds the further attributes as written (`overwrite`, `checksum`, …)."""

    type: str
    files: tuple[FileSpec, ...]
    source: str | None = None
    targets: tuple[str, ...] = ()
    node: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    line: int = field(default=0, compare=False)

    def option(self, name: str, default: str = "") -> str:
        """Return the further attribute `name`, or the default."""
        return dict(self.options).get(name, default)


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """What a user submits: an ordered list of operations with an owner and a priority (0 lowest to 9 highest).

    Its operations wait while its `queue` is paused or stopped.
    """

    operations: tuple[OperationSpec, ...]
    name: str | None = None
    owner: str | None = None
    priority: int = DEFAULT_PRIORITY
    not_before: datetime | None = None
    deadline: datetime | None = None
    queue: str | None = None

    def digest(self) -> str:
        """Return a SHA-256 over the whole content but the name, so that a second submission is known again."""
        summer = hashlib.sha256()
        for part in self._parts():
            raw = part.encode()
            summer.update(b"%d:" % len(raw) + raw)
        return summer.hexdigest()

    def _parts(self) -> Iterator[str]:
        yield from (str(v) for v in (self.owner, self.priority, self.not_before, self.deadline))
        if self.queue is not None:
            yield from ("queue", self.queue)
        for operation in self.operations:
            yield from ("operation", operation.type, str(operation.source), " ".join(operation.targets))
            yield from (str(operation.node), repr(sorted(operation.options)))
            for file in operation.files:
                yield from (file.lfn, str(file.pfn), str(file.size), str(file.checksum))
