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


def test_an_unknown_agent_is_a_usage_error(site: Path) -> None:
    """Named at once, before anything starts."""
    command = [sys.executable, "-c", "from dtsd.cli import main; main()", "--config", str(site), "run", "trasnfer"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert b"trasnfer" in done.stderr
