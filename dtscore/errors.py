"""The one error tree of DTS.

DtsError
├── UsageError                 2   the command or its input is wrong
│   ├── RequestFileError       2   a request file is refused; says file, line, found and expected
│   └── NameRefusedError       2   a logical or physical file name is refused
├── ConfigurationError        78   the configuration is wrong; says file, section and key
├── NotFoundError              4   an id or a logical file name does not exist
├── StateError                 6   not allowed in this state
├── DatabaseUnavailableError   5   the database cannot be reached just now
├── ProtocolError              1   the other side speaks another language, or the path damages what it carries
├── StreamLostError            5   a connection broke; what was not confirmed is sent again
└── WorkError                      an attempt at one file ended badly; carries class, scope, permanence
    ├── temporary              5   ElementUnavailable, ElementFull, ElementReadOnly, SourceChanged,
    │                              TransferCorrupted, StorageFault, OutOfTime, DeliveryFailed
    ├── permanent              1   FileMissing, PermissionRefused, ChecksumMismatch, SizeMismatch,
    │                              DestinationDiffers, Credentials, HostKey, Unsupported, LastCopy,
    │                              CatalogConflict, NoGoodSource, FramesMissing, StaleAssignment,
    │                              ChangedSinceQueued
    └── interrupted            1   WorkCancelled, LeaseLost, DeadlinePassed

Every error carries a message (what, where), a hint (what to do next) and an exit code.
"""

from __future__ import annotations

from enum import Enum


class DtsError(Exception):
    """The root of all errors that DTS raises on purpose."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        """Keep the message (what and where) and the hint (what to do)."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DtsError):
    """The command line or its input is wrong."""

    exit_code = 2


class RequestFileError(UsageError):
    """A request file is refused as a whole; the message names file, line, what was found and what was expected."""


class NameRefusedError(UsageError):
    """A logical or physical file name is refused."""


class ConfigurationError(DtsError):
    """The configuration is wrong; the message names file, section and key."""

    exit_code = 78


class NotFoundError(DtsError):
    """A request, a file or an entry of the catalog does not exist."""

    exit_code = 4


class StateError(DtsError):
    """The thing asked for is not allowed in the present state."""

    exit_code = 6


class DatabaseUnavailableError(DtsError):
    """The database cannot be reached or is busy for too long; try again."""

    exit_code = 5


class ProtocolError(DtsError):
    """What came over a connection is not what the protocol allows there."""


class StreamLostError(DtsError):
    """A connection broke, or nothing came on it for too long; connect again."""

    exit_code = 5


class Scope(str, Enum):
    """Where the cause of a failed attempt lies, after FTS3's error scopes."""

    SOURCE = "source"
    TARGET = "target"
    FILE = "file"


class WorkError(DtsError):
    """An attempt at one file ended badly.

    `error_class` is the stable word kept in the database and in accounting; `element` names the storage
    element at fault, where there is one. A permanent error is never tried again by itself. An outage
    (`outage = True`) is the storage element's and not the file's: it does not use up the file's attempts.
    """

    error_class = "error"
    permanent = False
    outage = False
    scope = Scope.FILE

    def __init__(self, message: str, hint: str = "", *, element: str = "", scope: Scope | None = None) -> None:
        """Keep the message and hint, the storage element at fault and, where it is known better, the scope."""
        super().__init__(message, hint)
        self.element = element
        if scope is not None:
            self.scope = scope
        self.exit_code = 1 if self.permanent else 5


class ElementUnavailableError(WorkError):
    """A storage element does not answer: refused, timed out, connection lost."""

    error_class = "unavailable"
    outage = True
    scope = Scope.TARGET


class ElementFullError(WorkError):
    """A storage element has no room or quota left."""

    error_class = "full"
    outage = True
    scope = Scope.TARGET


class ElementReadOnlyError(WorkError):
    """A storage element is mounted read-only."""

    error_class = "read-only"
    outage = True
    scope = Scope.TARGET


class SourceChangedError(WorkError):
    """The source grew, shrank or was rewritten while it was read."""

    error_class = "source-changed"
    scope = Scope.SOURCE


class ChangedSinceQueuedError(SourceChangedError):
    """The source was written to after the request for it was made; only a new request can send what it is now."""

    error_class = "changed-since-queued"
    permanent = True


class TransferCorruptedError(WorkError):
    """What was read back from the target differs from what was sent."""

    error_class = "corrupted"
    scope = Scope.TARGET


class StorageFaultError(WorkError):
    """The storage reported an input/output error (EIO, a failed fsync)."""

    error_class = "storage-fault"


class OutOfTimeError(WorkError):
    """One attempt took longer than its time-out allows."""

    error_class = "timeout"


class FileMissingError(WorkError):
    """The file does not exist on the storage element."""

    error_class = "missing"
    permanent = True
    scope = Scope.SOURCE


class PermissionRefusedError(WorkError):
    """The storage element refuses access to the file or folder."""

    error_class = "permission"
    permanent = True


class ChecksumMismatchError(WorkError):
    """The bytes of a file differ from the checksum that was declared for it."""

    error_class = "checksum"
    permanent = True
    scope = Scope.SOURCE


class SizeMismatchError(WorkError):
    """The size of a file differs from the size that was declared for it."""

    error_class = "size"
    permanent = True
    scope = Scope.SOURCE


class DestinationDiffersError(WorkError):
    """The destination already holds other bytes and the request does not say overwrite."""

    error_class = "destination-differs"
    permanent = True
    scope = Scope.TARGET


class CredentialsError(WorkError):
    """The storage element refuses our user, key or password."""

    error_class = "credentials"
    permanent = True


class HostKeyError(WorkError):
    """A server's host key is unknown or has changed."""

    error_class = "host-key"
    permanent = True


class UnsupportedError(WorkError):
    """The storage element cannot do what was asked."""

    error_class = "unsupported"
    permanent = True


class LastCopyError(WorkError):
    """Removing this replica would leave no other copy that is readable and right."""

    error_class = "last-copy"
    permanent = True


class CatalogConflictError(WorkError):
    """The catalog already holds other bytes under this logical file name."""

    error_class = "catalog-conflict"
    permanent = True


class NoGoodSourceError(WorkError):
    """The catalog knows no good replica to read from."""

    error_class = "no-source"
    permanent = True
    scope = Scope.SOURCE


class FramesMissingError(WorkError):
    """The shared memory no longer holds frames of an exposure that were received; the camera sends them again."""

    error_class = "frames-missing"
    permanent = True
    scope = Scope.SOURCE


class StaleAssignmentError(WorkError):
    """The exposure was given to another builder node, or this version of its file is not to be built any more."""

    error_class = "stale-assignment"
    permanent = True


class DeliveryFailedError(WorkError):
    """The program of a delivery did not take the file just now: it said so, was killed, or took too long."""

    error_class = "delivery-failed"


class DeliveryRejectedError(WorkError):
    """The program of a delivery refuses this file."""

    error_class = "delivery-rejected"
    permanent = True


class HandoverRefusedError(WorkError):
    """The next site, or another queue of this one, refuses this file."""

    error_class = "handover-refused"
    permanent = True


class WorkCancelledError(WorkError):
    """The request was cancelled while the file was being worked on."""

    error_class = "cancelled"
    permanent = True


class LeaseLostError(WorkError):
    """The lease ended while the work was going on; nothing may be published or committed."""

    error_class = "lease-lost"


class DeadlinePassedError(WorkError):
    """The request's deadline passed before the file was done."""

    error_class = "deadline"
    permanent = True
