"""A site for the tests of the program `dts`, on either database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dtsd.cli import main
from dtsd.site import create_site

Dts = Callable[..., Result]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The folder of a new site on SQLite."""
    return create_site(tmp_path / "site").folder


@pytest.fixture
def either_site(site: Path, backend: str, request: pytest.FixtureRequest) -> Path:
    """The folder of a new site, on SQLite and on PostgreSQL; its database is still empty there."""
    if backend == "postgresql":
        ini = site / "etc" / "dts.ini"
        url = request.getfixturevalue("empty_database_url")
        ini.write_text(ini.read_text().replace("sqlite:///var/dts.db", url))
    return site


@pytest.fixture
def dts() -> Dts:
    """Run `dts --config SITE …` and return its result."""

    def run(site: Path, *arguments: Any) -> Result:
        words = [str(argument) for argument in arguments]
        return CliRunner().invoke(main, ["--config", str(site), *words])

    return run
