"""The C client against a real builder node, compiled with the address and undefined behaviour sanitizers."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imagebuilder.camera import Detector
from tests.imagebuilder.standing import DUO, StandingNode

ROOT = Path(__file__).parents[2]
C = ROOT / "clients" / "c"
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow", "-Wstrict-prototypes")
SANITIZERS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
OK, AGAIN, USAGE, REFUSED, SECRET = 0, 1, -1, -2, -3
KEPT, RECEIVED, SAVED = 0, 1, 2


def compile_c(source: Path, program: Path) -> Path:
    """Compile a program with the library and the sanitizers; a warning is an error."""
    words = ["gcc", *WARNINGS, *SANITIZERS, f"-I{C}", str(source), str(C / "dtspan.c"), "-o", str(program)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that makes the library's calls one by one."""
    return compile_c(Path(__file__).with_name("driver.c"), tmp_path_factory.mktemp("c") / "driver")


@pytest.fixture
def node(tmp_path: Path, sqlite_url: str) -> Iterator[StandingNode]:
    """A running node."""
    with StandingNode(tmp_path / "site", sqlite_url) as made:
        yield made


@dataclass(frozen=True)
class Answer:
    """What a call gave, and how far the exposure is."""

    result: int
    state: int
    rows: int
    received: int
    connections: int
    lfn: str
    size: int
    error: str


class Pan:
    """A driver that runs."""

    def __init__(self, program: Path, address: str, secret: Path, name: str = "pan1") -> None:
        words = [str(program), address, str(secret), name]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.sums = self._read()

    def __enter__(self) -> Pan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        code = self._process.wait(timeout=30)
        self._process.stdout.close()
        assert kind is not None or code == 0, "the sanitizers found something, see above"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def __call__(self, *words: object) -> Answer:
        """Make a call."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        result, state, rows, received, connections, lfn, size, error = self._read().split("\t")
        return Answer(int(result), int(state), int(rows), int(received), int(connections), lfn, int(size), error)

    def hand_over(self, exposure: int, detectors: str = "SN", rows: int = 100) -> None:
        """Hand over all rows of some detectors."""
        for detector in detectors:
            for amplifier in "AB":
                for row in range(0, 328, rows):
                    assert self("block", exposure, f"{detector}1", amplifier, row, min(rows, 328 - row)).result >= OK


def picture(exposure: int, detector: Detector) -> NDArray[Any]:
    """Return the image that the driver's pixels must become."""
    image = np.zeros(detector.shape, np.uint16)
    rows, columns = np.arange(328)[:, None], np.arange(114)[None, :]
    for number, amplifier in enumerate(detector.amplifiers):
        counts = exposure * 977 + DUO.names.index(detector.name) * 20011 + number * 7001 + rows * 31 + columns * 7
        part = image[amplifier.image.slices]
        part[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1] = (counts % 65536).astype(np.uint16)
    return image


def save(node: StandingNode, pan: Pan, exposure: int) -> Answer:
    """Let the stand-in build until the PAN hears SAVED."""
    until = time.monotonic() + 30
    while (answer := pan("wait", exposure, SAVED, 0.05)).result == AGAIN and time.monotonic() < until:
        node.build(partial_after=1000.0)
    return answer


def check(node: StandingNode, exposure: int) -> None:
    """Compare what was saved with what the driver sent."""
    for detector in DUO.detectors:
        np.testing.assert_array_equal(node.images[exposure][detector.name], picture(exposure, detector))


def _restart(node: StandingNode, port: int) -> None:
    node.settings = dataclasses.replace(node.settings, port=port)
    node.start()


