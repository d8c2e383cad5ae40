"""A node and the database: SAVED, partial exposures, death and restart, fencing, draining, a database that is away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from crc32c import crc32c

from dtscore.database import Database
from dtscore.errors import DatabaseUnavailableError, StateError
from dtscore.poke import poke
from imagebuilder import exposures, nodes
from imagebuilder.cache import open_frames, orphans
from imagebuilder.node import Node
from imagebuilder.records import ExposureState, FrameState
from imagebuilder.wire import Kind
from tests.imagebuilder.wiring import PAGE, RawPan, block_body, label, running, save, serving, settings, sky_of

ROOT = Path(__file__).resolve().parents[2]


def _until(true: Callable[[], bool]) -> None:
    """Wait until something holds; the test's own time-out ends it."""
    while not true():
        time.sleep(0.02)


def _state(database: Database, exposure: int) -> ExposureState:
    with database.read() as connection:
        return exposures.find(connection, exposure).line.state


def _frame_states(database: Database, exposure: int) -> dict[str, FrameState]:
    with database.read() as connection:
        return {frame.detector: frame.state for frame in exposures.find(connection, exposure).frames}


def _free(database: Database) -> dict[str, int]:
    with database.read() as connection:
        return {line.node: line.free for line in nodes.listing(connection)}


def _sums(detectors: str) -> set[str]:
    return {
        f"{name} {amplifier} {crc32c(pixels.tobytes()):08x}" for (name, amplifier), pixels in sky_of(detectors).items()
    }


