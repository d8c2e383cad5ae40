"""The program dts-pan: it sends files, plays a camera, sends again, and asks for a sign of life; no site is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from astropy.io import fits

from imagebuilder.pan.client import PanClient
from imagebuilder.pan.sky import Sky, readout
from tests.imagebuilder.standing import DUO, StandingNode

ROOT = Path(__file__).parents[2]
SKY = Sky(DUO, 3)


class Result(NamedTuple):
    """What a command printed, and its exit code."""

    stdout: str
    stderr: str
    code: int


@pytest.fixture
def node(tmp_path: Path, sqlite_url: str) -> Iterator[StandingNode]:
    """A running node."""
    with StandingNode(tmp_path / "site", sqlite_url) as made:
        yield made


def run(node: StandingNode, *words: str, code: int = 0) -> Result:
    """Run a command in a process of its own while the stand-in builds."""
    environment = {**os.environ, "DTS_PAN_ADDRESS": node.address, "DTS_PAN_SECRET_FILE": str(node.secret)}
    command = [sys.executable, "-m", "imagebuilder.pan_cli", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=ROOT, **pipes) as program:
        found: list[tuple[str, str]] = []
        thread = threading.Thread(target=lambda: found.append(program.communicate()), daemon=True)
        thread.start()
        while thread.is_alive():
            node.build(partial_after=1000.0)
            thread.join(0.05)
    result = Result(*found[0], program.returncode)
    assert result.code == code, result
    return result


def _files(folder: Path, exposure: int) -> list[str]:
    """Write S1 by amplifier and N1 as a FITS extension; return the files' names."""
    south, north = (SKY.image(exposure, one) for one in DUO.detectors)
    for amplifier in DUO.detectors[0].amplifiers:
        np.save(folder / f"S1.{amplifier.name}.npy", readout(south, amplifier))
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(north, name="N1")]).writeto(folder / "raw.fits")
    return [str(folder / name) for name in ("S1.A.npy", "S1.B.npy", "raw.fits")]


def test_files_are_sent(node: StandingNode, tmp_path: Path) -> None:
    """Amplifiers from numpy's files, images from FITS; the exit code is 0 when all is SAVED."""
    number = node.label()
    words = ["--exposure", str(number), "--card", "FILTER='r'", "--card", "EXPTIME=90", "--rows", "100", "--json"]
    found = json.loads(run(node, "send", *_files(tmp_path, number), *words).stdout)
    assert found[0]["saved"] is True
    assert found[0]["files"][0]["lfn"].startswith("/f/")
    for detector in DUO.detectors:
        np.testing.assert_array_equal(node.images[number][detector.name], SKY.image(number, detector))


def test_a_number_is_taken_if_none_is_given(node: StandingNode, tmp_path: Path) -> None:
    """The first exposure of the database, in words."""
    assert "exposure 1\tsaved: /f/" in run(node, "send", *_files(tmp_path, 1)).stdout


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("S1.npy", np.zeros((3, 3), np.uint16), "has (328, 228)"),
        ("S1.A.npy", np.zeros((328, 114), np.uint8), "uint8"),
        ("S1.Q.npy", np.zeros((328, 114), np.uint16), "no amplifier 'Q'"),
        ("X1.npy", np.zeros((328, 228), np.uint16), "no detector 'X1'"),
    ],
)
def test_wrong_files_are_told(
    node: StandingNode, tmp_path: Path, name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.uint16]], message: str
) -> None:
    """Exit code 2, and what is wrong."""
    np.save(tmp_path / name, array)
    assert message in run(node, "send", str(tmp_path / name), code=2).stderr


@pytest.mark.parametrize("kept", [0, 100, 0.6])
@pytest.mark.parametrize("name", ["S1.npy", "raw.fits"])
def test_half_a_file_is_told(node: StandingNode, tmp_path: Path, name: str, kept: float) -> None:
    """A file that was cut off, in its header or its pixels, or is empty: exit code 2, and nothing is sent of it."""
    _files(tmp_path, 1)
    np.save(tmp_path / "S1.npy", SKY.image(1, DUO.detectors[0]))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(kept * len(whole) if kept < 1 else kept)])
    assert f"{name} cannot be read: " in run(node, "send", str(tmp_path / name), code=2).stderr


def test_a_camera_is_played(node: StandingNode) -> None:
    """A line for each exposure, and how many were saved; JSON a line each."""
    result = run(node, "simulate", "--exposures", "2", "--seed", "3", "--wait", "60 s")
    assert result.stdout.count("saved in ") == 2
    assert "2 of 2 exposures are saved" in result.stderr
    lines = run(node, "simulate", "--exposures", "2", "--drop", "0.1", "--rate", "20 MB", "--json").stdout.splitlines()
    assert [json.loads(line)["saved"] for line in lines] == [True, True]
    for detector in DUO.detectors:
        np.testing.assert_array_equal(node.images[1][detector.name], SKY.image(1, detector))