def test_it_compiles_without_a_warning_and_its_example_works(node: StandingNode, tmp_path: Path) -> None:
    """The Makefile makes it; the example takes a number, sends an exposure and hears where it is saved."""
    made = shutil.copytree(C, tmp_path / "c")
    flags = f"CFLAGS={' '.join(SANITIZERS)}"
    subprocess.run(["make", "-C", str(made), flags, "all"], check=True, capture_output=True)
    with subprocess.Popen(
        [made / "example", node.address, node.secret], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        until = time.monotonic() + 30
        while program.poll() is None and time.monotonic() < until:
            node.build(partial_after=1000.0)
            time.sleep(0.05)
        assert program.stdout is not None and program.stderr is not None
        said, complained = program.stdout.read(), program.stderr.read()
    assert (program.returncode, complained) == (0, "")
    number = int(said.split()[0])
    assert said.lower().split()[1:] == [f"/f/duo_{number:08d}_v1", str(1000 + number), "adler32:00000001"]
    corner = node.images[number]["N1"]
    assert corner[0, 0] == 1000 + 20000  # N1 A is read from the lower left corner
    assert corner[0, -1] == 1000 + 30000


def test_its_sums_are_the_standards(driver: Path, node: StandingNode) -> None:
    """CRC32C's check value, and RFC 4231's second case of HMAC-SHA256."""
    with Pan(driver, node.address, node.secret) as pan:
        crc, hmac = pan.sums.split()
    assert crc == "e3069283"
    assert hmac == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


def test_an_exposure_is_received_and_saved(driver: Path, node: StandingNode) -> None:
    """Pixel by pixel, in blocks of any size, with metadata."""
    number = node.label()
    with Pan(driver, node.address, node.secret) as pan:
        assert pan("begin", number, "S1", "N1").result == OK
        assert pan("cards", number).result == OK
        pan.hand_over(number)
        assert pan("end", number).result >= OK
        answer = pan("wait", number, RECEIVED, 20)
        assert (answer.result, answer.state, answer.rows, answer.received) == (OK, RECEIVED, 4 * 328, 4 * 328)
        answer = save(node, pan, number)
        assert (answer.result, answer.state, answer.size) == (OK, SAVED, 1000 + number)
        assert answer.lfn.lower().startswith("/f/duo_")
        assert pan("forget", number).state == -1
    check(node, number)


def test_a_node_that_restarts_in_mid_exposure(driver: Path, node: StandingNode) -> None:
    """While nobody answers everything is kept, and what is missing goes out when the node is back."""
    number, port = node.label(), node.node.port
    with Pan(driver, node.address, node.secret) as pan:
        assert pan("begin", number, "S1", "N1").result == OK
        pan.hand_over(number, "S")
        node.stop()
        assert pan("block", number, "N1", "A", 0, 100).result in (OK, AGAIN)
        answer = pan("wait", number, SAVED, 0.3)
        assert (answer.result, answer.state) == (AGAIN, KEPT)
        assert node.address.split(":")[0] in answer.error
        _restart(node, port)
        assert pan("block", number, "N1", "A", 100, 228).result >= OK
        assert pan("block", number, "N1", "B", 0, 328).result >= OK
        assert pan("end", number).result >= OK
        answer = save(node, pan, number)
        assert (answer.result, answer.connections >= 2) == (OK, True)
    check(node, number)


def test_two_exposures_in_hand_and_a_resend(driver: Path, tmp_path: Path, sqlite_url: str) -> None:
    """With room for one exposure the second is kept; a resend leaves the node and sends only what is missing."""
    with (
        StandingNode(tmp_path / "site", sqlite_url, cache="1 MiB") as node,
        Pan(driver, node.address, node.secret) as pan,
    ):
        for number in (node.label(), node.label()):
            pan("begin", number, "S1", "N1") if number == 1 else None
        first = 1
        pan.hand_over(first)
        assert pan("resend", first).result in (OK, AGAIN)
        assert pan("end", first).result in (OK, AGAIN)
        assert pan("wait", first, RECEIVED, 20).connections == 2
        assert save(node, pan, first).result == OK
        check(node, first)


def test_wrong_calls_and_refusals(driver: Path, node: StandingNode) -> None:
    """Each is told with its own result, in words."""
    number = node.label()
    with Pan(driver, node.address, node.secret) as pan, Pan(driver, node.address, node.secret, "pan2") as other:
        assert pan("begin", number, "S1").result == OK
        assert pan("begin", number, "S1").result == USAGE
        assert pan("block", number + 1, "S1", "A", 0, 1).result == USAGE
        assert pan("block", number, "S1", "A", 0, 50).result == OK
        overlap = pan("block", number, "S1", "A", 49, 10)
        assert (overlap.result, "handed over before" in overlap.error) == (USAGE, True)
        taken = other("begin", number, "S1")
        assert (taken.result, "sent by PAN pan1" in taken.error) == (REFUSED, True)
        unknown = other("begin", 999_999, "S1")
        assert (unknown.result, "never handed out" in unknown.error) == (REFUSED, True)
        assert pan("block", number, "S1", "X", 0, 10).result >= OK
        assert pan("end", number).result >= OK or True
        refused = pan("wait", number, RECEIVED, 20)
        assert (refused.result, "no amplifier 'X'" in refused.error) == (REFUSED, True)


def test_secrets(driver: Path, node: StandingNode) -> None:
    """One that others can read is refused at once, a wrong one by the proof of the node."""
    node.secret.chmod(0o644)
    words = [str(driver), node.address, str(node.secret), "pan1"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, input="")
    assert (done.returncode, "mode 0600" in done.stdout) == (1, True)
    node.secret.chmod(0o600)
    node.secret.write_text("qwertzuiopasdfghjkl\n")
    with Pan(driver, node.address, node.secret) as pan:
        answer = pan("begin", 1, "S1")
        assert (answer.result, "does not know our secret" in answer.error) == (AGAIN, True)
