"""Row 12: from the first pixel to a file that is landed, registered and queued for its next step, on one node."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.children import ROOT, crew, ours, span
from benchmarks.report import Line, within
from benchmarks.sites import NewSite, Site, settle
from benchmarks.turns import Series
from dtscore.database import Database
from dtsd.builder import make_secret
from imagebuilder import exposures, nodes
from imagebuilder.camera import find_camera
from tests.services import stop_process

LIMIT = 20.0
"""Seconds for one exposure of DECam, which takes about as long to be read out."""

_SEED = 4 * 100.0
"""Node-seconds for an exposure in the plan of the observatory that this was made for: four nodes, one each 100 s."""

_PANS = 2
_STARTED = 60.0


def measure(bench: Bench) -> list[Line]:
    """Measure single exposures, and exposures one after the other."""
    camera = bench.size("decam", "decam", "duo")
    several = bench.size(4, 3, 2)
    size = sum(detector.pixels for detector in find_camera(camera).detectors) * 2
    with NewSite(bench) as site, _running(site, size) as port:
        database = Database(site.url)
        try:
            single = Series(tuple(_expose(site, database, camera, port, 1) for _ in range(bench.repeats)))
            steady = Series(
                tuple(_expose(site, database, camera, port, several) / several for _ in range(bench.repeats))
            )
        finally:
            database.close()
    what = f"{size / 1e6:,.0f} MB of {camera} from {_PANS} PANs: first pixel → landed, registered, queued, SAVED"
    return [
        within(12, what, "s", single, LIMIT, "`settle` of 1 s for late metadata among it"),
        within(12, f"{several} exposures one after the other, for each", "s", steady, LIMIT, "at full speed"),
        within(12, "the same as node-seconds of the plan for four nodes and 100 s", "s", steady, _SEED),
    ]


def _expose(site: Site, database: Database, camera: str, port: int, count: int) -> float:
    """Take exposures; return the seconds until the last one is SAVED, registered, and queued for its transfer."""
    labels = database.run(lambda connection: exposures.hand_out(connection, camera, count))
    settle()
    words = (str(labels[0].exposure), str(count))
    commands = [
        ours("expose", str(site.folder), camera, str(port), str(share), str(_PANS), *words) for share in range(_PANS)
    ]
    seconds = span(crew(commands))
    with database.read() as connection:
        for label in labels:
            (file,) = exposures.find(connection, label.exposure).files
            query = f"SELECT type, state FROM operations WHERE request_id = {file.request} ORDER BY sequence"
            found = [tuple(row) for row in connection.exec_driver_sql(query)]
            if found != [("build", "Done"), ("transfer", "ToDo")]:
                raise RuntimeError(f"exposure {label.exposure} is not built and queued: {found}")
            (site.folder / "target" / file.lfn.lstrip("/")).unlink()
    return seconds


@contextmanager
def _running(site: Site, size: int) -> Iterator[int]:
    """Run a node, and the agents that build; nobody does the transfers, so that they stay queued. Give the port."""
    with ExitStack() as stack:
        shared = Path(tempfile.mkdtemp(prefix="dts-bench-", dir="/dev/shm"))
        stack.callback(shutil.rmtree, shared, ignore_errors=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        page = 18 << 20 if size > 1 << 28 else 1 << 20
        site.sections["imagebuilder"] = {
            "port": str(port), "cache": str(max(3 * size, 8 * page)), "page": str(page), "previews": "",
            "cache_folder": str(shared / "node"), "target": "target", "then": "transfer later",
        }  # fmt: skip
        site.sections["agent.exposure"] = {"poll_interval": "0.5 s"}
        site.add_file("target")
        site.add_file("later")
        make_secret(site.path.parent / "pan.secret")
        for module, words in (("dtsd.ib", ("node",)), ("agents.cli", ("run", "exposure", "build"))):
            stack.callback(stop_process, _start(site, module, *words), signal.SIGTERM)
        _wait_for_node(site)
        yield port


def _start(site: Site, module: str, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", module, "--config", str(site.path), *words]
    with (site.folder / f"{module}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)


def _wait_for_node(site: Site) -> None:
    """Wait until the node has taken its shared memory and sent a heartbeat."""
    database = Database(site.url)
    deadline = time.monotonic() + _STARTED
    try:
        while time.monotonic() < deadline:
            with database.read() as connection:
                if nodes.listing(connection):
                    return
            time.sleep(0.1)
    finally:
        database.close()
    log = (site.folder / "dtsd.ib.log").read_text()
    raise RuntimeError(f"the node did not start within {_STARTED:.0f} s: {log[-2000:]}")