@contextmanager
def _killable(url: str, folder: Path, name: str = "one", pages: int = 4) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a node in a process of its own; give it and its port."""
    program = (
        "import pathlib, signal\n"
        "from dtscore.database import Database\n"
        "from imagebuilder.node import Node\n"
        "from tests.imagebuilder.wiring import settings\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        f"node = Node(Database({url!r}), settings(folder, cache={pages * PAGE}), {name!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: node.stop())\n"
        "print(node.port, flush=True)\n"
        "node.run()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_saved_is_told_and_the_pages_are_free(database: Database, tmp_path: Path) -> None:
    """When the file is registered its PAN hears SAVED with the file and the sums of its pixels; the pages are free."""
    exposure = label(database)
    with running(database, tmp_path) as node, RawPan(node.port) as pan:
        pan.begin(exposure)
        pan.send_all(exposure, sky_of())
        pan.ask(Kind.END, exposure=exposure)
        assert _state(database, exposure) is ExposureState.COMPLETE
        saved = save(database, "one", exposure)
        answer = pan.read()
        assert answer.kind is Kind.SAVED
        assert answer.body == {
            "exposure": str(exposure), "lfn": saved.lfn, "size": str(saved.size), "checksum": saved.checksum,
            "version": "1", "detectors": "N1 S1",
        }  # fmt: skip
        assert set(bytes(answer.data).decode().splitlines()) == _sums("S1 N1")
        _until(lambda: _free(database) == {"one": 4})
        assert open_frames(tmp_path / "cache", exposure, 1) == {}
        pan.refused(
            "already-built", Kind.BLOCK, sky_of()["S1", "A"][:1].tobytes(), **block_body(exposure, "S1", "A", 0, 1)
        )
        pan.refused("already-built", Kind.END, exposure=exposure)


def test_an_exposure_that_is_built_is_not_built_again(database: Database, tmp_path: Path) -> None:
    """Its own PAN, which never heard SAVED, hears it at BEGIN with the sums to compare; another PAN is refused."""
    exposure = label(database)
    with running(database, tmp_path) as node:
        with RawPan(node.port) as pan:
            pan.begin(exposure)
            pan.send_all(exposure, sky_of())
            pan.ask(Kind.END, exposure=exposure)
        save(database, "one", exposure)
        with RawPan(node.port) as pan:
            answer = pan.begin(exposure)
            assert (answer.kind, set(answer.body["detectors"].split())) == (Kind.SAVED, {"S1", "N1"})
            assert set(bytes(answer.data).decode().splitlines()) == _sums("S1 N1")
        with RawPan(node.port, "p2") as other:
            other.refused("already-built", Kind.BEGIN, exposure=exposure, detectors="S1", type="uint16")
        _until(lambda: _free(database) == {"one": 4})


def test_a_pan_hears_only_of_what_it_sent(database: Database, tmp_path: Path) -> None:
    """A partial file names the detectors that it holds: the PAN of the others goes on, and is told of its own later."""
    exposure = label(database)
    with running(database, tmp_path) as node, RawPan(node.port, "p1") as one, RawPan(node.port, "p2") as two:
        one.begin(exposure, "S1")
        two.begin(exposure, "N1")
        one.send_all(exposure, sky_of("S1"))
        one.ask(Kind.END, exposure=exposure)
        pixels = sky_of("N1")["N1", "A"]
        two.block(exposure, "N1", "A", 0, pixels[:100])
        assert not save(database, "one", exposure, partial=True).complete
        assert one.read().body["detectors"] == "S1"
        two.send_all(exposure, sky_of("N1"))
        assert two.ask(Kind.END, exposure=exposure).kind is Kind.RECEIVED
        assert save(database, "one", exposure).version == 2
        answer = two.read()
        assert (answer.kind, answer.body["detectors"], answer.body["version"]) == (Kind.SAVED, "N1", "2")
        assert _state(database, exposure) is ExposureState.SAVED
        _until(lambda: _free(database) == {"one": 4})


def test_a_late_pan_is_taken_after_the_partial_file(database: Database, tmp_path: Path) -> None:
    """A PAN that died leaves no page behind when the partial file is saved, and sends its own again when it is back."""
    exposure = label(database)
    with running(database, tmp_path) as node:
        with RawPan(node.port, "p1") as one, RawPan(node.port, "p2") as two:
            one.begin(exposure, "S1")
            two.begin(exposure, "N1")
            two.block(exposure, "N1", "A", 0, sky_of("N1")["N1", "A"][:100])
            one.send_all(exposure, sky_of("S1"))
            one.ask(Kind.END, exposure=exposure)
        _until(lambda: not node._collector.pans)
        save(database, "one", exposure, partial=True)
        _until(lambda: _free(database) == {"one": 4})
        with RawPan(node.port, "p2") as two:
            accepted = two.begin(exposure, "N1")
            assert (accepted.kind, bytes(accepted.data)) == (Kind.ACCEPTED, b"")
            two.send_all(exposure, sky_of("N1"))
            two.ask(Kind.END, exposure=exposure)
            save(database, "one", exposure)
            assert two.read().kind is Kind.SAVED


def test_a_killed_node_loses_nothing_that_was_received(database: Database, database_url: str, tmp_path: Path) -> None:
    """SIGKILL in the middle of an exposure: the next node adopts the pages, and ACCEPTED says what is there."""
    exposure = label(database)
    sky = sky_of()
    with _killable(database_url, tmp_path) as (process, port), RawPan(port) as pan:
        pan.begin(exposure)
        pan.send_all(exposure, {key: pixels for key, pixels in sky.items() if key[0] == "S1"})
        pan.block(exposure, "N1", "A", 0, sky["N1", "A"][:33])
        process.kill()
        process.wait()
    assert {one.detector for one in orphans(tmp_path / "cache")} == {"S1", "N1"}
    with running(database, tmp_path) as node:
        _until(lambda: _frame_states(database, exposure)["S1"] is FrameState.RECEIVED)
        with RawPan(node.port) as pan:
            accepted = pan.begin(exposure)
            assert accepted.body["assignment"] == "1"
            assert set(bytes(accepted.data).decode().splitlines()) == {"S1 A 0-327", "S1 B 0-327", "N1 A 0-32"}
            pan.send_all(exposure, {key: pixels for key, pixels in sky.items() if key[0] == "N1"})
            assert pan.ask(Kind.END, exposure=exposure).kind is Kind.RECEIVED
        frames = open_frames(tmp_path / "cache", exposure, 1)
        assert all(frame.whole for frame in frames.values())
        assert _state(database, exposure) is ExposureState.COMPLETE


def test_a_stopped_node_says_goodbye(database: Database, database_url: str, tmp_path: Path) -> None:
    """SIGTERM is the program's matter; `stop` ends all connections with BYE, and the pages stay for the next node."""
    exposure = label(database)
    with running(database, tmp_path) as node:
        pan = RawPan(node.port)
        pan.begin(exposure, "S1")
        pan.send_all(exposure, sky_of("S1"))
    assert pan.read().kind is Kind.BYE
    assert pan.ended()
    pan.close()
    assert _frame_states(database, exposure)["S1"] is FrameState.RECEIVED
    with running(database, tmp_path) as node, RawPan(node.port) as pan:
        assert bytes(pan.begin(exposure, "S1").data) == b"S1 A 0-327\nS1 B 0-327\n"