def test_a_spool_is_sent_again(node: StandingNode, tmp_path: Path) -> None:
    """What a dead program left is shown by status and sent by resend; an empty spool is no error."""
    spool, number = tmp_path / "spool", node.label()
    with PanClient([node.address], "duo", "pan1", node.secret, spool=spool) as pan:
        pan.begin(number, ["S1", "N1"])
        for detector in DUO.detectors:
            for amplifier in detector.amplifiers:
                pan.block(number, detector.name, amplifier.name, 0, readout(SKY.image(number, detector), amplifier))
    held = json.loads(run(node, "status", "--spool", str(spool), "--json").stdout)["held"]
    assert [(one["exposure"], one["rows"]) for one in held] == [(number, 4 * 328)]
    assert f"exposure {number}\tsaved" in run(node, "resend", "--spool", str(spool)).stdout
    assert run(node, "resend", "--spool", str(spool)).stdout == ""
    assert "--spool" in run(node, "resend", code=2).stderr


def test_a_killed_sender_loses_nothing(node: StandingNode, tmp_path: Path) -> None:
    """SIGKILL after everything was handed over, before SAVED: resend sends the very pixels."""
    spool, number = tmp_path / "spool", node.label()
    connection = ["--address", node.address, "--secret-file", str(node.secret), "--spool", str(spool)]
    words = ["send", *_files(tmp_path, number), "--exposure", str(number), *connection]
    with subprocess.Popen([sys.executable, "-m", "imagebuilder.pan_cli", *words], cwd=ROOT) as program:
        journal = spool / str(number) / "journal"
        until = time.monotonic() + 60
        while time.monotonic() < until and not (journal.exists() and '"end"' in journal.read_text()):
            time.sleep(0.02)
        program.kill()
    assert program.returncode == -9
    assert f"exposure {number}\tsaved" in run(node, "resend", "--spool", str(spool)).stdout
    for detector in DUO.detectors:
        np.testing.assert_array_equal(node.images[number][detector.name], SKY.image(number, detector))


def test_a_sign_of_life(node: StandingNode) -> None:
    """Each address answers, or says why not; exit code 5 when none does."""
    answers = json.loads(run(node, "status", "--address", node.address, "--address", "127.0.0.1:9", "--json").stdout)
    assert answers["addresses"][node.address] < 10
    assert "cannot be reached" in answers["addresses"]["127.0.0.1:9"]
    assert "cannot be reached" in run(node, "status", "--address", "127.0.0.1:9", code=5).stdout
    assert "not an address" in run(node, "status", "--address", "nonsense", code=2).stderr


def test_a_builder_that_is_away_is_told_once(node: StandingNode, tmp_path: Path) -> None:
    """While nobody answers one line says so, however many PANs wait; what was handed over is kept."""
    where = ["--address", "127.0.0.1:9", "--wait", "1 s"]
    result = run(node, "simulate", *where, "--first", "7", code=1)
    assert result.stderr.count("127.0.0.1:9 cannot be reached: ") == 1
    assert "; trying again" in result.stderr
    told = run(node, "simulate", *where, code=5).stderr.splitlines()
    assert told[0].endswith("; trying again")
    assert told[1].startswith("error: 127.0.0.1:9 cannot be reached")
    sent = run(node, "send", *_files(tmp_path, 7), "--exposure", "7", *where, code=5)
    assert sent.stderr.count("; trying again") == 1


def test_what_waiting_does_not_mend_ends_at_once(node: StandingNode, tmp_path: Path) -> None:
    """A wrong secret, and a camera that the site has not: refused, and nobody waits the ten minutes of --wait."""
    wrong = tmp_path / "wrong.secret"
    wrong.touch(mode=0o600)
    wrong.write_text("q8Zr-Lx2v-Tn5w-Bk7y-Hm4p")
    for words in (["simulate"], ["simulate", "--first", "7"], ["send", *_files(tmp_path, 7), "--exposure", "7"]):
        refused = run(node, *words, "--secret-file", str(wrong), code=1)
        assert "does not know our secret" in refused.stderr
    ini = (ROOT / "etc" / "cameras" / "duo.ini").read_text().replace("name = duo", "name = trio")
    (tmp_path / "trio.ini").write_text(ini)
    strange = ["simulate", "--camera", "trio", "--camera-folder", str(tmp_path)]
    assert "there is no camera 'trio'" in run(node, *strange, code=1).stderr
    assert "NOT saved whole" in run(node, *strange, "--first", "7", code=1).stdout
