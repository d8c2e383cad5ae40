"""A daemon for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dtscore import logging
from tests.dtsd.server.running import Running, running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon that serves a new site, the same for all tests of a module."""
    folder: Path = tmp_path_factory.mktemp("served")
    logging.set_up("error", "console", folder / "log")
    with running(folder / "site") as one:
        yield one
