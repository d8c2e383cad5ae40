"""The collector against a PAN that does everything wrong: a clear answer each time, and nothing silently wrong."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from crc32c import crc32c

from dtscore.database import Database
from dtscore.errors import ConfigurationError
from imagebuilder import exposures, headers, wire
from imagebuilder.cache import open_frames
from imagebuilder.node import Node
from imagebuilder.records import ExposureState
from imagebuilder.wire import Kind
from tests.imagebuilder.wiring import DUO, PAGE, RawPan, block_body, label, running, save, settings, sky_of


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    """SQLite: what these tests prove does not depend on the database."""
    opened = Database(sqlite_url)
    yield opened
    opened.close()


@pytest.fixture
def node(database: Database, tmp_path: Path) -> Iterator[Node]:
    """A running node with four pages."""
    with running(database, tmp_path) as made:
        yield made


@pytest.fixture
def pan(node: Node) -> Iterator[RawPan]:
    """A PAN that has said hello."""
    with RawPan(node.port) as made:
        yield made


@pytest.fixture
def exposure(database: Database) -> int:
    """A number that was handed out."""
    return label(database)


def _frames(tmp_path: Path, exposure: int) -> dict[str, bytes]:
    return {name: bytes(frame.data) for name, frame in open_frames(tmp_path / "cache", exposure, 1).items()}


def _image(detector: str, seed: int = 1) -> bytes:
    """What a detector's data unit is to hold."""
    one = DUO.detector(detector)
    image = np.zeros(one.shape, dtype=">i2")
    for amplifier in one.amplifiers:
        sent = sky_of(detector, seed=seed)[detector, amplifier.name].astype(np.int32) - 32768
        image[amplifier.image.slices] = sent[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]
    return image.tobytes()


def test_an_exposure_is_received(pan: RawPan, database: Database, tmp_path: Path, exposure: int) -> None:
    """BEGIN, blocks, END: acknowledged row by row, in shared memory as FITS has it, and the database knows."""
    accepted = pan.begin(exposure)
    assert (accepted.kind, accepted.body, bytes(accepted.data)) == (
        Kind.ACCEPTED, {"exposure": str(exposure), "assignment": "1"}, b"",
    )  # fmt: skip
    pan.send_all(exposure, sky_of())
    done = pan.ask(Kind.END, exposure=exposure)
    assert (done.kind, done.body) == (Kind.RECEIVED, {"exposure": str(exposure), "complete": "yes"})
    assert _frames(tmp_path, exposure) == {name: _image(name) for name in ("S1", "N1")}
    with database.read() as connection:
        found = exposures.find(connection, exposure)
    assert found.line.state is ExposureState.COMPLETE
    for frame in found.frames:
        for one in DUO.detector(frame.detector).amplifiers:
            blocks = frame.blocks[one.name]
            assert sum(block.rows for block in blocks) == one.rows
            pixels = sky_of(frame.detector)[frame.detector, one.name]
            assert all(crc32c(pixels[b.row : b.row + b.rows].tobytes()) == b.crc32c for b in blocks)


def test_labels_are_handed_out(pan: RawPan) -> None:
    """A PAN can take numbers, several at once; the next ones follow on."""
    first = pan.ask(Kind.LABEL, count=3, program="survey")
    assert first.kind is Kind.LABELLED
    assert first.body["label"].endswith(f"_{int(first.body['exposure']):08d}")
    second = pan.ask(Kind.LABEL)
    assert int(second.body["exposure"]) == int(first.body["exposure"]) + 3
    pan.refused("bad-value", Kind.LABEL, count=0)
    pan.refused("bad-value", Kind.LABEL, count=1_000_001)


def test_a_node_answers_where(pan: RawPan, node: Node, exposure: int) -> None:
    """An exposure of this very node is to be sent over this very connection."""
    here = pan.ask(Kind.WHERE, exposure=exposure)
    assert here.body == {
        "exposure": str(exposure), "host": "", "port": str(node.port), "node": "one", "assignment": "1",
    }  # fmt: skip
    pan.refused("unknown-exposure", Kind.WHERE, exposure=10**9)


