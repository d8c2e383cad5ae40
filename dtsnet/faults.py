"""Errors as the faults of XML-RPC and back: one literal table, the same at both ends."""

from __future__ import annotations

from dtscore import errors
from dtscore.errors import DtsError
from dtsnet.xmlrpc import Fault, clean

FAULTS: dict[int, type[DtsError]] = {
    1: errors.DtsError,
    2: errors.UsageError,
    3: errors.RequestFileError,
    4: errors.NameRefusedError,
    5: errors.ConfigurationError,
    6: errors.NotFoundError,
    7: errors.StateError,
    8: errors.DatabaseUnavailableError,
    9: errors.ProtocolError,
    10: errors.StreamLostError,
    20: errors.WorkError,
    21: errors.ElementUnavailableError,
    22: errors.ElementFullError,
    23: errors.ElementReadOnlyError,
    24: errors.SourceChangedError,
    25: errors.TransferCorruptedError,
    26: errors.StorageFaultError,
    27: errors.OutOfTimeError,
    28: errors.FileMissingError,
    29: errors.PermissionRefusedError,
    30: errors.ChecksumMismatchError,
    31: errors.SizeMismatchError,
    32: errors.DestinationDiffersError,
    33: errors.CredentialsError,
    34: errors.HostKeyError,
    35: errors.UnsupportedError,
    36: errors.LastCopyError,
    37: errors.CatalogConflictError,
    38: errors.NoGoodSourceError,
    39: errors.FramesMissingError,
    40: errors.StaleAssignmentError,
    41: errors.WorkCancelledError,
    42: errors.LeaseLostError,
    43: errors.DeadlinePassedError,
    44: errors.ChangedSinceQueuedError,
    45: errors.DeliveryFailedError,
    46: errors.DeliveryRejectedError,
    47: errors.HandoverRefusedError,
}
"""Fault code → class. A class that is not here travels as the nearest one above it; codes are never given anew."""

_CODES = {kind: code for code, kind in FAULTS.items()}
_HINT = "\nhint: "


def fault_of(error: DtsError) -> Fault:
    """Return an error as a fault: its message and, on a line of its own, its hint."""
    code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
    return Fault(code, clean(f"{error.message}{_HINT}{error.hint}" if error.hint else error.message))


def error_of(fault: Fault, where: str = "") -> DtsError:
    """Return the error that a fault tells of; `where` stands before its message."""
    message, _, hint = fault.text.partition(_HINT)
    kind = FAULTS.get(fault.code, DtsError)
    return kind(f"{where}: {message}" if where else message, hint)
