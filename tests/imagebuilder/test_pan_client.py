"""The Python client of a PAN against a real builder node: what it promises about pixels, cuts, restarts and errors."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtscore.errors import ConfigurationError, CredentialsError, StateError, StorageFaultError, UsageError
from imagebuilder.pan.client import PanClient
from imagebuilder.pan.link import UnreachableError, parse_address
from imagebuilder.pan.sending import Saved
from imagebuilder.pan.sky import Sky, readout
from imagebuilder.wire import WireError
from tests.imagebuilder.standing import DUO, StandingNode

SKY = Sky(DUO, 7)


@pytest.fixture
def node(tmp_path: Path, sqlite_url: str) -> Iterator[StandingNode]:
    """A running node."""
    with StandingNode(tmp_path / "site", sqlite_url) as made:
        yield made


def client(node: StandingNode, pan: str = "pan1", **options: Any) -> PanClient:
    """Return a client of the node."""
    return PanClient([node.address], "duo", pan, node.secret, timeout=10, **options)


def hand_over(pan: PanClient, exposure: int, detectors: tuple[str, ...] = ("S1", "N1"), rows: int = 50) -> None:
    """Hand over an exposure's detectors and end it."""
    pan.begin(exposure, detectors)
    for name in detectors:
        detector = DUO.detector(name)
        image = SKY.image(exposure, detector)
        for amplifier in detector.amplifiers:
            pixels = readout(image, amplifier)
            for row in range(0, amplifier.rows, rows):
                pan.block(exposure, name, amplifier.name, row, pixels[row : row + rows])
    pan.end(exposure)


def save(node: StandingNode, pan: PanClient, exposure: int) -> Saved:
    """Let the stand-in build until the PAN hears SAVED."""
    until = time.monotonic() + 30
    while not pan.progress(exposure).saved and time.monotonic() < until:
        node.build(partial_after=1000.0)
        pan.poll(0.02)
    return pan.wait_saved(exposure, 0.0)


def check(node: StandingNode, exposure: int, detectors: tuple[str, ...] = ("S1", "N1")) -> None:
    """Compare what was saved with what was sent, pixel by pixel."""
    assert set(node.images[exposure]) == set(detectors)
    for name in detectors:
        np.testing.assert_array_equal(node.images[exposure][name], SKY.image(exposure, DUO.detector(name)))


def test_an_exposure_is_received_and_saved(node: StandingNode) -> None:
    """Label, begin, metadata, blocks, end: RECEIVED, then SAVED, pixel by pixel; then nothing is kept any more."""
    with client(node) as pan:
        label = pan.label("survey")[0]
        assert label.label.endswith(f"_{label.exposure:08d}")
        hand_over(pan, label.exposure)
        pan.wait_received(label.exposure, 30)
        assert [one.exposure for one in pan.held()] == [label.exposure]
        assert pan.progress(label.exposure).rows_received == 4 * 328
        saved = save(node, pan, label.exposure)
        assert saved.version == 1
        assert saved.lfn.startswith("/f/")
        assert pan.held() == []
    check(node, label.exposure)


def test_labels_are_taken_several_at_once(node: StandingNode) -> None:
    """Numbers ascend without a gap, and each has its label."""
    with client(node) as pan:
        labels = pan.label(count=3)
        assert [one.exposure - labels[0].exposure for one in labels] == [0, 1, 2]
        assert all(one.label.endswith(f"{one.exposure:08d}") for one in labels)


@pytest.mark.parametrize("pixel", ["uint16", "int16", "int32", "uint32", "float32"])
def test_every_type_of_pixels(node: StandingNode, pixel: str) -> None:
    """Pixels of each type arrive as they were, from arrays of any byte order and layout."""
    chance = np.random.default_rng(3)
    images = {d.name: chance.integers(0, 30_000, d.shape).astype(pixel) for d in DUO.detectors}
    number = node.label()
    with client(node) as pan:
        pan.begin(number, ["S1", "N1"], type=pixel)
        for detector in DUO.detectors:
            for amplifier in detector.amplifiers:
                big = readout(images[detector.name], amplifier).astype(np.dtype(pixel).newbyteorder(">"))
                pan.block(number, detector.name, amplifier.name, 0, np.asfortranarray(big))
        pan.end(number)
        save(node, pan, number)
    for name, image in images.items():
        np.testing.assert_array_equal(node.images[number][name], image)


