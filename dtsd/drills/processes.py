"""What the processes of a drill run: each function is called in a process of its own, forked from the launcher."""

from __future__ import annotations

import random
import threading
from pathlib import Path

from agents import runner
from dtscore import logging
from dtscore.config import Config, load
from storage.file import FileWriter


def _set_up(config: str) -> Config:
    settings = load(Path(config))
    logging.set_up("info", "console", None)
    return settings


def agent(config: str, *names: str) -> None:
    """Run agents until they are told or made to end."""
    runner.run(_set_up(config), names)


def once(config: str, *names: str) -> None:
    """Let agents do all work there is now."""
    runner.once(_set_up(config), names)


def gated(config: str, gate: str, *names: str) -> None:
    """Wait until somebody writes to the FIFO `gate`, so that a tracer can be tied to this process; then work once."""
    settings = _set_up(config)
    with open(gate, "rb"):
        pass
    runner.once(settings, names)


def flipping(config: str, seed: str, *names: str) -> None:
    """Run agents whose disk flips one bit in every third write; each flip is noted in the file `flips`."""
    settings = _set_up(config)
    chance = random.Random(int(seed))
    notes = Path(config).parent.parent / "flips"
    notes.touch()
    honest = FileWriter.write
    lock = threading.Lock()

    def write(self: FileWriter, data: memoryview, /) -> None:
        with lock:
            if not data or chance.random() > 1 / 3:
                changed = data
            else:
                changed = _flipped(data, chance)
                with notes.open("a", encoding="utf-8") as stream:
                    stream.write(f"{len(data)}\n")
        honest(self, changed)

    FileWriter.write = write  # type: ignore[method-assign]
    FileWriter.clone = lambda *_: False  # type: ignore[method-assign]
    runner.run(settings, names)


def _flipped(data: memoryview, chance: random.Random) -> memoryview:
    content = bytearray(data)
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return memoryview(content)
