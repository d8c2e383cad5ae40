"""Reading the catalog: by name, by folder, by expression."""

from __future__ import annotations

from datetime import date, datetime, timezone

import pytest

from catalog import store
from catalog.store import Metadata
from dtscore.database import Database
from dtscore.errors import NotFoundError, UsageError
from tests.catalog.samples import copy_of


@pytest.fixture
def night(database: Database) -> Database:
    """A database with a night of six exposures in two bands."""
    files = []
    for number in range(6):
        header = Metadata(
            instrument="DECam",
            exposure=100 + number,
            filter="r" if number % 2 else "g",
            object="o'brien" if number == 3 else f"hex {number}",
            date=datetime(2026, 11, 20, 22 + number // 2, 30, tzinfo=timezone.utc) if number < 4 else None,
            night=date(2026, 11, 20 + number // 4),
            exposure_time=90.5,
            ra=10.0 * number,
            dec=-5.0,
        )
        files.append(copy_of(f"/raw/2026/D_{number}.fits", "ctio", metadata=header, size=number * 1000))
    files += [copy_of("/raw/2026/D_1.fits", "fnal", size=1000), copy_of("/raw/X%1.fits"), copy_of("/top.fits", "fnal")]
    with database.write() as connection:
        assert store.register(connection, files) == []
        store.mark(connection, "/raw/2026/D_2.fits", "ctio", "Suspect")
    return database


def _find(database: Database, expression: str, limit: int = 100) -> list[str]:
    with database.read() as connection:
        return [
            entry.lfn.rpartition("/")[2].removesuffix(".fits") for entry in store.find(connection, expression, limit)
        ]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("filter='r' and night='2026-11-20'", "D_1 D_3"),
        ('FILTER = "r" AND night = 2026-11-20', "D_1 D_3"),
        ("exposure >= 104", "D_4 D_5"),
        ("exposure in (101, '103', 1.05e2)", "D_1 D_3 D_5"),
        ("exposure not in (101,102,103,104,105)", "D_0"),
        ("exposure between 101 and 102", "D_1 D_2"),
        ("exposure not between 101 and 104", "D_0 D_5"),
        ("object = 'o''brien'", "D_3"),
        ("object like 'hex *' and filter = 'g'", "D_0 D_2 D_4"),
        ("object like 'HEX*'", ""),
        ("name like 'D_?.fits' and size > 3e3", "D_4 D_5"),
        ("name like 'D?1%'", "D_1"),
        ("name like '[D]*'", ""),
        ("name not like 'D_*'", "top X%1"),
        ("lfn = '/raw/2026/D_1.fits' or lfn = '/top.fits'", "top D_1"),
        ("lfn in ('/raw/2026/D_1.fits')", "D_1"),
        ("lfn like '/raw/*' and night is null", "X%1"),
        ("folder='/'", "top"),
        ("date = 2026-11-20", "D_0 D_1 D_2 D_3"),
        ("date > '2026-11-20T23:00:00'", "D_2 D_3"),
        ("date >= 2026-11-21", ""),
        ("date is not null and not filter='r'", "D_0 D_2"),
        ("date != 2026-11-20", ""),
        ("element = 'fnal'", "top D_1"),
        ("element='ctio' and state='Suspect'", "D_2"),
        ("element='fnal' and state='Suspect'", ""),
        ("not element='fnal' and exposure is not null", "D_0 D_2 D_3 D_4 D_5"),
        ("element!='fnal' and filter='r'", "D_1 D_3 D_5"),
        ("(element='fnal' or element='x') and state='Good'", "top D_1"),
        ("element='fnal' or exposure=100", "top D_0 D_1"),
        ("not (filter='g' or filter='r')", ""),
        ("ra > -1 and dec < -4.9 and ra <= 10", "D_0 D_1"),
        ("exposure_time = 90.5 and exposure = 100", "D_0"),
        ("verified >= 2000-01-01 and depth='full' and exposure=100", "D_0"),
    ],
)
def test_find(night: Database, expression: str, expected: str) -> None:
    """Each construct of the language means the same on both databases; results come in the order of their names."""
    assert " ".join(_find(night, expression)) == expected


def test_find_has_a_limit(night: Database) -> None:
    """The first names in order are returned; no limit below one is taken."""
    assert _find(night, "filter='r'", 2) == ["D_1", "D_3"]
    with pytest.raises(UsageError):
        _find(night, "filter='r'", 0)


def test_lookup_leaves_out_what_no_file_is_called(night: Database) -> None:
    """Unknown and impossible names are simply not found, whatever they hold."""
    asked = [
        "/top.fits",
        "/no",
        "top.fits",
        "",
        "/",
        "/a\0b",
        "/\ud800",
        "/raw/2026",
        "/raw/2026/",
        "/raw/2026/d_1.fits",
    ]
    with night.read() as connection:
        assert list(store.lookup(connection, asked)) == ["/top.fits"]
        assert store.lookup(connection, []) == {}


def test_listing(night: Database) -> None:
    """A folder lists its own folders and files only, in order, also page by page."""
    with night.read() as connection:
        root = store.list_folder(connection, "/")
        assert (root.folders, [entry.lfn for entry in root.entries]) == (("/raw",), ["/top.fits"])
        assert store.list_folder(connection, "/raw/").folders == ("/raw/2026",)
        page = store.list_folder(connection, "/raw/2026", limit=2, after="D_1.fits")
        assert [entry.lfn for entry in page.entries] == ["/raw/2026/D_2.fits", "/raw/2026/D_3.fits"]
        with pytest.raises(NotFoundError):
            store.list_folder(connection, "/nowhere")


def test_an_empty_catalog_has_a_root(database: Database) -> None:
    """Listing the root never fails."""
    with database.read() as connection:
        assert store.list_folder(connection, "/") == store.Listing((), ())


def test_find_by_night_uses_the_index(sqlite_url: str) -> None:
    """A search by night and filter reads the index, and a bulk look-up scans no table of files."""
    database = Database(sqlite_url)
    statements: list[tuple[str, object]] = []
    import sqlalchemy as sa

    sa.event.listen(
        database._reader,
        "before_cursor_execute",
        lambda c, cur, statement, parameters, *_: statements.append((statement, parameters)),
    )
    with database.read() as connection:
        store.find(connection, "filter='r' and night='2026-11-20'", 10)
        store.lookup(connection, ["/a/b"])
        plans = [
            row[3]
            for statement, parameters in list(statements)
            if statement.startswith("SELECT")
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
        ]
    assert any("ix_catalog_metadata_night_filter" in plan for plan in plans)
    assert not [plan for plan in plans if plan.startswith("SCAN catalog_")]
    database.close()
