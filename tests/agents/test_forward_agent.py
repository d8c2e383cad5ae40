"""Handing over within one site: queue to queue, by the routes, once, with one history. Sites: tests/dtsd."""

from __future__ import annotations

import pytest
from astropy.io import fits

from reqdb import queues
from reqdb.history import whole_history
from reqdb.spec import FileSpec, OperationSpec
from tests.agents.sites import Site, put, transfer

ALL = ("transfer", "register", "remove", "deliver", "forward")


@pytest.fixture
def routed(site: Site) -> Site:
    """A site with queues that hand over to each other."""
    site.write(
        queue__first__target="vault :second", queue__first__purge="no", queue__second__target="archive",
        queue__other__target="vault", route__des__keywords="PROPID = 2012B-*, EXPTIME > 30", route__des__queue="second",
        route__rest__queue="other",
    )  # fmt: skip
    return site


def forward(site: Site, *files: FileSpec, target: str = ":second") -> int:
    """Submit: register on `local`, hand over from there; return the request's id."""
    plain = tuple(FileSpec(file.lfn) for file in files)
    register = OperationSpec("register", files, None, ("local",))
    return site.submit(register, OperationSpec("forward", plain, "local", (target,)))


def everything(site: Site, seconds: float = 20.0) -> list[str]:
    """Let all agents work until all requests have ended; return their states."""
    for (number,) in site.rows("SELECT id FROM requests ORDER BY id"):
        site.settle(number, *ALL, seconds=seconds)
    return [row[0] for row in site.rows("SELECT state FROM requests ORDER BY id")]


def test_a_queue_hands_over_to_another(routed: Site) -> None:
    """One file, two requests, one history."""
    path = routed.make("n/a.fits", b"pixels")
    database, config = routed.database(), routed.config
    file = queues.look_at(config, path)
    submitted = database.run(
        lambda connection: queues.submit_file(connection, config, config.queues["first"], [file], owner="eva")
    )
    everything(routed)
    assert everything(routed) == ["Done", "Done"]
    assert set(routed.replicas("/n/a.fits")) == {"local", "vault", "archive"}
    nodes = whole_history(database, config, str(submitted.id))
    assert [(node.queue, node.parent, node.state) for node in nodes] == [("first", -1, "Done"), ("second", 0, "Done")]
    assert nodes[1].came == ("dts:first, request 1",)
    assert nodes[0].steps == (
        "register → local: Done 1/1", "transfer → vault: Done 1/1", "forward → :second: Done 1/1",
    )  # fmt: skip
    database.close()


def test_the_routes_choose(routed: Site) -> None:
    """DES data go one way by their keywords, all others the other."""
    for name, proposal in (("des", "2012B-0001"), ("community", "2011A-0607")):
        card = fits.Header([("PROPID", proposal, "who's"), ("EXPTIME", 90.0)])
        fits.PrimaryHDU(header=card).writeto(routed.folder / f"local/{name}.fits")
    forward(routed, FileSpec("/des.fits", "des.fits"), FileSpec("/community.fits", "community.fits"), target=":*")
    everything(routed)
    everything(routed)
    rows = routed.rows("SELECT queue, name FROM requests WHERE queue <> '' ORDER BY queue")
    assert [row[0] for row in rows] == ["other", "second"]
    assert "community" in rows[0][1]
    assert set(routed.replicas("/des.fits")) == {"local", "archive"}
    assert set(routed.replicas("/community.fits")) == {"local", "vault"}


def test_handed_over_twice_is_once(routed: Site) -> None:
    """The agent is killed between the handover and its commit: the next one finds the same request."""
    forward(routed, *put(routed, "a.fits"))
    routed.once("register")
    routed.dying("agents.place", "take_turn", "forward")
    routed.settle(1, *ALL)
    assert len(routed.rows("SELECT id FROM requests")) == 2


def test_a_stopped_queue_is_waited_for(routed: Site) -> None:
    """The channel rests and the file loses no attempt; the word of why is there."""
    database = routed.database()
    database.run(lambda connection: queues.stop(connection, "second", by="eva", reason="no disk"))
    forward(routed, *put(routed, "a.fits"))
    routed.once("register", "forward")
    ((error, failures),) = routed.rows("SELECT error, failures FROM files WHERE operation_id = 2")
    assert "stopped by eva: no disk" in error
    assert failures == 0
    database.run(lambda connection: queues.start(connection, "second", by="eva"))
    database.close()
    assert routed.settle(1, *ALL) == "Done"


@pytest.mark.parametrize(("target", "words"), [(":none", "there is no queue 'none'"), ("fnal:des", "not behind the")])
def test_what_can_never_be_handed_over(routed: Site, target: str, words: str) -> None:
    """An unknown queue, or a file that the next site cannot find: the file fails at once, and says why."""
    number = forward(routed, *put(routed, "a.fits"), target=target)
    assert routed.settle(number, *ALL) == "Failed"
    assert words in routed.failure()[1]
    assert routed.failure()[2] == 1


def test_a_file_that_nobody_registered(routed: Site) -> None:
    """There is nothing to hand over."""
    step = OperationSpec("forward", (FileSpec("/x"),), "vault", (":second",))
    number = routed.submit(transfer(put(routed, "a.fits"), "archive"), step)
    assert routed.settle(number, *ALL) == "Failed"
    assert "no good copy of /x on vault" in routed.failure()[1]
