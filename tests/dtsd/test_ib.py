"""dts-ib verify and preview: custody of files, copies and replicas; and the secret that a new site gets."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dtsd import builder
from dtsd.ib import main
from imagebuilder.cache import FrameCache
from tests.agents.camera import Node
from tests.agents.sites import Site

Run = Callable[..., Result]


@pytest.fixture
def node(tmp_path: Path, sqlite_url: str) -> Iterator[Node]:
    """A builder node on a site of its own."""
    made = Node.of(Site(tmp_path / "site", sqlite_url))
    yield made
    made.close()


@pytest.fixture
def run(node: Node) -> Run:
    """Call dts-ib in this process with the site's configuration."""

    def call(*words: Any) -> Result:
        return CliRunner().invoke(main, [str(words[0]), "--config", str(node.site.path), *map(str, words[1:])])

    return call


def _build(node: Node) -> str:
    """Build an exposure, copied to `archive`; return its LFN."""
    node.site.write(imagebuilder__then="transfer archive")
    number = node.expose("S1", "N1")
    for _ in range(2):
        node.site.once("exposure", "build", "transfer")
    return node.exposure(number).files[0].lfn


def test_a_file_a_copy_and_each_replica_are_proven(node: Node, run: Run, tmp_path: Path) -> None:
    """By its logical name, on a named element, and as a copy under another name anywhere."""
    lfn = _build(node)
    copy = tmp_path / "copied.fits"
    copy.write_bytes((node.site.folder / "archive" / lfn.lstrip("/")).read_bytes())
    for words in ((lfn,), (lfn, "--element", "archive"), (str(copy),)):
        done = run("verify", *words)
        assert done.exit_code == 0, done.output
        assert "8 of pixels: these are the pixels that the camera sent" in done.stderr
    assert len(json.loads(run("verify", lfn, "--json").stdout)["findings"]) > 10


def test_one_changed_pixel_is_found(node: Node, run: Run, tmp_path: Path) -> None:
    """Exit code 1, and the amplifier and its rows are named."""
    lfn = _build(node)
    content = bytearray((node.site.folder / "local" / lfn.lstrip("/")).read_bytes())
    content[-4000] ^= 1
    damaged = tmp_path / "damaged.fits"
    damaged.write_bytes(content)
    done = run("verify", damaged)
    assert done.exit_code == 1
    assert "N1" in done.stdout and "WRONG" in done.stderr


def test_a_name_that_nobody_knows_is_not_found(node: Node, run: Run) -> None:
    """Neither a file here nor in the catalog; or no replica on that element."""
    assert run("verify", "/nothing/here.fits").exit_code == 4
    assert run("verify", _build(node), "--element", "vault").exit_code == 4


def test_a_preview_is_drawn(node: Node, run: Run, tmp_path: Path) -> None:
    """As a PNG of the size asked for, never over another file; the build agent has drawn one too."""
    lfn, picture = _build(node), tmp_path / "p.png"
    assert run("preview", lfn, "--to", picture, "--size", 200).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run("preview", lfn, "--to", picture).exit_code == 2
    drawn = node.site.folder / "var" / "previews" / f"{lfn.rpartition('/')[2].removesuffix('.fits')}.png"
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    """Mode 0600, and what is there stays."""
    path = tmp_path / "pan.secret"
    builder.make_secret(path)
    first = path.read_text()
    builder.make_secret(path)
    assert path.read_text() == first and len(first) > 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def _says(node: Node) -> list[tuple[str, str]]:
    with node.database.read() as connection:
        return [(state, sentence) for state, sentence, _ in builder.findings(connection, node.site.config)]


def test_the_doctor_leaves_a_living_nodes_pages_alone(node: Node) -> None:
    """They are held, whatever is in them."""
    node.expose("S1", "N1")
    assert not any("pages in" in sentence for _, sentence in _says(node))
    assert node.cache.held


def test_the_doctor_keeps_orphans_that_are_awaited_and_frees_the_others(node: Node) -> None:
    """Pixels that are in no file yet wait for the node's next start; when they are saved the memory is freed."""
    node.expose("S1", "N1")
    node.cache.close()
    folder = node.cache.folder
    assert any(state == "warn" and "2 pages" in sentence for state, sentence in _says(node))
    assert len(list(folder.glob("*.page"))) == 2
    node.site.once("exposure", "build")
    assert any("were freed" in sentence for _, sentence in _says(node))
    assert not list(folder.glob("*.page")) and not list(folder.glob("free-*"))
    assert FrameCache(folder, 1 << 20, 1).free == 1
