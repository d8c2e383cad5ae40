"""The exposure agent: which exposures become requests, when, under which names, and only once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from imagebuilder.records import FileState
from reqdb import queues
from tests.agents.camera import Node
from tests.agents.sites import Site


@pytest.fixture
def node(site: Site) -> Iterator[Node]:
    """The site's builder node."""
    made = Node.of(site)
    yield made
    made.close()


def test_an_exposure_waits_for_its_last_detector(node: Node) -> None:
    """Half of it is not due before the time for partial ones has passed."""
    number = node.expose("S1")
    assert not node.site.once("exposure")
    node.expose("N1", number=number)
    assert node.site.once("exposure") == {"complete": 1}


def test_a_silent_exposure_is_built_partial(node: Node) -> None:
    """After `partial_after` seconds without a pixel it is asked for with what is there."""
    node.silence(node.expose("S1"))
    assert node.site.once("exposure") == {"partial": 1}


def test_a_pan_that_has_begun_but_not_read_out_is_waited_for(node: Node) -> None:
    """Nothing came yet: there is nothing to build, however long the shutter is open; half a frame is something."""
    number = node.label()
    assignment = node.begin(number, "S1", "N1")
    node.silence(number)
    assert not node.site.once("exposure")
    node.place(number, assignment, "S1", rows=50)
    assert node.site.once("exposure") == {"partial": 1}


def test_metadata_may_come_after_readout(node: Node) -> None:
    """A complete exposure waits for `settle` seconds before it is due."""
    node.site.write(imagebuilder__settle="1000")
    node.expose("S1", "N1")
    assert not node.site.once("exposure")


def test_another_nodes_exposures_are_left_alone(node: Node) -> None:
    """Their frames lie in another host's memory."""
    node.expose("S1", "N1")
    node.site.write(site__node="elsewhere")
    assert not node.site.once("exposure")


def test_the_name_follows_the_template(node: Node) -> None:
    """Night, program and number as the site wants them; the night is the one at the camera's longitude."""
    node.site.write(imagebuilder__lfn="/{camera}/{program}/{exposure}{version}.fits")
    number = node.expose("S1", "N1")
    node.site.once("exposure")
    assert node.exposure(number).files[0].lfn == f"/duo/none/{number}.fits"


def test_the_request_is_pinned_to_the_node_and_owned_as_configured(node: Node) -> None:
    """Nobody else can reach these frames; owner and priority come from the configuration."""
    node.site.write(imagebuilder__owner="mountain", imagebuilder__priority="9")
    node.expose("S1", "N1")
    node.site.once("exposure")
    (row,) = node.site.rows(
        "SELECT owner, priority, type, targets, node FROM requests JOIN operations ON request_id = requests.id"
    )
    assert tuple(row) == ("mountain", 9, "build", "local", "here")


def test_many_intakes_at_once_make_one_request(node: Node) -> None:
    """Eight agents look at the same moment: one reserves the version, the others find it reserved."""
    numbers = [node.expose("S1", "N1") for _ in range(3)]
    start = threading.Barrier(4)
    found: list[int] = []

    def look() -> None:
        start.wait()
        found.append(node.site.once("exposure")["complete"])

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(found) == 3
    assert node.site.rows("SELECT COUNT(*) FROM requests")[0][0] == 3
    assert all(node.exposure(number).files[0].state is FileState.REQUESTED for number in numbers)


def test_what_is_built_goes_on_to_delivery_and_a_queue(node: Node) -> None:
    """transfer, deliver, queue: the built file lands in the archive, is delivered there, and stands in the queue."""
    site = node.site
    site.write(
        imagebuilder__then="transfer archive, deliver archive, queue des", queue__des__target="vault",
        delivery__archive__folder=str(site.folder / "pipeline"),
    )  # fmt: skip
    number = node.expose("S1", "N1")
    agents = ("exposure", "build", "transfer", "deliver", "forward", "register")
    site.once(*agents)
    (first,) = site.rows("SELECT id FROM requests WHERE queue = ''")[0]
    assert site.settle(first, *agents) == "Done"
    (second,) = site.rows("SELECT id FROM requests WHERE queue = 'des'")[0]
    assert site.settle(second, *agents) == "Done"
    lfn = node.exposure(number).files[0].lfn
    assert set(site.replicas(lfn)) == {"local", "archive", "vault"}
    assert (site.folder / "pipeline" / lfn.rpartition("/")[2]).exists()


def test_a_paused_queue_never_holds_up_the_camera(node: Node) -> None:
    """The file is built and saved while the queue that is to take it is stopped."""
    site = node.site
    site.write(imagebuilder__then="queue des", queue__des__target="vault")
    database = site.database()
    database.run(lambda connection: queues.stop(connection, "des", by="eva"))
    database.close()
    number = node.expose("S1", "N1")
    site.once("exposure", "build", "forward")
    assert node.exposure(number).files[0].state is FileState.SAVED
