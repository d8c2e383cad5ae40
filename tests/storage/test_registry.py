"""The registry: elements by name, and settings that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtscore.errors import ConfigurationError
from storage.registry import Elements, make, options_of
from tests.storage.conftest import Settings


def test_elements_are_made_once_and_kept(tmp_path: Path) -> None:
    """The same name gives the same element; names are sorted; after close they are made anew."""
    elements = Elements({name: Settings(name, "file", {"root": str(tmp_path)}) for name in ("b", "a")})
    assert elements.names() == ("a", "b")
    first = elements.get("a")
    assert elements.get("a") is first
    elements.close()
    assert elements.get("a") is not first


def test_an_unknown_name_suggests_the_nearest(tmp_path: Path) -> None:
    """Asking for an element that is not there names the nearest one."""
    elements = Elements({"archive": Settings("archive", "file", {"root": str(tmp_path)})})
    with pytest.raises(ConfigurationError) as caught:
        elements.get("archiv")
    assert "archive" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "options", "found"),
    [
        ("fiel", {}, "file"),
        ("file", {"rot": "/x"}, "root"),
        ("file", {"root": "relative"}, "root"),
        ("sftp", {"hots": "h"}, "host"),
        ("sftp", {"host": "h"}, "root"),
        ("sftp", {"host": "h", "root": "/", "port": "0"}, "port"),
        ("sftp", {"host": "h", "root": "/", "key_file": "/none"}, "key_file"),
        ("fsspec", {"url": "nowhere"}, "s3://"),
        ("fsspec", {"url": "file:///x"}, "type = file"),
        ("fsspec", {"url": "sftp://x/y"}, "type = sftp"),
        ("fsspec", {"url": "nosuch://x"}, "protocols"),
        ("fsspec", {"url": "s3://x", "option_secret": "abc"}, "secret_file"),
    ],
)
def test_wrong_settings_are_named(kind: str, options: dict[str, str], found: str) -> None:
    """A wrong type, key or value names the section and what was meant; a secret is not repeated."""
    with pytest.raises(ConfigurationError) as caught:
        make(Settings("x", kind, options))
    assert "[se.x]" in caught.value.message
    assert found in caught.value.message + caught.value.hint
    assert "abc" not in caught.value.message


def test_secrets_open_to_others_are_refused(tmp_path: Path) -> None:
    """A file with a secret must be closed to group and others."""
    (tmp_path / "password").write_text("secret")
    (tmp_path / "password").chmod(0o640)
    with pytest.raises(ConfigurationError, match="0640"):
        make(Settings("x", "sftp", {"host": "h", "root": "/", "password_file": str(tmp_path / "password")}))


def test_each_type_explains_its_settings() -> None:
    """Each setting of each type has a line that explains it."""
    for kind in ("file", "sftp", "fsspec"):
        assert all(options_of(kind).values())
