"""Transfers over long distances: the line is what it says, the report says what was found, nothing is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.children import ROOT
from benchmarks.wan import chart, report
from benchmarks.wan.matrix import ALL, QUICK, Cell, chosen
from benchmarks.wan.network import ADDRESSES, Connection, Network
from benchmarks.wan.report import Found
from benchmarks.wan.tools import BASE, TOOLS, TUNED, prepare
from benchmarks.wan.turn import Load, Turn, play, whole_rate
from benchmarks.wan.validation import Measured, measure

MIB = 1 << 20


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Two ends and a line between them."""
    with Network() as made:
        yield made


def test_the_line_takes_the_time_it_is_told(network: Network) -> None:
    """An echo is never back before the round trip, and nothing is lost where nothing should be."""
    found = measure(network, Connection(rtt=120.0, loss=0.0), seed=1, datagrams=4000)
    assert 120.0 <= found.rtt < 220.0  # a delay that was taken twice would be 240
    assert (found.arrived, found.counted) == (4000, 0)


def test_the_line_loses_what_it_is_told(network: Network) -> None:
    """About the probability that was asked for is lost, and exactly what the line has counted."""
    found = measure(network, Connection(rtt=0.0, loss=0.01), seed=3, datagrams=20_000)
    assert found.honest
    assert 0.006 < found.loss < 0.014


def test_the_same_seed_loses_the_same(network: Network) -> None:
    """Losses can be had again, and another seed has others."""
    lossy = Connection(rtt=0.0, loss=0.01)
    counts = [measure(network, lossy, seed, datagrams=6000).counted for seed in (5, 5, 6)]
    assert counts[0] == counts[1]
    assert counts[0] != counts[2]


def test_the_rate_is_not_exceeded(network: Network) -> None:
    """However fast somebody sends, the line carries no more than its rate; what its queue cannot hold is counted."""
    network.connect(Connection(rtt=0.0, loss=0.0, rate=2e6, queue=20_000), seed=1)
    flood = "import socket\ns = socket.socket(2, 2)\nfor _ in range(2000): s.sendto(bytes(1000), ('{}', 9))"
    network.run("a", [sys.executable, "-c", flood.format(ADDRESSES["b"])])
    found = network.counters()["a"]
    assert found["overflowed"] > 0
    assert found["deepest"] <= 20_000 + found["segments"]  # what is counted is cut to whole bytes, one by one
    assert found["segments"] - found["overflowed"] == found["bytes"] // 1028


def test_segments_are_lost_one_by_one_and_the_bytes_arrive(network: Network, tmp_path: Path) -> None:
    """TCP mends what is torn out of large packets: our transport and the rsync daemon bring every byte."""
    setting = prepare(tmp_path)
    load = Load.make(tmp_path / "file", 6 * MIB)
    network.connect(Connection(rtt=2.0, loss=0.005), seed=4)
    for name in (BASE, "DTS, 4 streams"):
        (tool,) = (tool for tool in TOOLS if tool.name == name)
        turn = play(network, setting, tool, load, limit=60.0)
        assert not turn.stopped
        assert (turn.arrived, turn.rate) == (load.size, load.size / turn.seconds)
        assert turn.lost > 0
        assert turn.carried > load.size


def test_a_transfer_that_takes_too_long_is_stopped(network: Network, tmp_path: Path) -> None:
    """What has arrived by then is counted, the rate is that of the line at most, and the next turn begins clean."""
    setting = prepare(tmp_path)
    load = Load.make(tmp_path / "file", 64 * MIB)
    slow = Connection(rtt=0.0, loss=0.0, rate=8e6)
    (daemon,) = (tool for tool in TOOLS if tool.name == BASE)
    network.connect(slow, seed=1)
    turn = play(network, setting, daemon, load, limit=6.0)
    assert turn.stopped
    assert 0 < turn.arrived < load.size
    assert not list(setting.landing.iterdir())


def test_a_namespace_that_a_dead_run_left_is_removed_and_a_living_ones_is_not() -> None:
    """Whose a namespace is stands in its name; after a run none of its own is left."""
    left = f"dtswan-{_dead_process()}-1-a"
    subprocess.run(["ip", "netns", "add", left], check=True)
    before = _namespaces()
    with Network():
        during = _namespaces()
    assert left in before
    assert left not in during
    assert before - {left} < during
    assert len(during - before) == 2
    assert not during - before & _namespaces()


def _dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def _namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    return {line.split()[0] for line in listed.stdout.splitlines()}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, name: str) -> None:
    """Whoever stops a run in the middle of a turn finds no namespace, no process and no file of it afterwards."""
    words = ["--only", "20 ms, 0 %", "--only", BASE, "--size", "64", "--folder", str(tmp_path)]
    run = subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED, name, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    run.communicate(timeout=100)
    assert run.returncode != 0
    assert not [space for space in _namespaces() if space.startswith(f"dtswan-{run.pid}-")]
    assert not list(tmp_path.iterdir())


_INTERRUPTED = """
import os, signal, sys
from benchmarks.wan import __main__ as program, matrix
signal.signal(signal.SIGINT, signal.default_int_handler)
real = matrix.play
def play(*arguments):
    os.kill(os.getpid(), getattr(signal, sys.argv.pop(1)))
    return real(*arguments)
matrix.play = play
program.plain_tcp = lambda *_: 1.0
program.main(sys.argv[2:])
"""


def turn(rate: float, **changes: object) -> Turn:
    """A turn of so many MB/s."""
    made = Turn(rate * 1e6, 100 * MIB, 1.0, False, 104 * MIB, 0, 0, 0.0)
    return replace(made, **changes)  # type: ignore[arg-type]


