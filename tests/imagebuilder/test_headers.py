"""Header metadata as it is posted: what a line means, what is refused, and that the latest word counts."""

from __future__ import annotations

from datetime import datetime

import pytest

from dtscore.database import Database
from dtscore.errors import NotFoundError, UsageError
from imagebuilder import exposures, headers
from imagebuilder.headers import parse_card, parse_cards
from imagebuilder.records import Card, Value


@pytest.mark.parametrize(
    ("text", "value", "comment"),
    [
        ("EXPTIME=90", 90, ""),
        ("EXPTIME = 90.5 / [s] exposure time", 90.5, "[s] exposure time"),
        ("GAIN=4.5D1", 45.0, ""),
        ("AOS=T", True, ""),
        ("AOS=F / off", False, "off"),
        ("OBJECT=M 31", "M 31", ""),
        ("OBJECT='M 31 / a galaxy' / the target", "M 31 / a galaxy", "the target"),
        ("OBJECT='O''Neill'", "O'Neill", ""),
        ("OBJECT='90'", "90", ""),
        ("URL=http://x/y", "http://x/y", ""),
        ("object=lower", "lower", ""),
        ("EMPTY=", "", ""),
        ("DATE-OBS=2026-11-21T03:00:00", "2026-11-21T03:00:00", ""),
    ],
)
def test_a_line_is_a_card(text: str, value: Value, comment: str) -> None:
    """Numbers, logicals and texts are told apart as FITS tells them; the keyword is in capitals."""
    found = parse_card(text, "S1")
    assert (found.value, found.comment, found.detector) == (value, comment, "S1")
    assert type(found.value) is type(value)
    assert found.keyword == found.keyword.upper()


@pytest.mark.parametrize(
    "text",
    [
        "EXPTIME",
        "=5",
        "TOOLONGKEY=1",
        "BAD KEY=1",
        "OBJECT='open",
        "A=caf\u00e9",
        "A=1 / \x07",
        "A=1E999",
        f"A={'x' * 1025}",
    ],
)
def test_what_is_no_card_is_refused(text: str) -> None:
    """Each with a message and a hint."""
    with pytest.raises(UsageError) as caught:
        parse_card(text)
    assert caught.value.hint


def test_a_bad_line_is_named(database: Database) -> None:
    """Of many lines the wrong one is told; empty ones are let by."""
    assert len(parse_cards("A=1\n\nB=2\n")) == 2
    with pytest.raises(UsageError, match="line 3"):
        parse_cards("A=1\n\nB\n")


def test_the_latest_value_counts_and_the_order_is_kept(database: Database) -> None:
    """Keywords stand in the order in which they first came, for the exposure and for each detector alone."""
    number = database.run(lambda connection: exposures.hand_out(connection, "duo"))[0].exposure

    def post(*cards: Card) -> int:
        return database.run(lambda connection: headers.post(connection, number, cards, "test"))

    assert post(Card("OBJECT", "M 31"), Card("EXPTIME", 90), Card("AOS", True, "optics")) == 3
    assert post(Card("CCDTEMP", 173.0, "", "S1"), Card("OBJECT", "M 33", "moved"), Card("OBJECT", "M 34")) == 2
    with database.read() as connection:
        assert headers.gather(connection, number) == [
            Card("OBJECT", "M 34"),
            Card("EXPTIME", 90),
            Card("AOS", True, "optics"),
            Card("CCDTEMP", 173.0, "", "S1"),
        ]


def test_metadata_of_an_unknown_exposure_is_refused(database: Database) -> None:
    """Before readout is early enough, but the number must have been handed out."""
    with pytest.raises(NotFoundError, match="never handed out"):
        database.run(lambda connection: headers.post(connection, 5, [Card("A", 1)], "test"))


def test_what_is_there_already_is_not_posted_again(database: Database) -> None:
    """A PAN that sends its cards once more changes nothing; another value, type or comment is newer."""
    number = database.run(lambda connection: exposures.hand_out(connection, "duo"))[0].exposure

    def newest_after(*cards: str) -> datetime | None:
        parsed = [parse_card(text) for text in cards]
        database.run(lambda connection: headers.post(connection, number, parsed, "test"))
        with database.read() as connection:
            return headers.newest(connection, number)

    with database.read() as connection:
        assert headers.newest(connection, number) is None
    first = newest_after("OBJECT=M 31", "EXPTIME=90")
    assert newest_after("EXPTIME=90", "OBJECT=M 31") == first
    moments = [first, newest_after("EXPTIME=90.0"), newest_after("EXPTIME=90.0 / s"), newest_after("EXPTIME=T / s")]
    assert None not in moments
    assert sorted(set(map(str, moments))) == list(map(str, moments))
