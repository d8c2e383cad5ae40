"""What a queue wishes of the way: its own element between sites, and one rate for all of its files."""

from __future__ import annotations

import time

from agents.queue_ways import Paces, wishes
from storage.dts import DtsElement
from storage.registry import Elements
from tests.agents.sites import Site, put, transfer

REMOTE = {"remote.fnal.url": "http://127.0.0.1:9", "remote.fnal.user": "us"}


def test_wishes_reach_the_element(site: Site) -> None:
    """`mode = give` and streams make another element than without; a queue without wishes has the site's own."""
    site.settings.update(REMOTE)
    site.add("far", type="dts", remote="fnal", streams="2")
    site.write(
        queue__des__target="far", queue__des__mode="give", queue__des__streams="9", queue__plain__target="far",
    )  # fmt: skip
    config = site.config
    elements = Elements(config.elements)
    plain, own = (elements.get("far", wishes(config, "far", name)) for name in ("plain", "des"))
    assert isinstance(plain, DtsElement)
    assert isinstance(own, DtsElement)
    assert plain is elements.get("far")
    assert own is elements.get("far", wishes(config, "far", "des"))
    assert (plain.listens, plain.carry.streams) == (False, 2)
    assert (own.listens, own.carry.streams) == (True, 9)
    assert wishes(config, "local", "des") == {}
    elements.close()


def test_one_rate_for_all_files_of_a_queue(site: Site) -> None:
    """Two paces of one queue are one; a queue without a rate has none."""
    site.write(queue__des__target="archive", queue__des__rate="10 MB", queue__plain__target="archive")
    paces = Paces(site.config)
    assert paces.of("plain") is None
    assert paces.of("") is None
    assert paces.of("des") is paces.of("des")


def test_a_rate_holds(site: Site) -> None:
    """6 MB at 4 MB a second take a second at least; the bytes are right."""
    site.write(queue__des__target="archive", queue__des__rate="4 MB")
    files = put(site, "a.fits", "b.fits", content=b"x" * 3_000_000)
    request = site.submit(transfer(files, "archive"), queue="des")
    begun = time.monotonic()
    assert site.settle(request, "transfer") == "Done"
    assert time.monotonic() - begun > 1.0
