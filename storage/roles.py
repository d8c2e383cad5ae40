"""Whose an error is that was met between a source and a target."""

from __future__ import annotations

from types import TracebackType

from dtscore.errors import FileMissingError, Scope, StorageFaultError, WorkError


class Role:
    """Marks errors of the block as the source's or the target's."""

    __slots__ = ("_scope",)

    def __init__(self, scope: Scope) -> None:
        """Keep whose the errors are."""
        self._scope = scope

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, WorkError):
            return
        if self._scope is Scope.TARGET and isinstance(error, FileMissingError):
            raise vanished(error) from error
        error.scope = self._scope


AT_SOURCE, AT_TARGET = Role(Scope.SOURCE), Role(Scope.TARGET)


def vanished(error: FileMissingError) -> StorageFaultError:
    """Return what it means that a name vanished at the target: a fault to try again, not a missing source."""
    hint = "somebody else removes files or folders on this element"
    return StorageFaultError(error.message, hint, element=error.element, scope=Scope.TARGET)