def test_metadata_reach_the_database(pan: RawPan, database: Database, exposure: int) -> None:
    """For the exposure and for one detector; nothing is taken of a frame with a wrong line."""
    pan.send(Kind.METADATA, b"EXPTIME=90.0 / s\nFILTER=r\n", exposure=exposure)
    pan.send(Kind.METADATA, b"CCDTEMP=173.5\n", exposure=exposure, detector="S1")
    wrong = pan.refused("bad-metadata", Kind.METADATA, b"OBJECT=M31\nTOO LONG A KEYWORD=1\n", exposure=exposure)
    assert "line 2" in wrong.body["message"]
    pan.refused("bad-metadata", Kind.METADATA, b"\xff=1\n", exposure=exposure)
    pan.refused("unknown-detector", Kind.METADATA, b"A=1\n", exposure=exposure, detector="X9")
    pan.refused("unknown-exposure", Kind.METADATA, b"A=1\n", exposure=10**9)
    others = database.run(lambda connection: exposures.hand_out(connection, "decam"))[0].exposure
    assert "decam, not" in pan.refused("refused", Kind.METADATA, b"A=1\n", exposure=others).body["message"]
    with database.read() as connection:
        cards = headers.gather(connection, exposure)
    assert [(card.keyword, card.value, card.detector) for card in cards] == [
        ("EXPTIME", 90.0, ""), ("FILTER", "r", ""), ("CCDTEMP", 173.5, "S1"),
    ]  # fmt: skip


def test_a_wrong_secret_is_refused(node: Node) -> None:
    """The node says so and hangs up; it has shown its own proof, which the PAN can check."""
    with RawPan(node.port, hello=False) as pan:
        answer = pan.hello("another-Secret.42")
        assert (answer.kind, answer.body["code"], answer.body["fatal"]) == (Kind.ERROR, "bad-secret", "yes")
        assert pan.ended()


@pytest.mark.parametrize("kind", [Kind.LABEL, Kind.BEGIN, Kind.PROOF, Kind.PING, Kind.BLOCK])
def test_nothing_is_answered_before_hello(node: Node, kind: Kind) -> None:
    """Whoever has not proved anything gets one error."""
    with RawPan(node.port, hello=False) as pan:
        pan.refused("bad-order", kind, count=1)
        assert pan.ended()


def test_an_unknown_camera_is_refused(node: Node) -> None:
    """A PAN with the right secret and the name of a camera that is not configured; file names are no cameras."""
    with RawPan(node.port, camera="lsst", hello=False) as pan:
        assert pan.hello().body["code"] == "unknown-camera"
        assert pan.ended()
    with RawPan(node.port, camera="../duo", hello=False) as pan:
        assert pan.ask(Kind.HELLO, camera="../duo", pan="p1", nonce="a" * 64).body["code"] == "bad-value"


def test_a_stranger_is_turned_away(database: Database, tmp_path: Path) -> None:
    """A peer outside of the allow list hears why, and no more."""
    with running(database, tmp_path, peers="10.0.0.0/8") as node, RawPan(node.port, hello=False) as pan:
        answer = pan.read()
        assert (answer.body["code"], answer.body["fatal"]) == ("not-allowed", "yes")
        assert pan.ended()


def test_a_node_does_not_start_with_a_bad_secret(database: Database, tmp_path: Path) -> None:
    """An empty secret, or none, is refused before anything listens or memory is taken."""
    wanted = settings(tmp_path)
    wanted.secret_file.write_text("\n")
    with pytest.raises(ConfigurationError):
        Node(database, wanted, "one")
    wanted.secret_file.unlink()
    with pytest.raises(ConfigurationError):
        Node(database, wanted, "one")
    assert not wanted.cache_folder.exists()


def test_garbage_ends_the_connection_with_a_clear_error(node: Node) -> None:
    """Another protocol's first words."""
    with RawPan(node.port, hello=False) as pan:
        pan.socket.sendall(b"GET / HTTP/1.1\r\nHost: builder1\r\nUser-Agent: me\r\n\r\n")
        assert pan.read().body["code"] == "bad-magic"
        assert pan.ended()


@pytest.mark.parametrize(
    ("offset", "value", "code"),
    [
        (4, b"\2", "bad-version"), (5, b"\x63", "bad-type"), (16, b"\0\0\x20\1", "too-large"),
        (20, b"\xff" * 4, "too-large"), (8, b"\0" * 8, "bad-sequence"),
    ],
)  # fmt: skip
def test_a_lying_header_ends_the_connection(pan: RawPan, offset: int, value: bytes, code: str) -> None:
    """Version, type, lengths, number: the header's own sum is right, what it says is not."""
    start = wire.head(Kind.BLOCK, pan.sequence + 1, {}, b"")[:32]
    start = start[:offset] + value + start[offset + len(value) :]
    pan.socket.sendall(start + struct.pack(">I", crc32c(start)))
    answer = pan.read()
    assert (answer.body["code"], answer.body["fatal"]) == (code, "yes")
    assert pan.ended()


