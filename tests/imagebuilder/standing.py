"""A builder node that runs for a test, with the database and the shared memory of a real one, and a stand-in builder.

The stand-in reserves and saves files in the database as the agents do; what it "saves" are the pages' pixels, kept
as arrays, so that tests compare them with what a camera sent.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from dtscore.config import load
from dtscore.database import Database
from imagebuilder import exposures
from imagebuilder.cache import open_frames
from imagebuilder.camera import find_camera
from imagebuilder.node import Node

QUICK = {
    "host": "127.0.0.1", "port": "0", "supervisor_port": "0", "cache": "8 MiB", "page": "512 KiB", "heartbeat": "50 ms",
    "stale": "1 s", "idle": "5 s", "block": "16 KiB", "partial_after": "1 s",
}  # fmt: skip


class StandingNode:
    """A node in this process: `address` for PANs, `secret` their file, `images` what was saved of each exposure."""

    def __init__(self, folder: Path, url: str, name: str = "node1", **settings: str) -> None:
        """Write a configuration below the folder and start the node."""
        self.folder, self.url, self.name = folder, url, name
        self.secret = folder / "etc" / "pan.secret"
        self.images: dict[int, dict[str, NDArray[Any]]] = {}
        self._write({**QUICK, "cache_folder": f"/dev/shm/dts-test-{secrets.token_hex(6)}", **settings})
        self.settings = load(folder / "etc" / "dts.ini").imagebuilder
        self.start()

    def _write(self, settings: dict[str, str]) -> None:
        self.secret.parent.mkdir(parents=True, exist_ok=True)
        if not self.secret.exists():
            self.secret.touch(mode=0o600)
            self.secret.write_text(secrets.token_hex(16) + "\n")
        lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
        text = f"[database]\nurl = {self.url}\n\n[imagebuilder]\n{lines}"
        (self.folder / "etc" / "dts.ini").write_text(text, encoding="utf-8")

    def start(self) -> None:
        """Run the node in a thread."""
        self.database = Database(self.url)
        self.node = Node(self.database, self.settings, self.name)
        self._thread = threading.Thread(target=self.node.run, name=self.name)
        self._thread.start()

    def stop(self) -> None:
        """End the node in good order; its shared memory stays."""
        self.node.stop()
        self._thread.join(30)
        self.database.close()

    def __enter__(self) -> StandingNode:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import shutil

        if self._thread.is_alive():
            self.stop()
        shutil.rmtree(self.settings.cache_folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """Where PANs connect."""
        return f"127.0.0.1:{self.node.port}"

    def run(self, do: Callable[[Connection], Any]) -> Any:
        """Do something in one transaction."""
        return self.database.run(do)

    def label(self, camera: str = "duo") -> int:
        """Hand out an exposure number."""
        return int(self.run(lambda link: exposures.hand_out(link, camera))[0].exposure)

    def build(self, *, partial_after: float = 0.0) -> list[int]:
        """Save what is due, as the agents would; return the exposures."""
        due = self.run(lambda link: exposures.due(link, self.name, partial_after=partial_after))
        for one in due:
            reserved = self.run(
                lambda link, one=one: exposures.reserve_file(link, one, f"/f/{one.label}_v{one.version}", self.name)
            )
            if reserved is None:
                continue
            frames = open_frames(self.settings.cache_folder, one.exposure, one.assignment)
            images = self.images.setdefault(one.exposure, {})
            images.update({name: native(frames[name].array, frames[name].head.pixel) for name in reserved.detectors})
            built = exposures.Built(1000 + one.exposure, "adler32:00000001", {})
            self.run(partial(exposures.saved, reserved=reserved, built=built))
        return [one.exposure for one in due]


def native(array: NDArray[Any], pixel: str) -> NDArray[Any]:
    """Return the pixels of a page as the camera counted them (FITS holds unsigned ones with their sign bit turned)."""
    raw = array.astype(array.dtype.newbyteorder("="))
    if pixel.startswith("uint"):
        raw = raw.view(pixel) ^ np.array(1 << (8 * raw.dtype.itemsize - 1), dtype=pixel)
    return raw


DUO = find_camera("duo")
