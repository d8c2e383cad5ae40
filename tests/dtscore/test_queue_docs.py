"""docs/queues.md: its configurations are read, its tables know every word, its request file is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dtscore.config import load
from dtscore.queueing import DELIVERY_VARIABLES, MACROS
from tests.reqdb.documents import read

TEXT = (Path(__file__).parents[2] / "docs" / "queues.md").read_text(encoding="utf-8")
SITES = [block for block in re.findall(r"```ini\n(.*?)```", TEXT, re.DOTALL) if "[site]" in block]


@pytest.mark.parametrize("block", SITES, ids=lambda block: block.split("name = ")[1].split()[0])
def test_each_site_is_a_configuration(block: str, tmp_path: Path) -> None:
    """The three sites of the path load, each with its queue."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/dts.ini").write_text(block)
    assert "des" in load(tmp_path / "etc/dts.ini").queues


def test_the_routes_are_read(tmp_path: Path) -> None:
    """The example's rules choose."""
    (block,) = (one for one in re.findall(r"```ini\n(.*?)```", TEXT, re.DOTALL) if "[route" in one)
    queues = "".join(f"[queue {name}]\ntarget = a\n" for name in ("des", "night", "community"))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/dts.ini").write_text(f"[se a]\ntype = file\nroot = a\n{queues}{block}")
    config = load(tmp_path / "etc/dts.ini")
    cards = {"PROPID": "2012B-0002", "OBSTYPE": "object", "EXPTIME": "90."}
    assert [one.takes("/n/DECam_1.fits", 10, cards.get) for one in config.routes] == [True, False, True]


def test_the_request_file_is_one() -> None:
    """The example of a delivery written by hand."""
    (block,) = re.findall(r"```xml\n(.*?)```", TEXT, re.DOTALL)
    assert [one.type for one in read(block.encode()).operations] == ["transfer", "deliver"]


def test_each_macro_and_variable_is_explained() -> None:
    """Nothing is given to a program that the page does not tell."""
    assert [one for one in MACROS if f"`${one}`" not in TEXT] == []
    assert [one for one in DELIVERY_VARIABLES if one != "DTS_DELIVERY" and f"`{one}`" not in TEXT] == []