def test_frames_that_are_the_nodes_are_refused(pan: RawPan) -> None:
    """A PAN cannot say SAVED."""
    pan.refused("bad-order", Kind.SAVED, exposure=1)
    assert pan.ended()


def test_wrong_begins_are_refused(pan: RawPan, database: Database, exposure: int) -> None:
    """Detectors, types and numbers that are not; the connection goes on."""
    pan.refused("unknown-detector", Kind.BEGIN, exposure=exposure, detectors="S1 X9", type="uint16")
    pan.refused("unknown-detector", Kind.BEGIN, exposure=exposure, detectors="S1", expected="S1 X9", type="uint16")
    pan.refused("wrong-type", Kind.BEGIN, exposure=exposure, detectors="S1", type="float64")
    pan.refused("bad-value", Kind.BEGIN, exposure=exposure, detectors="", type="uint16")
    pan.refused("bad-value", Kind.BEGIN, exposure=exposure, type="uint16")
    pan.refused("unknown-exposure", Kind.BEGIN, exposure=10**9, detectors="S1", type="uint16")
    pan.refused("refused", Kind.BEGIN, exposure=label(database, camera="decam"), detectors="S1", type="uint16")
    assert pan.begin(exposure).kind is Kind.ACCEPTED


def test_wrong_blocks_are_refused(pan: RawPan, tmp_path: Path, exposure: int) -> None:
    """Each wrong block has its error, changes nothing, and the right one after it is taken."""
    pixels = sky_of()["S1", "A"]
    raw, right = pixels[:10].tobytes(), block_body(exposure, "S1", "A", 0, 10)
    pan.refused("not-begun", Kind.BLOCK, raw, **right)
    pan.begin(exposure, "S1")
    wrong: dict[str, dict[str, object]] = {
        "unknown-detector": {"detector": "X9"}, "not-begun": {"detector": "N1"}, "bad-rows": {"rows": 9},
        "unknown-amplifier": {"amplifier": "C"}, "wrong-type": {"type": "int32"}, "bad-value": {"row": -1},
    }  # fmt: skip
    for code, change in wrong.items():
        pan.refused(code, Kind.BLOCK, raw, **{**right, **change})
    pan.refused("bad-rows", Kind.BLOCK, raw, **{**right, "row": 320})
    pan.refused("not-begun", Kind.BLOCK, raw, **{**right, "exposure": exposure + 1})
    assert pan.ask(Kind.BLOCK, raw, **right).body["rows"] == "10"
    assert open_frames(tmp_path / "cache", exposure, 1)["S1"].received("A") == ((0, 9),)


def test_a_damaged_block_is_sent_again(pan: RawPan, tmp_path: Path, exposure: int) -> None:
    """A bit flipped on the way: the row stays missing, the error names the frame, the same block is then taken."""
    pan.begin(exposure, "S1")
    raw, body = sky_of()["S1", "A"][:5].tobytes(), block_body(exposure, "S1", "A", 0, 5)
    pan.sequence += 1
    head = wire.head(Kind.BLOCK, pan.sequence, body, raw)
    pan.socket.sendall(head + bytes([raw[0] ^ 4]) + raw[1:])
    pan.expect_error("bad-crc", pan.sequence)
    assert open_frames(tmp_path / "cache", exposure, 1)["S1"].received("A") == ()
    assert pan.ask(Kind.BLOCK, raw, **body).kind is Kind.RECEIVED


def test_the_same_block_twice_is_fine_and_another_is_not(pan: RawPan, tmp_path: Path, exposure: int) -> None:
    """Repeats are acknowledged; other pixels for a row that is there are refused, and the first ones stay."""
    pan.begin(exposure, "S1")
    pixels = sky_of()["S1", "A"]
    for _ in range(2):
        assert pan.block(exposure, "S1", "A", 0, pixels[:10]).kind is Kind.RECEIVED
    before = _frames(tmp_path, exposure)
    pan.refused("overlap", Kind.BLOCK, pixels[20:30].tobytes(), **block_body(exposure, "S1", "A", 5, 10))
    assert _frames(tmp_path, exposure) == before
    assert pan.block(exposure, "S1", "A", 5, pixels[5:15]).kind is Kind.RECEIVED


