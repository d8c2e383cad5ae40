"""All verbs of dtsh: its own, and the methods of dtsd's table, which are read only when a verb is none of its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from dtsd import dtsh_local
from dtsd.dtsh_verb import Verb


@cache
def _own() -> dict[str, Verb]:
    from dtsd import dtsh_moving, dtsh_remote

    return {verb.name: verb for verb in (*dtsh_moving.VERBS, *dtsh_remote.VERBS, *dtsh_local.VERBS)}


@cache
def _methods() -> dict[str, Verb]:
    from dtsd.dtsh_remote import verb_of
    from dtsd.methods import METHODS

    return {method.name: verb_of(method) for method in METHODS if method.name not in _own()}


def find(name: str) -> Verb | None:
    """Return the verb of that name, a method's in any mix of small and capital letters; None where there is none."""
    own = _own().get(name)
    if own is not None:
        return own
    every = (*_methods().values(), *_own().values())
    return _methods().get(name) or next((one for one in every if one.name.lower() == name.lower()), None)


def names() -> list[str]:
    """Return the names of all verbs."""
    return sorted((*_own(), *_methods()))


def sections() -> Iterator[tuple[str, list[Verb]]]:
    """Give the verbs by subject, each with its title."""
    from dtsd import dtsh_moving, dtsh_remote

    yield "Moving files", list(dtsh_moving.VERBS)
    yield "Looking at a site", list(dtsh_remote.VERBS)
    yield "The shell", list(dtsh_local.VERBS)
    yield "Methods of a site's dtsd, under their own names", sorted(_methods().values(), key=lambda one: one.name)
