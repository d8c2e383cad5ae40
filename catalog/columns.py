"""The columns that a search expression may name, how each takes its values, and what `docs/catalog.md` says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from catalog.models import catalog_files as files
from catalog.models import catalog_folders as folders
from catalog.models import catalog_metadata as headers
from catalog.models import catalog_replicas as replicas

_LFN = sa.case((folders.c.path == "/", "/" + files.c.name), else_=folders.c.path + "/" + files.c.name)


@dataclass(frozen=True, slots=True)
class Column:
    """A name in an expression: `kind` is text, integer, number, moment, day or lfn; `of_replica` says whose it is."""

    name: str
    kind: str
    clause: sa.ColumnElement[Any]
    meaning: str
    of_replica: bool = False


_ALL = (
    Column("lfn", "lfn", _LFN, "logical file name, with its folder"),
    Column("folder", "text", folders.c.path, "folder of the file, without a slash at its end"),
    Column("name", "text", files.c.name, "file name without its folder"),
    Column("size", "integer", files.c.size, "size in bytes"),
    Column("checksum", "text", files.c.checksum, "algorithm:value"),
    Column("registered", "moment", files.c.registered_at, "when the entry was made, UTC"),
    Column("instrument", "text", headers.c.instrument, "instrument"),
    Column("exposure", "integer", headers.c.exposure, "exposure number"),
    Column("observation", "text", headers.c.observation, "observation identifier, as text"),
    Column("detector", "integer", headers.c.detector, "detector (CCD) number"),
    Column("filter", "text", headers.c.filter, "band, such as r"),
    Column("physical_filter", "text", headers.c.physical_filter, "the instrument's full name of the filter"),
    Column("object", "text", headers.c.object, "object or field"),
    Column("type", "text", headers.c.type, "kind of observation, in lower case"),
    Column("exposure_time", "number", headers.c.exposure_time, "exposure time in seconds"),
    Column("date", "moment", headers.c.date, "start of the exposure, UTC"),
    Column("night", "day", headers.c.night, "local date at which the night began"),
    Column("ra", "number", headers.c.ra, "right ascension in degrees"),
    Column("dec", "number", headers.c.dec, "declination in degrees"),
    Column("proposal", "text", headers.c.proposal, "proposal identifier"),
    Column("flags", "text", headers.c.flags, "what is not as it should be: partial, header"),
    Column("supersedes", "text", headers.c.supersedes, "logical file name of the version that this one replaces"),
    Column("element", "text", replicas.c.element, "storage element of a replica", True),
    Column("pfn", "text", replicas.c.pfn, "physical name of a replica", True),
    Column("state", "text", replicas.c.state, "state of a replica: Good, Suspect, Bad, Deleting", True),
    Column("depth", "text", replicas.c.depth, "how a replica was checked", True),
    Column("verified", "moment", replicas.c.verified_at, "when a replica was last checked, UTC", True),
)

COLUMNS = {column.name: column for column in _ALL}
"""All columns by name: the allow-list of the expression language."""
