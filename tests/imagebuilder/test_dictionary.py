"""Header cards are checked against the camera's dictionary: what breaks a rule is told, and stands all the same."""

from __future__ import annotations

import math

import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from dtscore.errors import UsageError
from imagebuilder.camera import find_camera
from imagebuilder.cards import header, records
from imagebuilder.dictionary import CardDictionary, parse_rule
from imagebuilder.records import Card

RULES = CardDictionary(
    {
        rule.keyword: rule
        for rule in (
            parse_rule("EXPTIME", "float | s | 0 .. 100 | Exposure duration"),
            parse_rule("SEQNUM", "integer | | 1 .. | Number"),
            parse_rule("OBSTYPE", "string | | object, zero, sky flat | Type"),
            parse_rule("TELRA", r"string | | /\d\d:\d\d:\d\d/ | Right ascension"),
            parse_rule("OBJECT", "string | | | Object"),
            parse_rule("VSUB", "logical | | | Voltage"),
            parse_rule("DATE-OBS", "date | | | Start"),
        )
    },
    required=("EXPTIME", "OBSTYPE"),
)


@pytest.mark.parametrize(
    ("card", "value", "told"),
    [
        (Card("EXPTIME", 90.5), 90.5, ""),
        (Card("EXPTIME", 90), 90.0, ""),
        (Card("EXPTIME", 90.5, "[s] shutter"), 90.5, ""),
        (Card("EXPTIME", 90.5, "[min] shutter"), 90.5, "its unit is [s], not [min]"),
        (Card("EXPTIME", 101.0), 101.0, "101.0 is outside 0 .. 100"),
        (Card("EXPTIME", -0.1), -0.1, "-0.1 is outside 0 .. 100"),
        (Card("EXPTIME", "long"), "long", "'long' is not of type float"),
        (Card("EXPTIME", True), True, "'T' is not of type float"),
        (Card("SEQNUM", 3), 3, ""),
        (Card("SEQNUM", 0), 0, "0 is outside 1 .. inf"),
        (Card("SEQNUM", 3.0), 3.0, "'3.0' is not of type integer"),
        (Card("OBSTYPE", "sky flat"), "sky flat", ""),
        (Card("OBSTYPE", "flat"), "flat", "'flat' is not one of object, zero, sky flat"),
        (Card("TELRA", "05:43:04"), "05:43:04", ""),
        (Card("TELRA", "5h43"), "5h43", "'5h43' is not of the form"),
        (Card("OBJECT", 23740571), "23740571", ""),
        (Card("OBJECT", True), "T", ""),
        (Card("OBJECT", "N\u00fa\u00f1ez"), "N\u00fa\u00f1ez", "has characters that a FITS header can not hold"),
        (Card("VSUB", False), False, ""),
        (Card("VSUB", "F"), "F", "'F' is not of type logical"),
        (Card("DATE-OBS", "2026-05-03T04:02:59.601219"), "2026-05-03T04:02:59.601219", ""),
        (Card("ORIGIN", "here"), "here", "is not in the dictionary"),
        (Card("COLOUR", "red"), "red", "is not in the dictionary"),
    ],
)  # fmt: skip
def test_a_card_is_checked_and_stands_all_the_same(card: Card, value: object, told: str) -> None:
    """Name, type, unit and range are checked; the value stands in the header whatever is wrong with it."""
    cards, violations = RULES.apply([card], frozenset())
    assert [(each.keyword, each.value) for each in cards] == [(card.keyword, value)]
    assert type(cards[0].value) is type(value)
    assert len(violations) == bool(told)
    assert told in "".join(map(str, violations))
    records(cards[0])


@pytest.mark.parametrize(
    ("card", "told"),
    [
        (Card("NAXIS1", 3), "written by the image builder itself"),
        (Card("LONGKEYWORD", 3), "is not a FITS keyword"),
        (Card("lower", 3), "is not a FITS keyword"),
        (Card("EXPTIME", math.nan), "not a finite number"),
        (Card("EXPTIME", math.inf), "not a finite number"),
        (Card("DATE-OBS", "03/05/26"), "not of type date"),
        (Card("RADESYS", "here"), "left out"),
        (Card("CTYPE1", "RA---TAN"), "left out"),
        (Card("TTYPE1", 5), "left out"),
        (Card("ORIGIN", 5), "left out"),
    ],
)
def test_a_card_that_can_not_stand_is_left_out_and_told(card: Card, told: str) -> None:
    """What would break the file is left out, and the violation says so."""
    cards, violations = RULES.apply([card], frozenset({"NAXIS1"}))
    assert cards == []
    assert told in "".join(map(str, violations))


def test_the_last_card_of_a_keyword_wins() -> None:
    """A later card replaces an earlier one, and its mistake with it; a detector's card is told with the detector."""
    cards, violations = RULES.apply([Card("EXPTIME", -1.0), Card("EXPTIME", 5.0)], frozenset())
    assert (cards[0].value, violations) == (5.0, [])
    _, violations = RULES.apply([Card("EXPTIME", -1.0, "", "S1")], frozenset())
    assert str(violations[0]) == "S1: EXPTIME: -1.0 is outside 0 .. 100"


def test_what_is_missing_is_told() -> None:
    """The cards that a header must have are asked for."""
    assert [str(each) for each in RULES.missing(["OBSTYPE"])] == ["EXPTIME: is missing"]


def test_units_stand_in_the_comment() -> None:
    """The comment is the dictionary's, with the unit before it as FITS has it."""
    cards, _ = RULES.apply([Card("EXPTIME", 5.0)], frozenset())
    assert cards[0].comment == "[s] Exposure duration"


@pytest.mark.parametrize(
    "text", ["", "float", "float|s|0..1", "double | s | 0 .. 1 | x", "float | s | 0 - 1 | x", "float | s | a .. b | x",
             "string | | /(/ | x"],
)  # fmt: skip
def test_what_is_no_rule_is_refused(text: str) -> None:
    """A rule that can not be understood is refused with what to write."""
    with pytest.raises(UsageError) as caught:
        parse_rule("EXPTIME", text)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["decam", "duo"])
def test_constants_of_a_camera_obey_its_dictionary(name: str) -> None:
    """The cards that come with a camera break none of its own rules."""
    cards = find_camera(name).cards
    assert cards.apply(cards.constants, frozenset())[1] == []


_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300).map(str.rstrip)


@settings(deadline=None)
@given(
    st.one_of(
        st.booleans(), st.integers(-(10**18), 10**18), st.floats(allow_nan=False, allow_infinity=False), _TEXT,
    ),
    _TEXT,
)  # fmt: skip
def test_every_value_can_be_read_again(value: bool | int | float | str, comment: str) -> None:
    """astropy reads back what was written: any string, quotes and all, however long, and any finite number."""
    written = bytes(header([Card("SIMPLE", True), Card("VALUE", value, comment)]))
    assert len(written) % 2880 == 0
    read = fits.Header.fromstring(written.decode("ascii"))
    read["VALUE"]
    assert type(read["VALUE"]) is type(value)
    assert read["VALUE"] == value
