"""The methods on files: they do what they say below the root, durably, and change nothing else."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from crc32c import crc32c

from dtscore.errors import (
    DestinationDiffersError,
    DtsError,
    FileMissingError,
    NameRefusedError,
    PermissionRefusedError,
    UnsupportedError,
    UsageError,
)
from dtsnet.rpc import Remote
from tests.dtsd.server.running import Running


@pytest.fixture
def site(served: Running) -> Iterator[Remote]:
    """Call as admin."""
    remote = served.remote()
    yield remote
    remote.close()


@pytest.fixture
def folder(served: Running, request: pytest.FixtureRequest) -> Path:
    """A folder of this test alone below the root."""
    path: Path = served.root / request.node.name
    path.mkdir()
    return path


def test_sizes_have_64_bits(site: Remote, folder: Path) -> None:
    """A file of 5 GiB is told as that, and so is the disk."""
    with (folder / "big").open("wb") as stream:
        stream.truncate(5 << 30)
    assert site.call("fsize", f"{folder.name}/big") == 5 << 30
    found = site.call("stat", f"{folder.name}/big")
    assert isinstance(found, dict)
    assert (found["size"], found["type"], found["allocated"]) == (5 << 30, "file", 0)
    room = os.statvfs(folder)
    assert abs(int(str(site.call("diskFree"))) - room.f_bavail * room.f_frsize) < 1 << 30
    used = (room.f_blocks - room.f_bfree) * room.f_frsize
    assert abs(int(str(site.call("diskUsed", folder.name))) - used) < 1 << 30


def test_reading(site: Remote, folder: Path) -> None:
    """A file's bytes come as they are, in pieces, with whatever they hold; its sums are right."""
    content = bytes(range(256)) * 1000
    (folder / "f").write_bytes(content)
    name = f"{folder.name}/f"
    assert site.call("cat", name, 0, 300_000) == content
    assert site.call("cat", name, 255_990) == content[-10:]
    assert site.call("cat", name, 1 << 40) == b""
    found = site.call("checksum", name, "adler32, sha256")
    assert isinstance(found, dict)
    assert isinstance(found["checksums"], dict)
    assert found["checksums"]["adler32"] == f"{zlib.adler32(content):08x}"
    assert (found["size"], found["changed"]) == (len(content), False)


def test_a_folder_is_listed_in_pages(site: Remote, folder: Path) -> None:
    """All entries come, in order, links as links, and a name that is not UTF-8 with its bytes."""
    for number in range(25):
        (folder / f"f{number:02}").touch()
    (folder / "ä ö.fits").write_text("x")
    (folder / "link").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe")
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff")).touch()
    names: list[str] = []
    raw = []
    for offset in range(0, 40, 10):
        page = site.call("dir", folder.name, offset, 10)
        assert isinstance(page, dict)
        assert page["total"] == 29
        assert isinstance(page["entries"], list)
        for entry in page["entries"]:
            assert isinstance(entry, dict)
            names.append(str(entry["name"]))
            raw += [entry["raw"]] if "raw" in entry else []
            if entry["name"] == "link":
                assert entry["type"] == "link"
            if entry["name"] == "pipe":
                assert entry["type"] == "other"
    assert len(names) == 29
    assert {"ä ö.fits", "bad\ufffd", "f24"} <= set(names)
    assert raw == [b"bad\xff"]


def test_folders(site: Remote, folder: Path) -> None:
    """They are made with those above them only when asked, and removed when empty."""
    with pytest.raises(FileMissingError):
        site.call("mkdir", f"{folder.name}/a/b")
    assert site.call("mkdir", f"{folder.name}/a/b", True) is True
    assert site.call("mkdir", f"{folder.name}/a/b", True) is False
    with pytest.raises(DtsError, match="exists"):
        site.call("mkdir", f"{folder.name}/a/b")
    assert site.call("isDir", f"{folder.name}/a") is True
    assert site.call("isDir", f"{folder.name}/nothing/there") is False
    with pytest.raises(DtsError, match="not empty"):
        site.call("del", f"{folder.name}/a")
    assert site.call("del", f"{folder.name}/a/b") is True
    assert site.call("del", f"{folder.name}/a") is True
    assert list(folder.iterdir()) == []


def test_copies_and_new_names_never_replace_unasked(site: Remote, folder: Path) -> None:
    """What has the name stays, and a copy leaves nothing else behind."""
    (folder / "a").write_text("one")
    (folder / "b").write_text("two")
    a, b = f"{folder.name}/a", f"{folder.name}/b"
    with pytest.raises(DestinationDiffersError):
        site.call("copy", a, b)
    with pytest.raises(DestinationDiffersError):
        site.call("rename", a, b)
    assert (folder / "b").read_text() == "two"
    assert site.call("copy", a, f"{folder.name}/c") == {"size": 3, "crc32c": f"{crc32c(b'one'):08x}"}
    assert (folder / "c").read_text() == "one"
    site.call("copy", a, b, True)
    assert (folder / "b").read_text() == "one"
    site.call("rename", f"{folder.name}/c", a, True)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


def test_links_are_removed_and_renamed_themselves(site: Remote, folder: Path) -> None:
    """What a link points to stays as it is."""
    (folder / "real").write_text("real")
    (folder / "link").symlink_to("real")
    (folder / "out").symlink_to("/etc/passwd")
    site.call("rename", f"{folder.name}/link", f"{folder.name}/other")
    assert (folder / "other").is_symlink()
    site.call("del", f"{folder.name}/other")
    site.call("del", f"{folder.name}/out")
    assert sorted(path.name for path in folder.iterdir()) == ["real"]
    assert Path("/etc/passwd").exists()


def test_touch_and_chmod(site: Remote, folder: Path) -> None:
    """Times and modes are set; set-user-id never."""
    name = f"{folder.name}/t"
    assert site.call("touch", name) is True
    assert site.call("touch", name, 1_000_000_000.5) is False
    assert site.call("ftime", name) == 1_000_000_000.5
    site.call("chmod", name, 0o600)
    assert (folder / "t").stat().st_mode & 0o7777 == 0o600
    with pytest.raises(UsageError, match="argument 2"):
        site.call("chmod", name, 0o4755)
    with pytest.raises(NameRefusedError):
        site.call("chmod", "", 0o777)
    assert site.call("access", name, "rw") is True
    assert site.call("access", f"{folder.name}/none") is False


def test_what_is_no_file_is_not_read(site: Remote, folder: Path) -> None:
    """A pipe does not hold the call up, a folder has no bytes."""
    os.mkfifo(folder / "pipe")
    for name in ("pipe", ""):
        with pytest.raises(UnsupportedError):
            site.call("cat", f"{folder.name}/{name}".rstrip("/"))


def test_roles(served: Running, folder: Path) -> None:
    """Each role may what it says and nothing more, and nothing happens where it may not."""
    (folder / "f").touch()
    name = f"{folder.name}/f"
    for role, method, arguments in (
        ("read", "mkdir", (f"{folder.name}/x",)), ("read", "copy", (name, f"{folder.name}/g")),
        ("transfer", "del", (name,)), ("transfer", "rename", (name, f"{folder.name}/g")),
        ("operate", "dtsSet", ("dtsd", "idle", "9 s")), ("operate", "shutdown", ()),
    ):  # fmt: skip
        with pytest.raises(PermissionRefusedError, match=role):
            served.remote(role).call(method, *arguments)  # type: ignore[arg-type]
    assert [path.name for path in folder.iterdir()] == ["f"]