def test_missing_rows_are_listed(pan: RawPan, exposure: int) -> None:
    """END with gaps is answered by the gaps; when they are filled END is accepted."""
    pan.begin(exposure, "S1")
    sky = sky_of("S1")
    sky_without = {key: pixels[10:] for key, pixels in sky.items()}
    for (detector, amplifier), pixels in sky_without.items():
        pan.block(exposure, detector, amplifier, 10, pixels)
    answer = pan.refused("missing-rows", Kind.END, exposure=exposure)
    assert (bytes(answer.data), answer.body["fatal"]) == (b"S1 A 0-9\nS1 B 0-9\n", "no")
    for (detector, amplifier), pixels in sky.items():
        pan.block(exposure, detector, amplifier, 0, pixels[:10])
    assert pan.ask(Kind.END, exposure=exposure).kind is Kind.RECEIVED
    pan.refused("not-begun", Kind.END, exposure=exposure + 1)


def test_two_pans_cannot_send_one_detector(node: Node, pan: RawPan, exposure: int) -> None:
    """The second one is told who has it, and sends its own; also when the first one has gone for the moment."""
    pan.begin(exposure, "S1")
    with RawPan(node.port, "p2") as other:
        refusal = other.refused("taken", Kind.BEGIN, exposure=exposure, detectors="S1 N1", type="uint16")
        assert "p1" in refusal.body["message"]
        pan.close()
        other.refused("taken", Kind.BEGIN, exposure=exposure, detectors="S1", type="uint16")
        assert other.begin(exposure, "N1").kind is Kind.ACCEPTED


def test_one_type_for_one_detector(node: Node, pan: RawPan, exposure: int) -> None:
    """A PAN that comes again with another type of pixels is refused."""
    pan.begin(exposure, "S1", type="uint16")
    with RawPan(node.port) as again:
        again.refused("wrong-type", Kind.BEGIN, exposure=exposure, detectors="S1", type="int16")


def test_a_pan_that_comes_again_hears_what_is_there(node: Node, pan: RawPan, tmp_path: Path, exposure: int) -> None:
    """A connection cut in the middle of a block: the whole blocks before it stay, the cut one never counts."""
    pan.begin(exposure, "S1")
    pixels = sky_of()["S1", "A"]
    pan.block(exposure, "S1", "A", 0, pixels[:50])
    raw = pixels[50:100].tobytes()
    pan.socket.sendall(
        wire.head(Kind.BLOCK, pan.sequence + 1, block_body(exposure, "S1", "A", 50, 50), raw) + raw[:700]
    )
    pan.close()
    with RawPan(node.port) as again:
        accepted = again.begin(exposure, "S1")
        assert bytes(accepted.data) == b"S1 A 0-49\n"
        again.send_all(exposure, sky_of("S1"))
        assert again.ask(Kind.END, exposure=exposure).kind is Kind.RECEIVED
    assert _frames(tmp_path, exposure)["S1"] == _image("S1")


def test_the_newer_connection_of_a_pan_counts(node: Node, pan: RawPan, exposure: int) -> None:
    """The old connection of the same PAN may still be half open: the new one takes over, both are safe."""
    pan.begin(exposure, "S1")
    with RawPan(node.port) as again:
        assert again.begin(exposure, "S1").kind is Kind.ACCEPTED
        pixels = sky_of()["S1", "A"]
        assert pan.block(exposure, "S1", "A", 0, pixels[:10]).kind is Kind.RECEIVED
        assert again.block(exposure, "S1", "A", 0, pixels[:20]).kind is Kind.RECEIVED


def test_a_silent_pan_is_let_go(database: Database, tmp_path: Path, exposure: int) -> None:
    """Silence between two frames and in the middle of a block: both end after the idle time, with a reason."""
    with running(database, tmp_path, idle=0.3) as node:
        with RawPan(node.port) as pan:
            assert pan.read().body["code"] == "stalled"
            assert pan.ended()
        with RawPan(node.port) as pan:
            pan.begin(exposure, "S1")
            raw = sky_of()["S1", "A"][:50].tobytes()
            head = wire.head(Kind.BLOCK, pan.sequence + 1, block_body(exposure, "S1", "A", 0, 50), raw)
            pan.socket.sendall(head + raw[:700])
            assert pan.read().body["code"] == "stalled"
        with RawPan(node.port, hello=False) as pan:
            assert pan.read().body["code"] == "stalled"