def test_pages_that_are_saved_or_anothers_are_freed_at_the_start(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    """A restarted node frees what was saved meanwhile, what another node has now, and what nobody knows."""
    first = label(database, 4)
    with _killable(database_url, tmp_path, pages=8) as (process, port), RawPan(port) as pan:
        for exposure in range(first, first + 4):
            pan.begin(exposure)
            pan.send_all(exposure, sky_of())
            pan.ask(Kind.END, exposure=exposure)
        process.kill()
        process.wait()
    save(database, "one", first)
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE exposures SET node = 'two', assignment = 2 WHERE id = {first + 1}")
        connection.exec_driver_sql(f"DELETE FROM exposure_frames WHERE exposure_id = {first + 2}")
        connection.exec_driver_sql(f"DELETE FROM exposures WHERE id = {first + 2}")
    with running(database, tmp_path, cache=8 * PAGE):
        _until(lambda: {path.name.split(".")[0] for path in (tmp_path / "cache").glob("*.page")} == {str(first + 3)})
        _until(lambda: _free(database)["one"] == 6)


def test_a_node_gives_up_what_another_node_has_now(database: Database, tmp_path: Path) -> None:
    """Fencing: the PAN is told, and its connection ends so that it asks again; the pages are free."""
    exposure = label(database)
    with running(database, tmp_path) as node, RawPan(node.port) as pan:
        pan.begin(exposure)
        pan.send_all(exposure, sky_of("S1"))
        with database.write() as connection:
            connection.exec_driver_sql("UPDATE exposures SET node = 'two', assignment = 2")
        answer = pan.read()
        assert (answer.kind, answer.body["code"], answer.body["fatal"]) == (Kind.ERROR, "not-here", "yes")
        assert pan.ended()
        with RawPan(node.port) as again:
            again.refused("not-here", Kind.BEGIN, exposure=exposure, detectors="S1", type="uint16")
        _until(lambda: _free(database)["one"] == 4)


def test_an_exposure_of_another_node_is_refused(database: Database, tmp_path: Path) -> None:
    """BEGIN at the wrong node: the PAN is told to ask WHERE, and WHERE names the right one."""
    exposure = label(database)
    with (
        running(database, tmp_path, "one") as one,
        running(database, tmp_path, "two", cache_folder=tmp_path / "second") as two,
        RawPan(one.port) as pan,
        RawPan(two.port) as other,
    ):
        pan.begin(exposure, "S1")
        other.refused("not-here", Kind.BEGIN, exposure=exposure, detectors="N1", type="uint16")
        here = other.ask(Kind.WHERE, exposure=exposure)
        assert (here.body["node"], here.body["host"], here.body["port"]) == ("one", "127.0.0.1", str(one.port))


def test_a_draining_node_ends_what_it_has_and_takes_nothing_new(database: Database, tmp_path: Path) -> None:
    """Its exposures go on; new ones are refused with a hint to ask elsewhere; after the drain it takes them again."""
    first, second = label(database), label(database)
    with running(database, tmp_path) as node, RawPan(node.port) as pan:
        pan.begin(first, "S1")
        database.run(lambda connection: nodes.drain(connection, "one"))
        _until(lambda: node._office.draining)
        pan.refused("draining", Kind.BEGIN, exposure=second, detectors="S1", type="uint16")
        assert pan.begin(first, "N1").kind is Kind.ACCEPTED
        pan.refused("unavailable", Kind.WHERE, exposure=second)
        database.run(lambda connection: nodes.drain(connection, "one", undo=True))
        _until(lambda: not node._office.draining)
        assert pan.begin(second, "S1").kind is Kind.ACCEPTED


def test_pixels_are_received_while_the_database_is_away(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks need no database; what needs it is answered by a passing error, and made good when it is back."""
    exposure = label(database)
    with running(database, tmp_path) as node, RawPan(node.port) as pan:
        pan.begin(exposure)
        with monkeypatch.context() as away:

            def refuse(*_: object, **__: object) -> None:
                raise DatabaseUnavailableError("the database cannot be reached", "wait")

            away.setattr(Database, "run", refuse)
            away.setattr(Database, "read", refuse)
            pan.send_all(exposure, sky_of())
            pan.refused("unavailable", Kind.END, exposure=exposure)
            pan.refused("unavailable", Kind.BEGIN, exposure=exposure + 1, detectors="S1", type="uint16")
        _until(lambda: _state(database, exposure) is ExposureState.COMPLETE)
        assert pan.ask(Kind.END, exposure=exposure).body["complete"] == "yes"


def test_broken_off_frames_are_given_up_in_the_end(database: Database, tmp_path: Path) -> None:
    """A PAN that never comes back does not keep the memory; if it does come back, it sends everything again."""
    exposure = label(database)
    node = Node(database, settings(tmp_path), "one", forget=0.1)
    with serving(node):
        with RawPan(node.port) as pan:
            pan.begin(exposure, "S1")
            pan.block(exposure, "S1", "A", 0, sky_of("S1")["S1", "A"][:10])
        _until(lambda: _free(database) == {"one": 4})
        _until(lambda: _frame_states(database, exposure)["S1"] is FrameState.EXPECTED)
        with RawPan(node.port) as pan:
            assert bytes(pan.begin(exposure, "S1").data) == b""


def test_the_heartbeat_tells_how_the_node_is(database: Database, tmp_path: Path) -> None:
    """Pages, free ones without those set aside, exposures in hand, and the highest number it has seen."""
    exposure = label(database, 5) + 4
    with running(database, tmp_path) as node, RawPan(node.port) as pan:
        _until(lambda: "one" in _free(database))
        pan.begin(exposure, "S1")
        _until(lambda: _free(database) == {"one": 2})
        with database.read() as connection:
            (line,) = nodes.listing(connection)
        assert (line.port, line.pages, line.page_bytes, line.exposures) == (node.port, 4, PAGE, (exposure,))
        _until(lambda: (tmp_path / "numbers").exists())
        assert int((tmp_path / "numbers").read_text()) == exposure


def test_a_poke_is_faster_than_the_next_tick(database: Database, tmp_path: Path) -> None:
    """With a heartbeat of an hour SAVED still comes at once when the builder pokes."""
    exposure = label(database)
    run_folder = tmp_path / "run"
    node = Node(database, settings(tmp_path, heartbeat=3600.0), "one", run_folder=run_folder)
    with serving(node), RawPan(node.port) as pan:
        pan.begin(exposure)
        pan.send_all(exposure, sky_of())
        pan.ask(Kind.END, exposure=exposure)
        save(database, "one", exposure)
        poke(run_folder, ["build"])
        assert pan.read().kind is Kind.SAVED


def test_a_second_node_on_the_same_cache_is_refused(database: Database, tmp_path: Path) -> None:
    """Two nodes never write the same pages."""
    with running(database, tmp_path), pytest.raises(StateError, match="another node"):
        Node(database, settings(tmp_path), "two")


def test_a_process_that_is_told_to_end_ends(database_url: str, tmp_path: Path) -> None:
    """Nothing of a node keeps its process alive: no thread, no child."""
    with _killable(database_url, tmp_path) as (process, port), RawPan(port):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