def cell(connection: Connection, **rates: Sequence[float]) -> Cell:
    """A cell with the turns of some programs."""
    measured = Measured(connection.rtt + 0.1, 50_000, 49_995, 5)
    return Cell(connection, measured, {_NAMES[name]: [turn(rate) for rate in found] for name, found in rates.items()})


_NAMES = {"base": BASE, "scp": "scp", "four": "DTS, 4 streams", "tuned": TUNED}
FAR, NEAR = Connection(80.0, 1e-4), Connection(0.0, 0.0)


def found(*cells: Cell, long: Sequence[Cell] = (), level: str = "full") -> Found:
    """A report's content."""
    return Found(level, 1 << 30, 30.0, 115e6, cells, long, 4 << 30, {"processor": "abacus"})


def test_throughput_is_normalised_turn_by_turn() -> None:
    """A ratio compares the two values of one turn; what all are compared with is 1."""
    one = cell(FAR, base=(4.0, 5.0, 8.0), tuned=(80.0, 100.0, 80.0))
    ratio = one.ratio(TUNED)
    assert ratio is not None
    assert ratio.values == (20.0, 20.0, 10.0)
    assert "| 80 ms, 0.01 % loss | 1 | **20** |" in report.page(found(one))


def test_without_the_rsync_daemon_nothing_is_normalised() -> None:
    """Where that one failed, the others have rates and no ratio."""
    one = replace(cell(FAR, tuned=(80.0,)), failures={BASE: "RuntimeError: no\nno daemon"})
    assert one.ratio(TUNED) is None
    page = report.page(found(one))
    assert "| 80 ms, 0.01 % loss | – |" in page
    assert f"- **{BASE} failed** at 80 ms, 0.01 % loss: no daemon" in page


def test_targets_are_met_or_missed_by_the_median() -> None:
    """The page says so, with figure and spread; near, the best of the others counts, whichever it is."""
    large = cell(FAR, tuned=(101.0, 99.0, 102.0))
    page = report.page(
        found(
            cell(FAR, base=(5.0,), tuned=(70.0,)), cell(NEAR, base=(90.0,), scp=(101.0,), tuned=(100.0,)), long=[large]
        )
    )
    assert "| 80 ms, 0.01 % loss: × rsync daemon | 14 | ≥ 15 | **missed** |" in page
    assert "× the best of the others, scp | 0.99 | ≥ 1 | **missed** |" in page
    assert (
        "| 4 GiB, 80 ms, 0.01 % loss: share of what the line can carry | 0.858 (0.841–0.867) | ≥ 0.85 | met |" in page
    )


def test_what_was_stopped_or_drops_uncounted_is_marked() -> None:
    """A rate from a part of a file bears a mark, and so does a line that lost more than it says."""
    one = cell(FAR, base=(4.0,), tuned=(80.0,))
    marked = replace(
        one, turns={**one.turns, BASE: [turn(4.0, stopped=True, arrived=50 * MIB)]},
        measured=Measured(80.1, 50_000, 49_990, 5),
    )  # fmt: skip
    page = report.page(found(marked))
    assert "| 4 *s* | 80 |" in page
    assert "5 (**not what is missing**)" in page
    assert "| 2.08 | 1.04 |" in page


def test_the_json_holds_every_turn() -> None:
    """Programs find each turn, the medians and what is absent and why."""
    content = json.loads(report.as_json(found(cell(FAR, base=(4.0, 5.0), tuned=(80.0, 100.0)), level="quick")))
    (connection,) = content["connections"]
    assert (connection["rtt"], connection["loss"], connection["queue"]) == (80.0, 1e-4, 10_000_000)
    assert [one["rate"] for one in connection["programs"][TUNED]["turns"]] == [80e6, 100e6]
    assert connection["programs"][TUNED]["ratio_median"] == 20.0
    assert "bbcp" in content["absent"]


def test_a_file_that_was_stopped_is_taken_to_its_end() -> None:
    """The rest is taken to come as the second half of the time did: 50 MB in 10 s, then 10 MB in each 10 s."""
    assert whole_rate(100_000_000, 20.0, 50_000_000, 60_000_000) == pytest.approx(100e6 / 60)
    assert whole_rate(100_000_000, 20.0, 50_000_000, 50_000_000) == pytest.approx(100e6 / 40)
    with pytest.raises(RuntimeError, match="nothing arrived"):
        whole_rate(100_000_000, 20.0, 0, 0)


def test_words_choose_connections_and_programs() -> None:
    """A word chooses among what begins with it; the rsync daemon is always there; no word chooses nothing."""
    connections, tools = chosen(["80 ms, 0.1 %", "scp"], quick=False)
    assert ([one.name for one in connections], [tool.name for tool in tools]) == (["80 ms, 0.1 % loss"], [BASE, "scp"])
    connections, tools = chosen([], quick=True)
    assert (tuple(connections), tools[0].name, tools[-1].name) == (QUICK, BASE, TUNED)
    assert len(chosen([], quick=False)[0]) == len(ALL) == 12


def test_the_chart_is_drawn_the_same_each_time(tmp_path: Path) -> None:
    """Whatever is missing in a cell, the same figures give the same file."""
    cells = [cell(NEAR, base=(100.0,), tuned=(90.0,)), cell(FAR, base=(4.0,), four=(70.0,), tuned=(80.0,))]
    for name in ("one.svg", "two.svg"):
        chart.draw(cells, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.svg").stat().st_size > 10_000
