"""The build agent: frames in shared memory become files that are landed, registered, accounted for and saved, once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from agents import ib_agent
from dtscore.errors import ElementFullError
from imagebuilder import exposures, headers, nodes, preview
from imagebuilder.camera import find_camera
from imagebuilder.headers import parse_card
from imagebuilder.records import ExposureState, FileState, FrameState, NodeStatus
from storage import landing
from tests.agents.camera import Node
from tests.agents.sites import Site

ALL = ("exposure", "build", "transfer")


@pytest.fixture
def node(site: Site) -> Iterator[Node]:
    """The site's builder node."""
    made = Node.of(site)
    yield made
    made.close()


def _only_file(node: Node, number: int, version: int = 1) -> exposures.FileLine:
    return node.exposure(number).files[version - 1]


def _path(node: Node, lfn: str, element: str = "local") -> Path:
    return node.site.folder / element / lfn.lstrip("/")


def test_an_exposure_becomes_a_file_in_the_catalog(node: Node) -> None:
    """Pixels, headers, catalog, accounting, attempts and the exposure's own rows all say the same."""
    number = node.expose("S1", "N1")
    assert node.site.once(*ALL)["complete"] == 1
    found = node.exposure(number)
    (file,) = found.files
    assert (found.line.state, file.state, file.flags, file.missing) == (ExposureState.SAVED, FileState.SAVED, (), ())
    node.check(_path(node, file.lfn), number, "S1", "N1")
    with fits.open(_path(node, file.lfn), checksum=True) as hdus:
        hdus.verify("exception")
        assert hdus[0].header["EXPNUM"] == number and hdus[0].header["OBJECT"] == "M 31"
        assert {name: int(hdus[name].header["DATASUM"]) for name in ("S1", "N1")} == dict(file.datasums)
    entry = node.site.entry(file.lfn)
    assert entry is not None and entry.metadata is not None
    assert (entry.size, entry.checksum) == (file.size, file.checksum)
    assert (entry.metadata.exposure, entry.metadata.object, entry.metadata.filter) == (number, "M 31", "r")
    assert entry.metadata.flags is None
    (row,) = node.site.rows("SELECT operation_type, final_status, transfer_size, destination FROM accounting_attempts")
    assert tuple(row) == ("build", "Done", file.size, "local")
    assert node.events("built") == [f"exposure {number}, version 1: 2 detectors from shared memory"]


def test_the_request_goes_on_with_the_further_steps(node: Node) -> None:
    """After the build comes what the configuration says: here a transfer to two elements and a verification."""
    node.site.write(imagebuilder__then="transfer archive vault, verify archive")
    number = node.expose("S1", "N1")
    for _ in range(3):
        node.site.once(*ALL, "verify")
    file = _only_file(node, number)
    assert file.request is not None and node.site.state(file.request) == "Done"
    assert set(node.site.replicas(file.lfn)) == {"local", "archive", "vault"}
    kinds = node.site.rows("SELECT type, node FROM operations ORDER BY sequence")
    assert [tuple(row) for row in kinds] == [("build", "here"), ("transfer", None), ("verify", None)]


def test_running_the_intake_twice_makes_one_request(node: Node) -> None:
    """The second look finds nothing that is due."""
    node.expose("S1", "N1")
    assert node.site.once("exposure")["complete"] == 1
    assert not node.site.once("exposure")
    assert node.site.rows("SELECT COUNT(*) FROM requests")[0][0] == 1