def test_two_pans_share_an_exposure(node: StandingNode) -> None:
    """Each hears SAVED for its own detectors."""
    number = node.label()
    with client(node, "pan1") as one, client(node, "pan2") as two:
        hand_over(one, number, ("S1",))
        hand_over(two, number, ("N1",))
        one.wait_received(number, 30)
        two.wait_received(number, 30)
        save(node, one, number)
        assert two.wait_saved(number, 30).version == 1
    check(node, number)


def test_a_part_that_is_saved_first(node: StandingNode) -> None:
    """One detector is in the first version of the file, the late one in the second; only then nothing is kept."""
    number = node.label()
    with client(node) as pan:
        pan.begin(number, ["S1", "N1"])
        images = {one.name: SKY.image(number, one) for one in DUO.detectors}
        for amplifier in DUO.detectors[0].amplifiers:
            pan.block(number, "S1", amplifier.name, 0, readout(images["S1"], amplifier))
        until = time.monotonic() + 30
        while not pan.progress(number).files and time.monotonic() < until:
            node.build(partial_after=0.2)
            pan.poll(0.05)
        assert [one.version for one in pan.progress(number).files] == [1]
        assert not pan.progress(number).saved
        for amplifier in DUO.detectors[1].amplifiers:
            pan.block(number, "N1", amplifier.name, 0, readout(images["N1"], amplifier))
        pan.end(number)
        assert save(node, pan, number).version == 2
    check(node, number)


def test_what_is_saved_before_the_end_is_forgotten_with_it(node: StandingNode, tmp_path: Path) -> None:
    """A node may save an exposure before the camera says that no more will come; a dead detector holds nothing up."""
    number = node.label()
    with client(node, spool=tmp_path / "spool") as pan:
        pan.begin(number, ["S1", "N1"])
        image = SKY.image(number, DUO.detectors[0])
        for amplifier in DUO.detectors[0].amplifiers:
            pan.block(number, "S1", amplifier.name, 0, readout(image, amplifier))
        until = time.monotonic() + 30
        while not pan.progress(number).files and time.monotonic() < until:
            node.build(partial_after=0.2)
            pan.poll(0.05)
        assert (tmp_path / "spool" / str(number)).exists()
        pan.end(number)
        assert pan.wait_saved(number, 0).version == 1
        assert not (tmp_path / "spool" / str(number)).exists()


def test_a_node_that_restarts_in_mid_exposure(node: StandingNode) -> None:
    """What is in shared memory stays; what was on its way goes again, and nobody notices."""
    number = node.label()
    with client(node) as pan:
        image = SKY.image(number, DUO.detectors[0])
        pan.begin(number, ["S1", "N1"])
        pan.block(number, "S1", "A", 0, readout(image, DUO.detectors[0].amplifiers[0]))
        pan.poll(0.1)
        port = node.node.port
        node.stop()
        pan.block(number, "S1", "B", 0, readout(image, DUO.detectors[0].amplifiers[1]))
        pan.poll(0.1)
        assert pan.progress(number).error
        node.settings = type(node.settings)(**{**_fields(node.settings), "port": port})
        node.start()
        other = SKY.image(number, DUO.detectors[1])
        for amplifier in DUO.detectors[1].amplifiers:
            pan.block(number, "N1", amplifier.name, 0, readout(other, amplifier))
        pan.end(number)
        save(node, pan, number)
    check(node, number)


def _fields(settings: Any) -> dict[str, Any]:
    import dataclasses

    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}


def test_everything_is_kept_while_no_node_answers(node: StandingNode, tmp_path: Path) -> None:
    """Begin, blocks and end do not fail; a wait says who does not answer; when the node is there it all goes out."""
    number, port = node.label(), node.node.port
    address = node.address
    node.stop()
    with PanClient([address], "duo", "pan1", node.secret, timeout=10) as pan:
        hand_over(pan, number)
        with pytest.raises(UnreachableError, match=f"exposure {number} is not saved.*{address}"):
            pan.wait_saved(number, 0.2)
        node.settings = type(node.settings)(**{**_fields(node.settings), "port": port})
        node.start()
        save(node, pan, number)
    check(node, number)


