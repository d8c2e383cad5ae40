"""`dts run`: all agents in one process, seen by the doctor, ended by SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from agents.runner import AGENTS
from dtsd import doctor

ROOT = Path(__file__).parents[2]


def test_run_starts_all_agents_and_drains(site: Path) -> None:
    """The doctor sees each agent within seconds; SIGTERM ends the process with 0 and the agents' rows in order."""
    command = [sys.executable, "-c", "from dtsd.cli import main; main()", "--config", str(site), "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, cwd=site, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        sentences: list[str] = []
        while len(sentences) < len(AGENTS) and time.monotonic() < deadline:
            time.sleep(0.2)
            found = doctor.examine(site)
            sentences = [check.sentence for check in found if check.name == "agents" and check.state == "ok"]
        for name in AGENTS:
            assert any(f"agent {name}@" in sentence for sentence in sentences)
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said.decode()
    checks = [check for check in doctor.examine(site) if check.name == "agents"]
    assert [check.sentence for check in checks] == ["no agent runs"]


def test_node_and_supervisor_end_with_a_run_that_is_killed(site: Path, tmp_path: Path) -> None:
    """After SIGKILL of `dts run` its programs leave ports and shared memory to the next one."""
    command = [sys.executable, "-c", "from dtsd.cli import main; main()", "--config", str(site), "run"]
    builder = {"NODE": "yes", "SUPERVISOR": "yes", "PORT": "0", "SUPERVISOR_PORT": "0", "CACHE": "2 MiB",
               "PAGE": "1 MiB", "CACHE_FOLDER": str(tmp_path / "pages")}  # fmt: skip
    settings = {f"DTS_IMAGEBUILDER_{key}": value for key, value in builder.items()}
    environment = {**os.environ, **settings, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, cwd=site, stderr=subprocess.DEVNULL)
    children: list[str] = []
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pages").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        children = _children(process.pid)
        assert len(children) == 2
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def _children(process: int) -> list[str]:
    """Return the processes that any thread of a process has started."""
    return [each for task in Path(f"/proc/{process}/task").glob("*/children") for each in task.read_text().split()]


def test_agents_named_run_alone_where_a_node_is_configured(site: Path) -> None:
    """`dts run NAME` starts no node and ends cleanly."""
    command = [sys.executable, "-c", "from dtsd.cli import main; main()", "--config", str(site), "run", "build"]
    environment = {**os.environ, "DTS_IMAGEBUILDER_NODE": "yes", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, cwd=site, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not any("build@" in check.sentence for check in doctor.examine(site)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _children(process.pid) == []
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said.decode()


def test_an_unknown_agent_is_a_usage_error(site: Path) -> None:
    """Named at once, before anything starts."""
    command = [sys.executable, "-c", "from dtsd.cli import main; main()", "--config", str(site), "run", "trasnfer"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert b"trasnfer" in done.stderr
