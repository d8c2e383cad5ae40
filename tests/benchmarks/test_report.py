"""The report of the benchmarks says what was met and what was missed, and nothing better than it was."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import report
from benchmarks.report import Line, against, within
from benchmarks.turns import Series, in_turn

SLOW, FAST = Series((9.0, 10.0, 30.0)), Series((20.0, 20.0, 20.0))
MACHINE = {"processor": "abacus"}


def faster(target: float | None) -> Line:
    """A line whose ratios are 0.45, 0.5 and 1.5."""
    return against(2, "claim", "files/s", SLOW, ("peer", FAST), "≥", target)


def test_a_target_is_judged_by_the_median_ratio() -> None:
    """A ratio at the target meets it and one below misses it, whatever the best turn was."""
    assert faster(0.5).met is True
    assert faster(0.51).met is False
    assert faster(None).met is None


def test_a_ratio_that_must_be_small_is_judged_the_other_way() -> None:
    """Where less is better, as for seconds, the target is the most."""
    assert against(4, "copy", "s", SLOW, ("cp", FAST), "≤", 0.5).met is True
    assert against(4, "copy", "s", SLOW, ("cp", FAST), "≤", 0.49).met is False


def test_a_limit_is_met_up_to_the_limit() -> None:
    """A limit is met by the median up to the limit itself."""
    assert within(1, "submit", "s", SLOW, 10.0).met is True
    assert within(1, "submit", "s", SLOW, 9.9).met is False


def test_ratios_are_taken_turn_by_turn() -> None:
    """A ratio compares the two values of one turn, not two medians of different moments."""
    assert Series((1.0, 4.0)).over(Series((1.0, 2.0))).values == (1.0, 2.0)


def test_the_markdown_counts_and_names_what_was_missed() -> None:
    """The report says missed, with the figure, its spread and the target; a quick run says that it was one."""
    text = report.markdown([faster(2.0), faster(0.1), faster(None)], MACHINE, {3: "RuntimeError: no server"}, "quick")
    assert "Of 2 targets **1 are met and 1 missed**." in text
    assert "10 (9–30) files/s | peer: 20 (20–20) files/s | 0.5 (0.45–1.5) | ≥ 2 | **missed** |" in text
    assert "This was a quick run" in text
    assert "broke off:** RuntimeError: no server" in text


def test_the_json_holds_every_value(tmp_path: Path) -> None:
    """Programs find each turn's value, the ratio and the verdict."""
    report.write(tmp_path, [faster(2.0)], MACHINE, {}, "full")
    (line,) = json.loads((tmp_path / "latest.json").read_text())["lines"]
    assert (line["ours"], line["ratio_median"], line["met"]) == ([9.0, 10.0, 30.0], 0.5, False)


def test_subjects_are_measured_in_turn() -> None:
    """Every second round goes backwards, so that no subject always comes first."""
    called: list[str] = []

    def subject(name: str) -> float:
        called.append(name)
        return float(len(called))

    found = in_turn({"a": lambda: subject("a"), "b": lambda: subject("b")}, 2)
    assert called == ["a", "b", "b", "a"]
    assert found["b"].values == (2.0, 3.0)
