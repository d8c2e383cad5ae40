"""Queues, routes and deliveries in dts.ini: what is read, what is chosen, and what is refused with which words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dtscore.config import Config, load
from dtscore.errors import ConfigurationError, UsageError
from dtscore.queueing import Comparison, Handover, expand, has_macros, parse_comparison, parse_keywords, parse_target

ELEMENTS = "[se local]\ntype = file\nroot = local\n[se archive]\ntype = file\nroot = archive\n"

Site = Callable[[str], Config]


@pytest.fixture
def site(write_file: Callable[[str, bytes], Path]) -> Site:
    """Load a configuration with two storage elements and the given text."""
    return lambda text: load(write_file("site/etc/dts.ini", f"{ELEMENTS}{text}".encode()))


def test_a_heading_with_a_blank_is_one_with_a_dot(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """[queue des] and [queue.des] are the same, for every kind of section and in the environment."""
    assert set(site("").elements) == {"local", "archive"}
    assert site("[queue des]\ntarget = archive\n").queues == site("[queue.des]\ntarget = archive\n").queues
    assert site("[channel local archive]\nlimit = 2\n").channel("local", "archive").limit == 2
    assert site("[agent transfer]\nworkers = 3\n").agent("transfer").workers == 3
    monkeypatch.setenv("DTS_QUEUE_DES_STREAMS", "12")
    assert site("[queue des]\ntarget = archive\n").queues["des"].streams == 12


def test_a_queue_has_defaults(site: Site) -> None:
    """Nothing but where its files go must be said."""
    queue = site("[queue des]\ntarget = archive\n").queues["des"]
    assert (queue.type, queue.priority, queue.lfn, queue.folder) == ("normal", 5, "/{path}", None)
    assert (queue.elements, queue.handovers, queue.patterns) == (("archive",), (), ("*",))
    urgent = site("[queue des]\ntype = priority\ntarget = archive\n").queues["des"]
    assert urgent.priority == 9


def test_targets_are_elements_and_queues(site: Site) -> None:
    """REMOTE:QUEUE is the next site's, :QUEUE one of this site, :* whichever the routes choose."""
    text = "[queue des]\ntarget = archive fnal:des :two :*\n[queue two]\ntarget = archive\n"
    queue = site(text).queues["des"]
    assert queue.elements == ("archive",)
    assert queue.handovers == (Handover("fnal", "des"), Handover("", "two"), Handover("", "*"))
    assert str(parse_target("fnal:des")) == "fnal:des"


