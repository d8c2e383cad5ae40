"""Fixtures of the accounting's tests."""

from __future__ import annotations

import pytest

from accounting import store
from accounting.store import AttemptRecord
from dtscore.database import Database
from tests.accounting import samples


@pytest.fixture
def records() -> list[AttemptRecord]:
    """Three nights of attempts."""
    return samples.three_nights()


@pytest.fixture
def filled(database: Database, records: list[AttemptRecord]) -> Database:
    """A database that holds them."""
    with database.write() as connection:
        store.record(connection, records)
    return database
