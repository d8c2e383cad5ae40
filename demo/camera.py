"""The image builder in the demonstration: a camera of two CCDs is played, and one of them is late for its last file."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from imagebuilder.camera import find_camera
from imagebuilder.pan.sky import Sky

Run = Callable[..., None]

_FILTER = "FILTER=r DECam SDSS c0002 6415.0 1480.0"
_CARDS = ("OBJECT=M 31 / a galaxy", _FILTER, "EXPTIME=30.0", "OBSTYPE=object", "DATE-OBS=2026-11-21T03:00:00",
          "TELRA=00:42:44", "TELDEC=+41:16:09")  # fmt: skip


def configure(config: Path) -> str:
    """Switch node and supervisor on, with little memory and on free ports; return where PANs are to connect."""
    ports = [_free_port() for _ in range(2)]
    settings = {
        "node": "yes", "supervisor": "yes", "cache": "8 MiB", "page": "1 MiB", "partial_after": "3 s",
        "port": str(ports[0]), "supervisor_port": str(ports[1]),
    }  # fmt: skip
    text = config.read_text()
    head, title, rest = text.partition("[imagebuilder]\n")
    section, bracket, others = rest.partition("\n[")
    kept = [line for line in section.splitlines() if line.partition(" = ")[0] not in settings]
    lines = [*kept, *(f"{key} = {value}" for key, value in settings.items()), ""]
    config.write_text(head + title + "\n".join(lines) + bracket + others)
    return f"127.0.0.1:{ports[1]}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def walk(folder: Path, programs: Path, address: str, run: Run) -> None:
    """Take three exposures, and one whose second CCD comes too late for the first version of its file."""
    _wait_for_node(folder, programs)
    camera = find_camera("duo")
    sky = Sky(camera, 7)
    pan = ("--camera", "duo", "--address", address, "--secret-file", "etc/pan.secret")
    run(folder, "dts-pan", "simulate", *pan, "--exposures", "3")
    found = subprocess.run([str(programs / "dts-ib"), "label", "--camera", "duo", "--json"], cwd=folder, check=True,
                           capture_output=True, text=True).stdout  # fmt: skip
    number, label = json.loads(found)[0]["exposure"], json.loads(found)[0]["label"]
    print(f"$ dts-ib label --camera duo\n{number} {label}", flush=True)
    run(folder, "dts-ib", "metadata", str(number), *_CARDS)
    for name in ("S1", "N1"):
        np.save(folder / f"{name}.npy", sky.image(number, camera.detector(name)))
        print("S1 comes, N1 does not: a file without it" if name == "S1" else "N1 comes after all: version 2")
        run(folder, "dts-pan", "send", f"{name}.npy", *pan, "--name", f"pan-{name}", "--exposure", str(number))
    run(folder, "dts-ib", "exposures")
    run(folder, "dts-ib", "show", str(number))
    lfn = _newest(folder, programs, number)
    run(folder, "dts-ib", "verify", lfn)
    run(folder, "dts-ib", "preview", lfn, "--to", "duo.png")
    run(folder, "dts-catalog", "find", "flags='partial'")


def _newest(folder: Path, programs: Path, number: int) -> str:
    command = [str(programs / "dts-ib"), "show", str(number), "--json"]
    found = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    lfn: str = json.loads(found)["line"]["lfn"]
    return lfn


def _wait_for_node(folder: Path, programs: Path) -> None:
    """Wait until the node has sent its first heartbeat."""
    for _ in range(300):
        command = [str(programs / "dts-ib"), "nodes", "--json"]
        if json.loads(subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True).stdout or "[]"):
            return
        time.sleep(0.1)
