"""The harness itself: its table, its report, and that nothing is left of a run that is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from dtsd.drills.report import Result
from tests.torture import table

_ROOT = Path(__file__).parents[2]


def test_the_table_says_what_a_report_proves(tmp_path: Path) -> None:
    """N, the failures, 3/N or nothing, seconds for one; of a drill that ran twice the last result counts."""
    report = tmp_path / "runs.jsonl"
    results = [
        ("kill", Result("SIGKILL", "kills", 300, ("lost: x",), 60.0)),
        ("cut", Result("power cut", "cuts", 100, ("lost: x",), 150.0)),
        ("kill", Result("SIGKILL", "kills", 300, (), 60.0, {"files": 2000, "seed": 7})),
    ]
    report.write_text("".join(json.dumps({"name": name, **one.as_dict()}) + "\n" for name, one in results))
    lines = table.markdown(table.read(report)).splitlines()
    assert lines[2:] == [
        "| `kill` | 300 kills | 0 | 1.00% | 0.2 | files: 2,000 |",
        "| `cut` | 100 cuts | 1 | nothing | 1.5 |  |",
    ]


def test_a_run_tells_and_reports(tmp_path: Path) -> None:
    """`--only` chooses, each result is a line of JSON at once, the table stands at the end."""
    report = tmp_path / "runs.jsonl"
    command = [sys.executable, "-m", "tests.torture", "--only", "moments", "--seed", "5", "--report", str(report)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = report.read_text().splitlines()
    assert json.loads(line)["tried"] == 6
    assert "| `moments` | 6 kills | 0 | 50.00% |" in done.stdout


def test_nothing_is_left_of_an_interrupted_run(tmp_path: Path) -> None:
    """SIGTERM in the middle of an outage over SFTP and of a power cut: no process, no mount and no folder stays."""
    for drill in ("outage-vanished", "cut"):
        place = tmp_path / drill
        place.mkdir()
        command = [sys.executable, "-m", "tests.torture", "--only", drill]
        environment = {**os.environ, "TMPDIR": str(place)}
        with subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, text=True) as run:
            assert _until(lambda place=place: any(place.rglob("agent.log"))), "the drill did not begin"
            run.send_signal(signal.SIGTERM)
            said, _ = run.communicate(timeout=60)
        assert run.returncode == 130, said
        assert list(place.iterdir()) == []
        assert _until(lambda place=place: not _processes(str(place))), _processes(str(place))
        assert str(place) not in Path("/proc/mounts").read_text()


def _until(condition: object) -> bool:
    deadline = time.monotonic() + 40
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _processes(word: str) -> list[str]:
    """Return the processes whose command line or environment names a folder of ours."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if word.encode() in told and int(process.name) != os.getpid():
            found.append(told.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found
