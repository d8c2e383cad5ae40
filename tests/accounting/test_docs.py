"""The documentation names all that users may rely on."""

from __future__ import annotations

from pathlib import Path

import pytest

from accounting.cli import main
from accounting.models import VIEWS, attempts
from accounting.queries import QUERIES

TEXT = (Path(__file__).parents[2] / "docs" / "accounting.md").read_text()


@pytest.mark.parametrize("name", attempts.columns.keys())
def test_columns_are_documented(name: str) -> None:
    """Each column of the table has its line with the meaning that the table carries."""
    assert f"| `{name}` | {attempts.c[name].comment} |" in TEXT


@pytest.mark.parametrize("name", list(VIEWS))
def test_views_are_documented(name: str) -> None:
    """Each view is named."""
    assert f"`{name}`" in TEXT


@pytest.mark.parametrize("name", list(QUERIES))
def test_queries_are_documented(name: str) -> None:
    """Each documented query stands there with what it answers and its text, word for word."""
    query = QUERIES[name]
    assert f"### {name}\n\n{query.answers}" in TEXT
    assert f"```sql\n{query.sql};\n```" in TEXT


@pytest.mark.parametrize("name", sorted(main.commands))
def test_commands_are_documented(name: str) -> None:
    """Each command is shown."""
    assert f"dts-accounting {name}" in TEXT
