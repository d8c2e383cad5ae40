"""The register agent: what lies on an element becomes known, with its size, checksum and header."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from reqdb.spec import FileSpec, OperationSpec
from storage.file import FileReader
from tests.agents.sites import Site

LFN = "/night/a.fits"


def adler(content: bytes) -> str:
    """Return an adler32 by another library than the one used by DTS."""
    return f"adler32:{zlib.adler32(content):08x}"


def registering(spec: FileSpec, *targets: str, **options: str) -> OperationSpec:
    """Return a register operation."""
    return OperationSpec("register", (spec,), None, targets or ("archive",), None, tuple(options.items()))


def image(path: Path) -> None:
    """Write a FITS image with the header of an exposure."""
    header = fits.Header()
    header["INSTRUME"], header["OBJECT"], header["EXPTIME"] = "DECam", "NGC 253", 90.0
    header["DATE-OBS"], header["FILTER"], header["PROPID"] = "2026-11-20T03:04:05.6", "r", "2026B-0001"
    header["EXPNUM"], header["OBSTYPE"] = 1234567, "object"
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(np.zeros((16, 16), dtype=np.int16), header).writeto(path)


def test_a_file_that_nobody_knew_is_registered(site: Site) -> None:
    """Size and checksum are found by reading the whole file; nothing is moved."""
    site.make("night/a.fits", b"pixels", "archive")
    request = site.submit(registering(FileSpec(LFN)))
    site.once("register")
    assert site.state(request) == "Done"
    entry = site.entry(LFN)
    assert entry is not None
    assert (entry.size, entry.checksum) == (6, adler(b"pixels"))
    assert [(each.element, each.pfn, each.state, each.depth) for each in entry.replicas] == [
        ("archive", "night/a.fits", "Good", "full")
    ]
    assert site.rows("SELECT transfer_size, registration_ok FROM accounting_attempts") == [(0, 1)]


def test_a_file_may_lie_under_another_name(site: Site) -> None:
    """The PFN is the request's where it gives one."""
    site.make("strange/place.dat", b"pixels", "archive")
    site.submit(registering(FileSpec(LFN, "strange/place.dat"), checksum="sha256"))
    site.once("register")
    entry = site.entry(LFN)
    assert entry is not None
    assert entry.replicas[0].pfn == "strange/place.dat"
    assert entry.checksum.startswith("sha256:")


def test_the_header_is_harvested(site: Site) -> None:
    """A FITS file made by astropy can be found by what its header says."""
    image(site.folder / "archive/night/a.fits")
    site.submit(registering(FileSpec(LFN)))
    site.once("register")
    entry = site.entry(LFN)
    assert entry is not None
    assert entry.metadata is not None
    found = entry.metadata
    assert (found.instrument, found.object, found.exposure_time, found.proposal) == (
        "DECam", "NGC 253", 90.0, "2026B-0001"
    )  # fmt: skip
    assert found.filter == "r"


@pytest.mark.parametrize(
    ("spec", "error_class"),
    [
        (FileSpec(LFN, checksum="adler32:00000001"), "checksum"),
        (FileSpec(LFN, checksum="md5:" + "0" * 32), "checksum"),
        (FileSpec(LFN, size=7), "size"),
        (FileSpec("/night/none.fits"), "missing"),
        (FileSpec("/night"), "unsupported"),
    ],
)
def test_what_is_not_as_declared_is_not_registered(site: Site, spec: FileSpec, error_class: str) -> None:
    """A wrong checksum or size, no file, and a folder fail at once, and the catalog stays as it was."""
    site.make("night/a.fits", b"pixels", "archive")
    request = site.submit(registering(spec))
    site.once("register")
    assert site.state(request) == "Failed"
    assert site.failure()[0] == error_class
    assert site.failure()[2] == 1
    assert site.entry(spec.lfn) is None


def test_registering_again_changes_nothing_but_the_time(site: Site) -> None:
    """A second registration of the same file is Done; there is one entry with one replica."""
    site.make("night/a.fits", b"pixels", "archive")
    for name in ("one", "two"):
        request = site.submit(registering(FileSpec(LFN)), name=name)
        site.once("register")
        assert site.state(request) == "Done"
    assert site.rows("SELECT count(*) FROM catalog_replicas") == [(1,)]


def test_a_second_element_is_a_second_replica(site: Site) -> None:
    """The same bytes elsewhere are another replica of the same entry, whatever checksum is asked for."""
    for element in ("archive", "vault"):
        site.make("night/a.fits", b"pixels", element)
    site.submit(registering(FileSpec(LFN)), name="one")
    site.once("register")
    site.submit(registering(FileSpec(LFN), "vault", checksum="sha256"), name="two")
    site.once("register")
    assert site.replicas(LFN) == {"archive": "Good", "vault": "Good"}
    entry = site.entry(LFN)
    assert entry is not None
    assert entry.checksum == adler(b"pixels")


def test_other_bytes_under_a_known_name_are_a_conflict(site: Site) -> None:
    """A file that differs from the catalog's is not registered, whether its size or only its bytes differ."""
    site.make("night/a.fits", b"pixels", "archive")
    site.submit(registering(FileSpec(LFN)), name="one")
    site.once("register")
    for name, content in (("longer", b"pixels!"), ("other", b"PIXELS")):
        site.make("night/a.fits", content, "vault")
        request = site.submit(registering(FileSpec(LFN), "vault"), name=name)
        site.once("register")
        assert site.state(request) == "Failed"
    assert site.replicas(LFN) == {"archive": "Good"}


def test_two_different_files_of_one_name_in_one_request(site: Site) -> None:
    """Both are read before either is known: one is registered, the other one fails; the catalog has one content."""
    site.make("night/a.fits", b"pixels", "archive")
    site.make("night/a.fits", b"PIXELS", "vault")
    request = site.submit(registering(FileSpec(LFN), "archive", "vault"))
    site.once("register")
    assert site.state(request) == "Failed"
    assert len(site.replicas(LFN)) == 1


def test_a_growing_file_is_not_registered_halfway(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Size and checksum always belong together: a file that grows while it is read is tried again later."""
    path = site.make("night/a.fits", b"pixels", "archive")
    real = FileReader.readinto
    grown: list[int] = []

    def growing(self: FileReader, buffer: memoryview) -> int:
        count = real(self, buffer)
        if len(grown) < 1 and count:
            grown.append(1)
            with path.open("ab") as stream:
                stream.write(b" and more")
        return count

    monkeypatch.setattr(FileReader, "readinto", growing)
    request = site.submit(registering(FileSpec(LFN)))
    assert site.once("register") == {"Queued": 1}
    assert site.rows("SELECT error_class FROM files") == [("source-changed",)]
    assert site.settle(request, "register") == "Done"
    entry = site.entry(LFN)
    assert entry is not None
    assert (entry.size, entry.checksum) == (15, adler(b"pixels and more"))


def test_a_fifo_is_not_waited_for(site: Site) -> None:
    """A FIFO on the element is refused and nobody hangs."""
    (site.folder / "archive/night").mkdir()
    os.mkfifo(site.folder / "archive/night/a.fits")
    site.submit(registering(FileSpec(LFN)))
    site.once("register")
    assert site.failure()[0] == "unsupported"
