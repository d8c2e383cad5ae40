"""The doors of the catalog: what other rooms import.

Each takes an open connection first, so that a caller ends a file in one transaction: state, replica, accounting.
"""

from __future__ import annotations

from catalog.lookup import entries_of, find, good_replicas, list_folder, lookup
from catalog.records import (
    Conflict,
    Entry,
    Listing,
    Metadata,
    Registration,
    Replica,
    Trashed,
    TrashItem,
    Withdrawn,
)
from catalog.register import Folders, ask_folders, ensure_folders, register
from catalog.replicas import count_states, forget, mark, release, unregister, verified, withdraw
from catalog.trash import drop_trash, due_trash, put_in_trash, trash_failed

__all__ = [
    "Conflict",
    "Entry",
    "Folders",
    "Listing",
    "Metadata",
    "Registration",
    "Replica",
    "TrashItem",
    "Trashed",
    "Withdrawn",
    "ask_folders",
    "count_states",
    "drop_trash",
    "due_trash",
    "ensure_folders",
    "entries_of",
    "find",
    "forget",
    "good_replicas",
    "list_folder",
    "lookup",
    "mark",
    "put_in_trash",
    "register",
    "release",
    "trash_failed",
    "unregister",
    "verified",
    "withdraw",
]
