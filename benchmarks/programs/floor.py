"""The physical floor of copying one file: read it once, write it once, fsync file and folder."""

from __future__ import annotations

import os
import sys
from typing import Any

from benchmarks.children import serve

_BUFFER = 4 << 20


def main(source: str, target: str) -> None:
    """Copy through one buffer of 4 MiB."""

    def work() -> dict[str, Any]:
        buffer = bytearray(_BUFFER)
        view = memoryview(buffer)
        with open(source, "rb", buffering=0) as reader, open(target, "xb", buffering=0) as writer:
            while got := reader.readinto(buffer):
                writer.write(view[:got])
            os.fsync(writer.fileno())
        folder = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)
        return {}

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