def test_a_spool_outlives_the_program(node: StandingNode, tmp_path: Path) -> None:
    """A PAN that ends before SAVED sends the same pixels after its restart, and then the spool is empty."""
    number, spool = node.label(), tmp_path / "spool"
    pan = client(node, spool=spool)
    hand_over(pan, number)
    pan.close()
    assert (spool / str(number) / "journal").exists()
    with client(node, spool=spool) as again:
        assert [one.exposure for one in again.held()] == [number]
        save(node, again, number)
    check(node, number)
    assert [path.name for path in spool.iterdir()] == ["lock"]


def test_a_spool_that_was_cut_off_is_read_up_to_there(node: StandingNode, tmp_path: Path) -> None:
    """Half a line of the journal, or a damaged block, is left out; the rows can be handed over anew."""
    number, spool = node.label(), tmp_path / "spool"
    pan = client(node, spool=spool)
    image = SKY.image(number, DUO.detectors[0])
    pan.begin(number, ["S1"])
    for amplifier in DUO.detectors[0].amplifiers:
        pan.block(number, "S1", amplifier.name, 0, readout(image, amplifier))
    pan.close()
    with (spool / str(number) / "pixels").open("r+b") as stream:
        stream.seek(10)
        stream.write(b"\xff\xfe")
    with (spool / str(number) / "journal").open("a") as stream:
        stream.write('{"block": ["S1", "B"')
    with client(node, spool=spool) as again:
        assert again.progress(number).rows == 328
        again.block(number, "S1", "A", 0, readout(image, DUO.detectors[0].amplifiers[0]))
        again.end(number)
        again.wait_received(number, 30)
    with pytest.raises(StateError, match="in use"), client(node, spool=spool), client(node, spool=spool):
        pass