def test_a_partial_exposure_is_flagged_and_patched_by_the_late_frame(node: Node) -> None:
    """Version 1 has N1 invalid; version 2 takes N1 and keeps S1's pixels, both files stay, and the history says so."""
    number = node.expose("S1")
    node.silence(number)
    node.site.once(*ALL)
    first = _only_file(node, number)
    assert (first.flags, first.missing, first.detectors) == (("partial",), ("N1",), ("S1",))
    with fits.open(_path(node, first.lfn), checksum=True) as hdus:
        assert (hdus["N1"].header["VALIDA"], hdus["N1"].header["VALIDB"]) == (False, False)
        assert hdus[0].header["PARTIAL"] and not hdus["N1"].data.any()
    entry = node.site.entry(first.lfn)
    assert entry is not None and entry.metadata is not None and entry.metadata.flags == "partial"
    assert node.exposure(number).line.state is ExposureState.PARTIAL
    node.expose("N1", number=number)
    node.site.once(*ALL)
    second = _only_file(node, number, 2)
    assert second.lfn.endswith("_v2.fits") and second.supersedes == first.lfn
    node.check(_path(node, second.lfn), number, "S1", "N1")
    node.check(_path(node, first.lfn), number, "S1")
    patched = node.site.entry(second.lfn)
    assert patched is not None and patched.metadata is not None
    assert (patched.metadata.flags, patched.metadata.supersedes) == (None, first.lfn)
    assert node.events("partial") == [f"exposure {number}, version 1 lacks N1: VALIDA, VALIDB = F for what is missing"]
    assert node.events("patched") == [f"exposure {number}, version 2 adds N1 and supersedes {first.lfn}"]
    assert node.events("superseded") == [f"{first.lfn} is superseded by {second.lfn}"]
    assert node.exposure(number).line.state is ExposureState.SAVED


def test_the_preview_of_a_patched_exposure_shows_all_of_it(node: Node) -> None:
    """The picture of version 2 is that of its file: the late frame and those of the file before."""
    number = node.expose("S1")
    node.silence(number)
    node.site.once(*ALL)
    node.expose("N1", number=number)
    node.site.once(*ALL)
    second = _only_file(node, number, 2)
    drawn = node.site.folder / "var" / "previews" / f"{Path(second.lfn).stem}.png"
    camera = find_camera("duo", [])
    plane = preview.mosaic(camera, preview.of_file(camera, _path(node, second.lfn)))
    assert drawn.read_bytes() == preview.png(plane)
    assert not np.isnan(plane).any()


def test_half_a_frame_is_kept_but_not_acknowledged(node: Node) -> None:
    """The rows that came are in the file, marked as not valid; the detector is not told to be saved."""
    number = node.expose("S1")
    assignment = node.begin(number, "N1")
    node.place(number, assignment, "N1", rows=100)
    node.silence(number)
    node.site.once(*ALL)
    file = _only_file(node, number)
    assert (file.missing, file.detectors) == (("N1",), ("S1",))
    with fits.open(_path(node, file.lfn)) as hdus:
        amplifier = node.camera.detector("N1").amplifier("A")
        stored = hdus["N1"].data[amplifier.image.slices]
        readout = stored[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]
        assert (readout[:100] == node.pixels(number, "N1", "A")[:100]).all()
        assert not readout[100:].any() and not hdus["N1"].header["VALIDA"]
    assert {one.detector: one.state for one in node.exposure(number).frames}["N1"] is FrameState.RECEIVING


def test_a_card_that_breaks_the_dictionary_flags_the_file(node: Node) -> None:
    """The card stands in the header all the same, the file is flagged, and the history names the card."""
    number = node.expose("S1", "N1", cards=["EXPTIME=minus one", "WHATEVER=1"])
    node.site.once(*ALL)
    file = _only_file(node, number)
    assert file.flags == ("header",) and any("EXPTIME" in one for one in file.violations)
    (event,) = node.events("header")
    assert "EXPTIME" in event
    entry = node.site.entry(file.lfn)
    assert entry is not None and entry.metadata is not None and entry.metadata.flags == "header"
    node.check(_path(node, file.lfn), number, "S1", "N1")


def test_frames_that_are_gone_are_expected_anew(node: Node) -> None:
    """A node that lost its memory: the request fails with a clear class, and the frames sent again are built."""
    number = node.label()
    assignment = node.begin(number, "S1", "N1")
    pages = [node.place(number, assignment, name) for name in ("S1", "N1")]
    node.received(number, assignment, pages)
    node.site.once("exposure")
    for page in pages:
        node.cache.give_back(page)
    node.site.once("build")
    assert node.site.failure()[0] == "frames-missing"
    assert node.exposure(number).files[0].state is FileState.ABANDONED
    assert node.exposure(number).line.state is ExposureState.RECEIVING
    node.expose("S1", "N1", number=number)
    node.site.once(*ALL)
    file = _only_file(node, number)
    assert (file.version, file.state) == (1, FileState.SAVED)
    node.check(_path(node, file.lfn), number, "S1", "N1")


