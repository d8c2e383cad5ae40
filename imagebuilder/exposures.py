"""The door of the exposures' tables: every function takes an open connection, and no other module writes them.

An exposure's life: its number is handed out, a node is assigned, PANs begin, frames are received, a file version is
reserved, and in the transaction that registers the file it is saved. The bodies lie in modules of their own, which
nothing outside this room imports.
"""

from __future__ import annotations

from imagebuilder.intake import assign, begin, current, hand_out, received
from imagebuilder.records import (
    Assignment,
    Begun,
    BlockRange,
    Built,
    Due,
    Exposure,
    ExposureLine,
    ExposureState,
    FileLine,
    FileState,
    FrameLine,
    FrameState,
    Label,
    ReceivedFrame,
    Reservation,
    SavedFile,
)
from imagebuilder.saving import abandon, due, hold, requested, reservation, reserve_file, saved
from imagebuilder.viewing import (
    count_states,
    exposure_of,
    find,
    lines,
    saved_files,
    sums_of,
    waiting,
    wanted_pages,
)

__all__ = [
    "Assignment",
    "Begun",
    "BlockRange",
    "Built",
    "Due",
    "Exposure",
    "ExposureLine",
    "ExposureState",
    "FileLine",
    "FileState",
    "FrameLine",
    "FrameState",
    "Label",
    "ReceivedFrame",
    "Reservation",
    "SavedFile",
    "abandon",
    "assign",
    "begin",
    "count_states",
    "current",
    "due",
    "exposure_of",
    "find",
    "hand_out",
    "hold",
    "lines",
    "received",
    "requested",
    "reservation",
    "reserve_file",
    "saved",
    "saved_files",
    "sums_of",
    "waiting",
    "wanted_pages",
]
