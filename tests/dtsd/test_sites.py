"""Two and three sites, each on a host of its own with a firewall: whoever may listen, the files arrive (needs root)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dtscore.errors import DtsError, ElementUnavailableError, StreamLostError
from dtsnet import carry
from dtsnet.carriage import Carriage, CarryOptions
from dtsnet.sandbox import Sandbox
from dtsnet.sources import local
from tests.daemons import Daemon, make_authority
from tests.netns import Network

SIZE = 7 * (1 << 20) + 3
QUICK = CarryOptions(streams=0, patience=20.0, idle=10.0)
SHORT = replace(QUICK, patience=0.5)


@dataclass
class World:
    """The telescope `a`, where the tests are, and the sites `b` and `c`; all over TLS, by a CA of their own."""

    network: Network
    b: Daemon
    c: Daemon
    here: Sandbox
    files: Path

    def at_telescope(self, work: Callable[[], Carriage]) -> Carriage:
        """Move something from the telescope's host."""
        return self.network.inside("a", work)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Make the hosts, and start the daemons on theirs."""
    folder = tmp_path_factory.mktemp("sites")
    network = Network(("a", "b", "c"))
    daemons: list[Daemon] = []
    try:
        ca, certificate, key = make_authority(folder / "ca", [network.address("b"), network.address("c")])
        for name in ("c", "b"):
            known = {one.name: {**one.as_remote(), "timeout": "5 s"} for one in daemons}
            daemons.append(Daemon(
                folder / name, name=name, host=network.address(name), namespace=network.space(name),
                settings={"data_tls": "yes", "idle": "10 s"}, remotes=known, certificate=(certificate, key), ca_file=ca,
            ).start())  # fmt: skip
        for daemon in daemons:
            network.inside("a", daemon.wait)
        (folder / "here").mkdir()
        (folder / "a.fits").write_bytes(random.Random(1).randbytes(SIZE))
        yield World(network, daemons[1], daemons[0], Sandbox(str(folder / "here")), folder)
    finally:
        for daemon in daemons:
            daemon.stop()
        network.close()


@pytest.fixture
def world(made: World) -> Iterator[World]:
    """All doors are open at the beginning of each test."""
    yield made
    for name in ("a", "b", "c"):
        made.network.open(name)


def send(world: World, mode: str, name: str, options: CarryOptions) -> None:
    """Send the file from the telescope to b, and compare."""
    move = carry.push if mode == "push" else carry.give
    files = local(str(world.files / "a.fits"), name)
    world.at_telescope(lambda: move(world.b.remote(), files, name, options)).one()
    assert (world.b.root / name).read_bytes() == (world.files / "a.fits").read_bytes()


def fetch(world: World, mode: str, name: str, options: CarryOptions) -> None:
    """Fetch a file from b to the telescope, and compare."""
    (world.b.root / "night.fits").write_bytes((world.files / "a.fits").read_bytes())
    move = carry.pull if mode == "pull" else carry.take
    world.at_telescope(lambda: move(world.b.remote(), "night.fits", world.here, name, options)).one()
    assert Path(world.here.root, name).read_bytes() == (world.files / "a.fits").read_bytes()


def test_nothing_comes_in_at_the_telescope(world: World) -> None:
    """Its firewall lets nothing in: push and pull go, for the site listens; give and take do not."""
    world.network.shut("a")
    send(world, "push", "x/push", QUICK)
    fetch(world, "pull", "x/pull", QUICK)
    with pytest.raises(DtsError):
        send(world, "give", "x/refused", SHORT)
    assert not (world.b.root / "x/refused").exists()


def test_only_calls_come_in_at_the_site(world: World) -> None:
    """The site's firewall lets in nothing but calls: give and take go, for the telescope listens; push does not."""
    world.network.shut("b", world.b.ports[0])
    send(world, "give", "y/give", QUICK)
    fetch(world, "take", "y/take", QUICK)
    with pytest.raises((StreamLostError, DtsError)):
        send(world, "push", "y/refused", SHORT)
    assert not (world.b.root / "y/refused").exists()


@pytest.mark.parametrize(("mode", "closed"), [("push", "b"), ("give", "c")])
def test_one_site_sends_to_another(world: World, mode: str, closed: str) -> None:
    """The telescope has b send to c and only watches; whichever of them lets in nothing but calls, one mode goes."""
    (world.b.root / "third.fits").write_bytes((world.files / "a.fits").read_bytes())
    daemon = world.b if closed == "b" else world.c
    world.network.shut(closed, daemon.ports[0])

    def watch(way: str, options: CarryOptions) -> Carriage:
        return carry.third(world.b.remote(), "third.fits", "c", f"from-b/{way}-{closed}", options, mode=way)

    carried = world.at_telescope(lambda: watch(mode, QUICK)).one()
    assert carried.size == SIZE
    assert (world.c.root / "from-b" / f"{mode}-{closed}").read_bytes() == (world.files / "a.fits").read_bytes()


def test_a_site_that_cannot_be_reached_is_told(world: World) -> None:
    """c lets in nothing at all: b says so, and nothing has a final name there."""
    (world.b.root / "third.fits").write_bytes((world.files / "a.fits").read_bytes())
    world.network.shut("c")
    with pytest.raises((ElementUnavailableError, StreamLostError)):
        world.at_telescope(lambda: carry.third(world.b.remote(), "third.fits", "c", "nowhere", SHORT)).one()
    assert not (world.c.root / "nowhere").exists()
