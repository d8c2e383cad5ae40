"""Sections are read and written as FITS headers hold them."""

from __future__ import annotations

import numpy as np
import pytest

from dtscore.errors import UsageError
from imagebuilder.geometry import Section, parse_section


def test_a_section_takes_out_its_pixels() -> None:
    """Counting begins at 1 and both ends are in, x comes before y; a descending section is the same pixels."""
    image = np.arange(12).reshape(3, 4)
    assert image[parse_section("[2:4,1:2]").slices].tolist() == [[1, 2, 3], [5, 6, 7]]
    assert image[parse_section("[4:2,2:1]").slices].tolist() == [[1, 2, 3], [5, 6, 7]]


def test_sizes_and_text_survive() -> None:
    """A section says its size and is written as it was read."""
    section = parse_section("[2048:1025,4096:1]")
    assert (section.width, section.height, section.left, section.bottom) == (1024, 4096, 1024, 0)
    assert str(section) == "[2048:1025,4096:1]"


def test_sections_hold_and_meet() -> None:
    """Neighbours do not meet, a shared corner does; a section holds itself."""
    one = Section(1, 4, 1, 4)
    assert one.holds(one)
    assert one.holds(Section(4, 2, 3, 1))
    assert not one.holds(Section(4, 5, 1, 4))
    assert one.meets(Section(4, 8, 4, 8))
    assert not one.meets(Section(5, 8, 1, 4))


@pytest.mark.parametrize("text", ["", "[1:2]", "[1:2,3:4", "[0:2,1:2]", "[1:2,1:-2]", "[a:2,1:2]", "[1:2,1:2] "])
def test_what_is_no_section_is_refused(text: str) -> None:
    """Anything else is refused with what to write."""
    with pytest.raises(UsageError, match="is not a section") as caught:
        parse_section(text)
    assert "[x1:x2,y1:y2]" in caught.value.hint