def test_a_full_spool_is_told_and_the_rows_can_be_handed_over_again(
    node: StandingNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full in the middle of a block: a clear error, and nothing of what is written then is wrong."""
    number, honest = node.label(), os.pwrite
    south = DUO.detectors[0]
    image = SKY.image(number, south)

    def full(descriptor: int, data: Any, offset: int) -> int:
        if offset or len(data) < 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return honest(descriptor, data[:1000], offset)

    with client(node, spool=tmp_path / "spool") as pan:
        pan.begin(number, ["S1"])
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(StorageFaultError, match="No space left"):
            pan.block(number, "S1", "A", 0, readout(image, south.amplifiers[0]))
        monkeypatch.undo()
        for amplifier in south.amplifiers:
            pan.block(number, "S1", amplifier.name, 0, readout(image, amplifier))
        pan.end(number)
    with client(node, spool=tmp_path / "spool") as again:
        assert again.progress(number).rows == 2 * 328
        again.wait_received(number, 30)
        node.build(partial_after=0.0)
        assert again.wait_saved(number, 30).version == 1
    np.testing.assert_array_equal(node.images[number]["S1"], image)


def test_busy_is_waited_for(tmp_path: Path, sqlite_url: str) -> None:
    """With room for one exposure the second is BUSY, and goes on when the first is saved."""
    with StandingNode(tmp_path / "site", sqlite_url, cache="1 MiB") as node, client(node) as pan:
        first, second = node.label(), node.label()
        hand_over(pan, first)
        pan.wait_received(first, 30)
        hand_over(pan, second)
        assert "busy" in pan.progress(second).error
        save(node, pan, first)
        save(node, pan, second)
        check(node, first)
        check(node, second)


def test_refusals_are_clear(node: StandingNode) -> None:
    """What can never succeed is raised in the node's own words: another PAN's detector, a number nobody gave out."""
    number = node.label()
    with client(node, "pan1") as one, client(node, "pan2") as two:
        hand_over(one, number, ("S1",))
        with pytest.raises(WireError, match=r"S1.*pan1"):
            two.begin(number, ["S1"])
        with pytest.raises(WireError, match="never handed out") as refused:
            two.begin(999_999, ["N1"])
        assert refused.value.hint
        with pytest.raises(WireError, match="X9"):
            two.begin(node.label(), ["X9"])
        wrong = node.label()
        two.begin(wrong, ["N1"])
        with pytest.raises(WireError, match=r"2 rows are 456 bytes"):
            two.block(wrong, "N1", "A", 0, np.zeros((2, 10), np.uint16))
            two.end(wrong)
            two.wait_received(wrong, 30)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda pan, n: pan.begin(n, ["S1"]), "begun before"),
        (lambda pan, n: pan.begin(0, ["S1"]), "number above 0"),
        (lambda pan, n: pan.begin(n + 1, []), "its detectors"),
        (lambda pan, n: pan.begin(n + 1, ["S 1"]), "not a name"),
        (lambda pan, n: pan.begin(n + 1, ["S1"], type="uint8"), "not a type"),
        (lambda pan, n: pan.block(n, "N1", "A", 0, np.zeros((1, 114), np.uint16)), "without detector"),
        (lambda pan, n: pan.block(n, "S1", "A", 0, np.zeros(114, np.uint16)), "not rows"),
        (lambda pan, n: pan.block(n, "S1", "A", 0, np.zeros((1, 114), np.int32)), "int32"),
        (lambda pan, n: pan.block(n, "S1", "A", 327, np.zeros((1, 114), np.uint16)), "handed over before"),
        (lambda pan, n: pan.metadata(n, "x" * 70_000), "70000"),
        (lambda pan, n: (pan.end(n), pan.end(n)), "has ended"),
        (lambda pan, n: pan.wait_saved(n + 7, 1), "not kept here"),
    ],
)
def test_wrong_calls_are_told_before_anything_is_kept(node: StandingNode, spoil: Any, message: str) -> None:
    """Each wrong call is a UsageError that says what is wrong."""
    number = node.label()
    with client(node) as pan:
        pan.begin(number, ["S1"])
        pan.block(number, "S1", "A", 327, np.zeros((1, 114), np.uint16))
        with pytest.raises(UsageError, match=message):
            spoil(pan, number)


def test_secrets_are_proved_on_both_sides(node: StandingNode, tmp_path: Path) -> None:
    """A wrong secret is a clear error at once; one that others can read is refused before anything is sent."""
    other = tmp_path / "other.secret"
    other.touch(mode=0o600)
    other.write_text("qwertzuiopasdfghjkl\n")
    with (
        PanClient([node.address], "duo", "pan1", other, timeout=5) as pan,
        pytest.raises(CredentialsError, match="secret"),
    ):
        pan.label()
    other.chmod(0o644)
    with pytest.raises(ConfigurationError, match="0644"):
        PanClient([node.address], "duo", "pan1", other)


def test_addresses() -> None:
    """IPv4, names and IPv6 in brackets; anything else is told."""
    assert parse_address("b1:7730") == ("b1", 7730)
    assert parse_address("[::1]:7730") == ("::1", 7730)
    for wrong in ("b1", "b1:", ":7730", "b1:x", "b1:70000"):
        with pytest.raises(UsageError, match="not an address"):
            parse_address(wrong)


def test_a_quiet_client_keeps_its_connection(tmp_path: Path, sqlite_url: str) -> None:
    """While it polls, PINGs keep the connection beyond the idle time-out."""
    with StandingNode(tmp_path / "site", sqlite_url, idle="1 s") as node, client(node) as pan:
        number = node.label()
        hand_over(pan, number)
        pan.wait_received(number, 30)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            pan.poll(0.1)
        assert pan.progress(number).connections == 1
        save(node, pan, number)


def test_a_saved_file_with_other_sums_is_not_believed(node: StandingNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The PAN compares the sums in SAVED with its own pixels before it forgets them."""
    monkeypatch.setattr("imagebuilder.desk._sums", lambda page: f"{page.detector} A 00000000\n")
    number = node.label()
    with client(node) as pan:
        hand_over(pan, number)
        pan.wait_received(number, 30)
        node.build()
        with pytest.raises(WireError, match="does not hold the pixels"):
            pan.wait_saved(number, 30)
        assert pan.progress(number).rows == 4 * 328
