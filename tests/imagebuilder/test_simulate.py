"""The camera that is played: the same pixels for the same seed, read out as a camera does, and every fault survived."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dtscore.errors import UsageError
from imagebuilder.camera import find_camera
from imagebuilder.pan.faults import Faults, FaultyClient
from imagebuilder.pan.simulate import Play, Played, Simulator, shares
from imagebuilder.pan.sky import Sky, readout
from tests.imagebuilder.standing import DUO, StandingNode


@pytest.fixture
def node(tmp_path: Path, sqlite_url: str) -> Iterator[StandingNode]:
    """A running node."""
    with StandingNode(tmp_path / "site", sqlite_url) as made:
        yield made


def play(node: StandingNode, what: Play, *, partial_after: float = 1000.0) -> list[Played]:
    """Play a camera against the node while the stand-in builds."""

    def connect(pan: str, spool: Path | None) -> FaultyClient:
        return FaultyClient([node.address], "duo", pan, node.secret, spool=spool, timeout=10)

    played: list[Played] = []
    thread = threading.Thread(target=lambda: played.extend(Simulator(DUO, what, connect).run()), daemon=True)
    thread.start()
    while thread.is_alive():
        node.build(partial_after=partial_after)
        thread.join(0.02)
    return played


def check(node: StandingNode, played: list[Played], seed: int) -> None:
    """Compare every image that was saved with what the camera saw."""
    sky = Sky(DUO, seed)
    for one in played:
        for detector in DUO.detectors:
            np.testing.assert_array_equal(node.images[one.exposure][detector.name], sky.image(one.exposure, detector))


def test_the_same_seed_gives_the_same_pixels() -> None:
    """And another seed, exposure or detector other ones."""
    one, same, other = Sky(DUO, 5), Sky(DUO, 5), Sky(DUO, 6)
    first, second = DUO.detectors
    np.testing.assert_array_equal(one.image(3, first), same.image(3, first))
    for different in (one.image(4, first), other.image(3, first), one.image(3, second)):
        assert (different != one.image(3, first)).mean() > 0.5


def test_a_picture_has_bias_overscan_sky_and_stars() -> None:
    """The overscan holds bias and read noise alone; the sky is brighter, stars still more, up to saturation."""
    detector = DUO.detectors[0]
    image = Sky(DUO, 1).image(1, detector).astype(float)
    for amplifier in detector.amplifiers:
        overscan, data = image[amplifier.bias.slices], image[amplifier.data.slices]
        assert 1400 < overscan.mean() < 1700
        assert overscan.std() < 3
        assert np.median(data) > overscan.mean() + 500
        assert data.max() > np.median(data) + 500
        assert data.max() <= amplifier.saturation
    assert Sky(DUO, 1, kind="bias").image(1, detector).max() < 1700


def test_focus_detectors_see_rings() -> None:
    """Stars out of focus are fainter at their peak than the same stars in focus."""
    decam = find_camera("decam")
    sky = Sky(decam, 1)
    focus = next(one for one in decam.detectors if one.name.startswith("F"))
    sharp = decam.detector("S1")
    assert sky.image(1, focus).max() < sky.image(1, sharp).max()


@pytest.mark.parametrize(
    ("detector", "amplifier", "first_read", "then_read"),
    [
        ("S1", "A", (-1, -1), (-1, -2)),  # read from the upper right corner, its columns to the left
        ("S1", "B", (-1, 0), (-1, 1)),  # from the upper left corner
        ("N1", "A", (0, 0), (0, 1)),  # from the lower left corner
        ("N1", "B", (0, -1), (0, -2)),  # from the lower right corner
    ],
)
def test_pixels_are_read_from_their_corner(
    detector: str, amplifier: str, first_read: tuple[int, int], then_read: tuple[int, int]
) -> None:
    """The order is that of the camera's electronics, written down here by hand."""
    one = DUO.detector(detector)
    image = np.arange(one.pixels).reshape(one.shape)
    pixels = readout(image, one.amplifier(amplifier))
    assert (pixels[0, 0], pixels[0, 1]) == (image[first_read], image[then_read])
    assert pixels.shape == (328, 114)


def test_shares_are_even() -> None:
    """70 detectors among five PANs are 14 each; more PANs than detectors are refused."""
    assert [len(share) for share in shares(find_camera("decam"), 5)] == [14] * 5
    with pytest.raises(UsageError, match="3 PANs for 2 detectors"):
        shares(DUO, 3)


def test_exposures_are_played_and_noted(node: StandingNode, tmp_path: Path) -> None:
    """Three exposures of two PANs are saved, and the manifest tells their sums."""
    manifest = tmp_path / "manifest.jsonl"
    played = play(node, Play(3, seed=4, manifest=manifest, wait=60))
    assert [one.saved for one in played] == [True] * 3
    check(node, played, 4)
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert len(lines) == 6
    for line in lines:
        image = node.images[line["exposure"]][line["detector"]]
        assert hashlib.sha256(np.ascontiguousarray(image)).hexdigest() == line["sha256"]


def test_drops_and_damaged_blocks_change_nothing(node: StandingNode) -> None:
    """Every tenth block is lost with its connection or damaged on its way; all pixels arrive all the same."""
    played = play(node, Play(4, seed=9, faults=Faults(drop=0.05, corrupt=0.05), block_rows=41, wait=60))
    assert [one.saved for one in played] == [True] * 4
    check(node, played, 9)


def test_a_dead_pan_makes_a_partial_exposure(node: StandingNode) -> None:
    """It dies in mid-frame and does not come back: its part is not saved, and the play says who is dead."""
    played = play(node, Play(1, seed=2, pans=2, faults=Faults(die=1.0), wait=3), partial_after=0.5)
    assert (played[0].saved, played[0].dead) == (False, ("pan1", "pan2"))


def test_a_pan_that_comes_back_late_is_saved(node: StandingNode) -> None:
    """It dies in mid-frame, comes back after a second, and sends again what is missing."""
    played = play(node, Play(1, seed=3, faults=Faults(die=1.0, late=1.0), wait=60))
    assert [one.saved for one in played] == [True]
    check(node, played, 3)
