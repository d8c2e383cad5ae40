"""The calls of Linux that Python has no function for."""

from __future__ import annotations

import os
from pathlib import Path

from dtscore import linux


def test_a_punched_hole_is_zero_and_takes_no_room(tmp_path: Path) -> None:
    """The size stays, the blocks go; where it is not offered nothing is changed."""
    path = tmp_path / "a"
    path.write_bytes(b"x" * (1 << 20))
    with open(path, "r+b") as file:
        before = os.fstat(file.fileno()).st_blocks
        done = linux.punch(file.fileno(), 0, 1 << 19)
        file.seek(0)
        assert file.read() == (bytes(1 << 19) if done else b"x" * (1 << 19)) + b"x" * (1 << 19)
        assert os.fstat(file.fileno()).st_size == 1 << 20
        assert not done or os.fstat(file.fileno()).st_blocks < before


def test_memory_is_told_from_a_disk() -> None:
    """What /proc/mounts says of a place is what is found."""
    found = {}
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        found[place] = kind
    for place, kind in found.items():
        if kind in ("tmpfs", "proc", "sysfs", "ext4") and os.path.isdir(place):
            descriptor = os.open(place, os.O_RDONLY)
            assert linux.in_memory(descriptor) == (kind == "tmpfs")
            os.close(descriptor)
