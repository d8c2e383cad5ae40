"""Receive the pixels of PANs into shared memory: as a builder node does, or by a bare loop with the same sums.

python -m benchmarks.programs.receive HOW FOLDER PANS     HOW: dts, bare. FOLDER holds seed.ini and pixels.
"""

from __future__ import annotations

import mmap
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from crc32c import crc32c

from benchmarks.children import serve
from imagebuilder import auth, wire
from imagebuilder.cache import FrameCache
from imagebuilder.camera import Camera, load_camera
from imagebuilder.collector import Collector
from imagebuilder.desk import Desk, Wish
from imagebuilder.office import Office, Start
from imagebuilder.session import Welcome

SECRET = auth.Secret(b"for-benchmarks-0nly")
_PAGE = 38 << 20


class _NoOffice:
    """Answers what sessions ask of the database: what is measured needs none."""

    def __init__(self, camera: Camera) -> None:
        self._camera = camera

    def camera(self, _name: str) -> Camera:
        return self._camera

    def begin(self, _wish: Wish) -> Start:
        return Start(1)


def _node(folder: Path, pans: int, memory: Path) -> tuple[int, Callable[[], None]]:
    """Listen as a node, its cache made and touched; return the port and what waits until all PANs have left."""
    camera = load_camera(folder / "seed.ini")
    cache = FrameCache(memory, _PAGE, len(camera.names) // 5 * pans)
    welcome = Welcome("bench", SECRET, "bench", wire.BLOCK_BYTES, 60.0)
    office = cast(Office, _NoOffice(camera))
    collector = Collector("127.0.0.1", 0, auth.parse_networks("127.0.0.1"), welcome, office, Desk(cache))
    collector.start()

    def work() -> None:
        while collector.pans:
            time.sleep(0.005)

    return collector.port, work


def _bare(size: int, pans: int) -> tuple[int, Callable[[], None]]:
    """Listen, and prepare as much touched memory as is to come; one thread for each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    memory = []
    for _ in range(pans):
        view = memoryview(mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE))
        memory.append(view)

    def receive(connection: socket.socket, view: memoryview) -> None:
        at = 0
        while at < size:
            end = min(size, at + wire.BLOCK_BYTES)
            block = view[at:end]
            while at < end:
                at += connection.recv_into(view[at:end])
            crc32c(block)
        connection.sendall(b"!")

    def work() -> None:
        threads = [threading.Thread(target=receive, args=(listener.accept()[0], view)) for view in memory]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return cast(int, listener.getsockname()[1]), work


def main(how: str, folder: str, pans: str) -> None:
    """Receive once; the port is written into the file `port` of the folder."""
    place = Path(folder)
    memory = Path(tempfile.mkdtemp(prefix="dts-bench-", dir="/dev/shm"))
    try:
        if how == "dts":
            port, work = _node(place, int(pans), memory)
        else:
            port, work = _bare((place / "pixels").stat().st_size, int(pans))
        (place / "port.new").write_text(f"{port}\n")
        os.rename(place / "port.new", place / "port")

        def measured() -> dict[str, Any]:
            begun = time.process_time()
            work()
            return {"cpu": time.process_time() - begun}

        serve(measured)
    finally:
        shutil.rmtree(memory)


if __name__ == "__main__":
    main(*sys.argv[1:])