def test_a_command_is_split_once(site: Site) -> None:
    """Quotes make words; nothing else of a shell means anything."""
    text = "[delivery p]\ncommand = /usr/bin/take --in '$P' \"two words\" $$(rm) ; |\n"
    assert site(text).deliveries["p"].command == ("/usr/bin/take", "--in", "$P", "two words", "$$(rm)", ";", "|")


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("[queue des]\n", "has neither target nor delivery", "say where"),
        ("[queue des]\ntarget = arkive\n", "there is no 'arkive'", "did you mean 'archive'"),
        ("[queue des]\ntarget = archive\nstreems = 3\n", "has no key 'streems'", "did you mean 'streams'"),
        ("[queue des]\ntarget = archive\ntype = slow\n", "is not one of", "normal or"),
        ("[queue des]\ntarget = archive\nsource = archive\n", "is the source too", "another element"),
        ("[queue des]\ntarget = archive\ndelivery = pip\n[delivery pipe]\nfolder = p\n", "no 'pip'", "'pipe'"),
        ("[queue des]\ntarget = archive\npriority = 12\n", "'12' is not a priority", "9 (highest)"),
        ("[queue des]\ntarget = archive\nstart_time = 25:00\n", "is not a time of the day", "22:30"),
        ("[queue des]\ntarget = archive\nlfn = /{nam}\n", "is not a field", "the fields are"),
        ("[queue des]\ntarget = archive\nlfn = /same\n", "does not name each file", "{path}"),
        ("[queue des]\ntarget = :dse\n[queue dse2]\ntarget = archive\n", "there is no 'dse'", "did you mean"),
        ("[queue des]\ntarget = :des\n", "is this queue itself", "another queue"),
        ("[queue des]\ntarget = ../x\n", "is not a name", "letters"),
        ("[queue a b]\ntarget = archive\n[queue.a.b]\ntarget = archive\n", "stands twice", "keep one"),
        ("[route r]\nqueue = des\n", "there is no 'des'", "add it"),
        ("[route r]\n", "has no queue", "add: queue"),
        ("[queue des]\ntarget = archive\n[route r]\nqueue = des\nsize = large\n", "is not a comparison", "> 1 GiB"),
        ("[queue des]\ntarget = archive\n[route r]\nqueue = des\nkeywords = X > ab\n", "is not a number", "patterns"),
        ("[queue des]\ntarget = archive\n[route r]\nqueue = des\nkeywords = PROPID\n", "not a condition", "KEYWORD"),
        ("[delivery p]\n", "has neither command nor folder", "become"),
        ("[delivery p]\ncommand = 'x\n", "cannot be split", "quotes"),
        ("[delivery p]\ncommand = x $Z\n", "is not a macro", "$P the whole path"),
        ("[delivery p]\ncommand = $P x\n", "holds a macro", "program"),
        ("[delivery p]\nfolder = p\nas = a/$F\n", "is not a file name", "$F"),
        ("[delivery p]\ncommand = x\nmethod = move\n", "move without a folder", "folder"),
        ("[delivery p]\ncommand = x\nenvironment = A=1\n", "names no variable", "names alone"),
        ("[imagebuilder]\nthen = queue des\n", "there is no queue 'des'", "add a section"),
        ("[imagebuilder]\nthen = remove archive\n", "is not a step", "queue NAME"),
    ],
)
def test_what_is_wrong_is_refused(site: Site, text: str, said: str, hint: str) -> None:
    """Each mistake is told with what would be right."""
    with pytest.raises(ConfigurationError) as caught:
        site(text)
    assert said in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("condition", "found", "holds"),
    [
        ("= 2012B-*", "2012B-0001", True),
        ("= 2012B-*|2013A-*", "2013A-9", True),
        ("= 2012B-*", "2013A-9", False),
        ("!= dark|bias", "object", True),
        ("!= dark|bias", "bias", False),
        ("> 30", "90.0", True),
        ("> 30", "30", False),
        (">= 30", "3E1", True),
        ("< 0", "-0.5", True),
        ("= 30", "30.0", True),
        ("> 30", "many", False),
        ("= T", "T", True),
    ],
)
def test_conditions(condition: str, found: str, holds: bool) -> None:
    """Numbers are compared as numbers, all else by patterns."""
    assert parse_comparison(condition).holds(found) is holds


def test_routes_are_tried_in_order(site: Site) -> None:
    """The first that takes the file wins; all conditions of one must hold; one without any takes everything."""
    config = site(
        "[queue a]\ntarget = archive\n[queue b]\ntarget = archive\n"
        "[route des]\nqueue = a\nfile = DECam_*.fits */special/*\nsize = > 1 KiB, < 1 MiB\nkeywords = PROPID = D*\n"
        "[route rest]\nqueue = b\n"
    )

    def chosen(path: str, size: int, **cards: str) -> str:
        return next(one.queue for one in config.routes if one.takes(path, size, cards.get))

    assert chosen("/n/DECam_1.fits", 2000, PROPID="DES") == "a"
    assert chosen("/n/special/x", 2000, PROPID="DES") == "a"
    assert chosen("/n/DECam_1.fits", 2000) == "b"
    assert chosen("/n/DECam_1.fits", 10, PROPID="DES") == "b"
    assert chosen("/n/Other_1.fits", 2000, PROPID="DES") == "b"


def test_keywords_are_not_asked_where_names_decide(site: Site) -> None:
    """A file is opened only when a rule needs its header."""
    config = site("[queue a]\ntarget = archive\n[route des]\nqueue = a\nfile = x*\nkeywords = A = 1\n")

    def asked(_keyword: str) -> str:
        raise AssertionError("the header was read")

    assert not config.routes[0].takes("/y", 1, asked)


def test_macros_are_expanded_once() -> None:
    """What a macro stands for is not looked at again; $$ is a dollar."""
    values = dict.fromkeys("PFDSCLQNRA", "")
    assert expand("a$F-$$F", {**values, "F": "$P"}) == "a$P-$F"
    assert not has_macros(["$$P", "plain"])
    assert has_macros(["plain", "in=$P"])


def test_conditions_are_read() -> None:
    """Keywords in any case; a value may hold anything but a comma."""
    assert parse_keywords("propid = 2012B-*, EXPTIME>=30") == (
        ("PROPID", Comparison("=", "2012B-*")), ("EXPTIME", Comparison(">=", "30")),
    )  # fmt: skip
    with pytest.raises(UsageError):
        parse_keywords("TOOLONGKEYWORD = 1")