def _reassign(node: Node, number: int) -> None:
    """Give an exposure to another node: the one of the test never sent a heartbeat, and counts as dead."""
    status = NodeStatus("there", "there", 1, 10, 10, 1000)
    node.database.run(lambda connection: nodes.beat(connection, status))
    found = node.database.run(lambda connection: exposures.assign(connection, number, "duo", stale=60))
    assert (found.node, found.number) == ("there", 2)


def test_what_another_node_builds_now_is_not_built_here(node: Node) -> None:
    """An assignment that went stale before the build began fails it; nothing lies on the element."""
    number = node.expose("S1", "N1")
    node.site.once("exposure")
    _reassign(node, number)
    node.site.once("build")
    assert node.site.failure()[0] == "stale-assignment"
    assert not list((node.site.folder / "local").rglob("*.fits"))


def test_a_stale_result_is_refused_by_the_commit(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exposure changes hands after the file was published: neither the catalog nor the exposure takes it."""
    number = node.expose("S1", "N1")
    node.site.once("exposure")
    land = ib_agent.land

    def late(*args: object, **named: object) -> object:
        landed = land(*args, **named)  # type: ignore[arg-type]
        _reassign(node, number)
        return landed

    monkeypatch.setattr(ib_agent, "land", late)
    node.site.once("build")
    assert node.site.failure()[0] == "stale-assignment"
    assert node.site.rows("SELECT COUNT(*) FROM catalog_files")[0][0] == 0
    assert node.exposure(number).line.saved == 0


def test_a_leftover_that_the_catalog_does_not_know_is_replaced(node: Node) -> None:
    """What an attempt left that died between publishing and its commit is in nobody's way."""
    number = node.expose("S1", "N1")
    node.site.once("exposure")
    lfn = _only_file(node, number).lfn
    _path(node, lfn).parent.mkdir(parents=True)
    _path(node, lfn).write_bytes(b"half a file")
    node.site.once("build")
    assert _only_file(node, number).state is FileState.SAVED
    node.check(_path(node, lfn), number, "S1", "N1")


@pytest.mark.parametrize("function", ["write", "land"])
def test_a_builder_that_is_killed_builds_it_at_the_next_start(site: Site, function: str) -> None:
    """SIGKILL before the landing, or between the landing and the commit: built once, from the same pages."""
    made = Node.of(site)
    number = made.expose("S1", "N1")
    site.once("exposure")
    if function == "land":
        site.dying("agents.ib_agent", "land", "build")
    else:
        site.dying("agents.commit", "_write_further", "build")
    assert made.exposure(number).line.state is ExposureState.COMPLETE
    site.settle(1, "build", seconds=60)
    file = _only_file(made, number)
    assert file.state is FileState.SAVED
    made.check(_path(made, file.lfn), number, "S1", "N1")
    made.close()


def test_a_full_disk_is_an_outage_and_no_failure(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The channel rests; when there is room again the exposure is built, and no attempt was used up."""
    number = node.expose("S1", "N1")
    land = ib_agent.land
    met = []

    def full(*args: object, **named: object) -> object:
        if len(met) < 4:
            met.append(1)
            raise ElementFullError("no space left on local", "make room", element="local")
        return land(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ib_agent, "land", full)
    node.site.once("exposure")
    assert node.site.settle(1, "build", seconds=60) == "Done"
    assert _only_file(node, number).state is FileState.SAVED
    assert node.site.rows("SELECT failures FROM files")[0][0] == 0


def test_a_compressed_file_is_built_patched_and_readable(node: Node) -> None:
    """With `compress = rice` the file ends in .fits.fz, holds the same pixels, and is patched all the same."""
    node.site.write(imagebuilder__compress="rice")
    number = node.expose("S1")
    node.silence(number)
    node.site.once(*ALL)
    node.expose("N1", number=number)
    node.site.once(*ALL)
    second = _only_file(node, number, 2)
    assert second.lfn.endswith("_v2.fits.fz")
    node.check(_path(node, second.lfn), number, "S1", "N1")
    assert not list((node.site.folder / "var" / "cache").iterdir())


def test_an_exposure_of_which_nothing_is_left_is_not_built(node: Node) -> None:
    """Half a frame was there when it was asked for, and is gone: no file of zeros comes of it."""
    number = node.label()
    page = node.place(number, node.begin(number, "S1"), "S1", rows=50)
    node.silence(number)
    assert node.site.once("exposure") == {"partial": 1}
    node.cache.give_back(page)
    node.site.once("build")
    assert node.site.failure()[0] == "frames-missing"
    assert not list((node.site.folder / "local").rglob("*.fits"))
    assert not node.site.once("exposure")


def _post(node: Node, number: int, *cards: str) -> None:
    parsed = [parse_card(text) for text in cards]
    node.database.run(lambda connection: headers.post(connection, number, parsed, "test"))


def _work(node: Node) -> Counter[str]:
    """Do all there is, once nothing came for partial_after."""
    time.sleep(0.2)
    return node.site.once(*ALL)


def test_metadata_that_come_after_the_file_make_a_new_version(node: Node) -> None:
    """The pixels are those of the first file, though its pages are gone; the header has what was posted later."""
    node.site.write(imagebuilder__partial_after="100 ms")
    number = node.expose("S1", "N1")
    _work(node)
    first = _only_file(node, number)
    for page in node.cache.held:
        node.cache.give_back(page)
    _post(node, number, "OBJECT=M 31")
    assert not _work(node)  # nothing that was not there already
    _post(node, number, "OBJECT=M 33 / corrected", "AIRMASS=1.25")
    _work(node)
    second = _only_file(node, number, 2)
    assert (second.supersedes, second.detectors, second.missing) == (first.lfn, (), ())
    node.check(_path(node, second.lfn), number, "S1", "N1")
    with fits.open(_path(node, second.lfn), checksum=True) as hdus:
        hdus.verify("exception")
        assert (hdus[0].header["OBJECT"], hdus[0].header["AIRMASS"]) == ("M 33", 1.25)
        assert hdus[0].header["SUPERSED"] == first.lfn
    with fits.open(_path(node, first.lfn)) as hdus:
        assert hdus[0].header["OBJECT"] == "M 31"
    assert dict(second.datasums) == dict(first.datasums)
    expected = f"exposure {number}, version 2 has the metadata that were posted later and supersedes {first.lfn}"
    assert node.events("revised") == [expected]
    assert node.events("superseded") == [f"{first.lfn} is superseded by {second.lfn}"]
    assert node.exposure(number).line.state is ExposureState.SAVED
    assert not _work(node)  # once is enough


def test_metadata_that_come_while_a_file_is_built_are_not_lost(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is posted after the header was gathered, and before the commit, is in the version after it."""
    node.site.write(imagebuilder__partial_after="100 ms")
    number = node.expose("S1", "N1")
    land, posted = landing.land, threading.Event()

    def post_and_land(*args: Any, **named: Any) -> object:
        if not posted.is_set():
            posted.set()
            _post(node, number, "OBJECT=M 33")
        return land(*args, **named)

    monkeypatch.setattr(ib_agent, "land", post_and_land)
    _work(node)
    _work(node)
    objects = [fits.getheader(_path(node, file.lfn))["OBJECT"] for file in node.exposure(number).files]
    assert objects == ["M 31", "M 33"]


def test_a_partial_exposure_is_revised_and_still_patched(node: Node) -> None:
    """Late metadata of a partial exposure, then its late frame: version 2 lacks what 1 lacked, version 3 is whole."""
    node.site.write(imagebuilder__partial_after="100 ms")
    number = node.expose("S1")
    _work(node)
    _post(node, number, "OBJECT=M 33")
    _work(node)
    node.expose("N1", number=number)
    _work(node)
    files = node.exposure(number).files
    assert [(file.version, file.missing, file.flags) for file in files] == [
        (1, ("N1",), ("partial",)), (2, ("N1",), ("partial",)), (3, (), ()),
    ]  # fmt: skip
    node.check(_path(node, files[2].lfn), number, "S1", "N1")
    assert fits.getheader(_path(node, files[2].lfn))["OBJECT"] == "M 33"