def test_pings_keep_a_connection(database: Database, tmp_path: Path) -> None:
    """A PAN with nothing to say says PING."""
    with running(database, tmp_path, idle=0.5) as node, RawPan(node.port) as pan:
        for _ in range(8):
            assert pan.ask(Kind.PING).kind is Kind.PONG
            threading.Event().wait(0.15)
        pan.send(Kind.BYE)
        assert pan.ended()


def test_too_many_connections_are_refused_not_queued(database: Database, tmp_path: Path) -> None:
    """Connections that say nothing cannot keep real PANs out for long: they are few, and are let go."""
    with running(database, tmp_path, idle=0.3) as node:
        node._collector._most = 2
        idle = [RawPan(node.port, hello=False) for _ in range(2)]
        for one in idle:
            assert one.read().body["code"] in ("stalled", "unavailable")
            one.close()
        refused = 0
        for _ in range(100):
            try:
                with RawPan(node.port) as pan:
                    assert pan.ask(Kind.PING).kind is Kind.PONG
                break
            except (KeyError, ConnectionError):
                refused += 1
        assert refused < 100


def test_an_exposure_that_can_never_fit_is_refused(database: Database, tmp_path: Path, exposure: int) -> None:
    """More detectors than pages, or larger ones than a page: refused at BEGIN, with what to configure."""
    with running(database, tmp_path, cache=PAGE) as node, RawPan(node.port) as pan:
        refusal = pan.refused("exposure-too-large", Kind.BEGIN, exposure=exposure, detectors="S1", type="uint16")
        assert "pages" in refusal.body["hint"]
        assert pan.begin(exposure, "S1", expected="S1").kind is Kind.ACCEPTED
        pan.refused("exposure-too-large", Kind.BEGIN, exposure=exposure, detectors="S1", expected="S1", type="float32")


def test_a_full_cache_says_busy_and_then_takes_the_next(
    node: Node, pan: RawPan, database: Database, exposure: int
) -> None:
    """Two exposures fill the cache; the third waits, its PAN may ping, and is accepted when the first is saved."""
    second, third = label(database, 2), label(database) - 1
    pan.begin(exposure)
    pan.begin(second)
    busy = pan.begin(third)
    assert (busy.kind, busy.body["exposure"]) == (Kind.BUSY, str(third))
    assert int(busy.body["seconds"]) > 0
    assert pan.ask(Kind.PING).kind is Kind.PONG
    pan.refused("not-begun", Kind.BLOCK, sky_of()["S1", "A"][:1].tobytes(), **block_body(third, "S1", "A", 0, 1))
    pan.send_all(exposure, sky_of())
    pan.ask(Kind.END, exposure=exposure)
    save(database, "one", exposure)
    assert [pan.read().kind for _ in range(2)] == [Kind.SAVED, Kind.ACCEPTED]
    assert pan.block(third, "S1", "A", 0, sky_of()["S1", "A"][:5]).kind is Kind.RECEIVED


def test_a_started_exposure_can_always_go_on(node: Node, pan: RawPan, database: Database, exposure: int) -> None:
    """Room is set aside for all detectors at the first BEGIN: PANs of two exposures never block each other."""
    second, third = label(database, 2), label(database) - 1
    with RawPan(node.port, "p2") as other:
        assert pan.begin(exposure, "S1").kind is Kind.ACCEPTED
        assert pan.begin(second, "S1").kind is Kind.ACCEPTED
        assert pan.begin(third, "S1").kind is Kind.BUSY
        assert other.begin(second, "N1").kind is Kind.ACCEPTED
        assert other.begin(exposure, "N1").kind is Kind.ACCEPTED


def test_many_pans_at_once(database: Database, tmp_path: Path) -> None:
    """Six PANs send six exposures at the same time, each in small blocks: every pixel is where it belongs."""
    first = label(database, 6)
    with running(database, tmp_path, cache=12 * PAGE) as node:

        def send(number: int) -> None:
            with RawPan(node.port, f"p{number}") as pan:
                assert pan.begin(first + number).kind is Kind.ACCEPTED
                pan.send_all(first + number, sky_of(seed=number), rows=17)
                assert pan.ask(Kind.END, exposure=first + number).body["complete"] == "yes"

        threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(6):
            assert _frames(tmp_path, first + number) == {name: _image(name, number) for name in ("S1", "N1")}


def test_a_port_in_use_is_a_mistake_of_the_configuration(database: Database, tmp_path: Path) -> None:
    """The error names host and port, and the cache is let go."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = settings(tmp_path, port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match=str(wanted.port)):
            Node(database, wanted, "one")
    Node(database, settings(tmp_path), "one")._desk.close()
