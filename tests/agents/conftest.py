"""A site on each database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agents.sites import Site


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Site:
    """A site with three file elements, on SQLite and on PostgreSQL."""
    return Site(tmp_path / "site", database_url)
