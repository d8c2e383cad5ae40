"""A folder as files to be sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtscore.errors import NameRefusedError
from dtsnet.sandbox import Sandbox
from dtsnet.tree import outgoing_tree
from tests.dtsnet.sites import MIB, Site, send


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Sandbox]:
    """A folder with folders in it, one of them empty, links that lead out and round, and a pipe."""
    root = tmp_path / "source"
    (root / "d/deep/er").mkdir(parents=True)
    (root / "d/empty").mkdir()
    (tmp_path / "secret").write_text("secret")
    (root / "d/a").write_bytes(b"a")
    (root / "d/deep/er/b").write_bytes(b"b" * 3 * MIB)
    (root / "d/deep/none").write_bytes(b"")
    (root / "d/out").symlink_to("../../secret")
    (root / "d/round").symlink_to("..")
    os.mkfifo(root / "d/pipe")
    box = Sandbox(str(root))
    yield box
    box.close()


def test_a_folder_arrives_with_all_below_it(tmp_path: Path, source: Sandbox) -> None:
    """Files and empty folders; links and pipes are told, never followed."""
    site = Site(tmp_path / "there")
    _, results = send(site, outgoing_tree(source, "d", "night"))
    site.close()
    ended = {sent.path: sent.error_class for sent in results}
    bad = dict.fromkeys(("night/out", "night/round", "night/pipe"), "unsupported")
    good = ("night/a", "night/deep/er/b", "night/deep/none", "night/empty")
    assert ended == bad | dict.fromkeys(good, "")
    there = tmp_path / "there/night"
    assert sorted(str(path.relative_to(there)) for path in there.rglob("*")) == [
        "a", "deep", "deep/er", "deep/er/b", "deep/none", "empty"
    ]  # fmt: skip
    assert (there / "deep/er/b").read_bytes() == b"b" * 3 * MIB


def test_the_whole_sandbox_and_a_single_file_are_trees_too(source: Sandbox) -> None:
    """'' is the sandbox; of a file only itself is sent."""
    assert [one.path for one in outgoing_tree(source, "d/a", "x/y")] == ["x/y"]
    assert "d/deep/er/b" in [one.path for one in outgoing_tree(source, "", "")]


def test_no_tree_leads_out(source: Sandbox) -> None:
    """Not by dots, not by a link as the folder to begin with."""
    with pytest.raises(NameRefusedError):
        list(outgoing_tree(source, "../", "x"))
    (link,) = outgoing_tree(source, "d/round", "x")
    with pytest.raises(Exception, match="symbolic link"):
        link.open()
