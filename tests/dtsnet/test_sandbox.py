"""No path leads out of a sandbox."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtscore.errors import NameRefusedError
from dtsnet.sandbox import Sandbox


@pytest.fixture(params=["openat2", "walk"])
def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox, by the kernel's own resolution and by the walk for older kernels."""
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_text("secret")
    box = Sandbox(str(tmp_path / "root"))
    box._has_openat2 = request.param == "openat2"
    yield box
    box.close()


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/etc/passwd", "..", "a//b", "a/./b", "a\0b"])
def test_names_that_lead_out_are_refused(sandbox: Sandbox, path: str) -> None:
    """Dots, absolute names and strange ones never reach the disk."""
    with pytest.raises(NameRefusedError):
        sandbox.open(path, os.O_RDONLY)


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "..", "../root/../secret"])
def test_links_that_lead_out_are_refused(sandbox: Sandbox, tmp_path: Path, target: str) -> None:
    """A symbolic link as a file or as a folder on the way does not help."""
    (tmp_path / "root" / "link").symlink_to(target)
    (tmp_path / "root" / "out").symlink_to("..")
    for path in ("link", "out/secret"):
        with pytest.raises(NameRefusedError):
            os.close(sandbox.open(path, os.O_RDONLY))


def test_a_link_swapped_in_while_it_is_opened_never_wins(sandbox: Sandbox, tmp_path: Path) -> None:
    """A folder that turns into a link and back, as fast as may be, gives its own file, an error, never the secret."""
    root = tmp_path / "root"
    (root / "real").mkdir()
    (root / "real" / "secret").write_text("ours")
    (root / "link").symlink_to("..")
    stop = threading.Event()

    def swap() -> None:
        names = ["real", "link"]
        while not stop.is_set():
            for name in names:
                os.rename(root / name, root / "way")
                os.rename(root / "way", root / name)
            os.rename(root / "real", root / "kept")
            os.rename(root / "link", root / "real")
            os.rename(root / "real", root / "link")
            os.rename(root / "kept", root / "real")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(500):
            try:
                descriptor = sandbox.open("real/secret", os.O_RDONLY)
            except (NameRefusedError, FileNotFoundError):
                continue
            with os.fdopen(descriptor) as file:
                assert file.read() == "ours"
    finally:
        stop.set()
        swapper.join()


def test_folders_are_made_below(sandbox: Sandbox, tmp_path: Path) -> None:
    """Missing folders are made when asked for, and only then."""
    with pytest.raises(FileNotFoundError):
        sandbox.folder("a/b")
    os.close(sandbox.folder("a/b", make=True))
    assert (tmp_path / "root/a/b").is_dir()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_any_name_is_refused_or_stays_below(path: str) -> None:
    """Whatever the name, the answer is an error or something below the root."""
    box = Sandbox("/usr/share")
    try:
        descriptor = box.open(path, os.O_RDONLY)
    except (NameRefusedError, OSError):
        return
    finally:
        box.close()
    assert os.readlink(f"/proc/self/fd/{descriptor}").startswith("/usr/share")
    os.close(descriptor)
