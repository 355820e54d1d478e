"""Cursors of pages, as text that nobody can forge."""

from __future__ import annotations

import pytest

from jobs.errors import UnknownCursor
from jobs.store.cursors import Cursors

MINE = Cursors("a secret", "jobs of lab")


@pytest.mark.parametrize("number", [0, 1, 255, 2**40, 2**63 - 1])
def test_a_cursor_gives_its_number_back(number: int):
    assert MINE.number(MINE.after(number)) == number


def test_a_cursor_does_not_show_how_many_rows_there_are():
    cursors = [MINE.after(number) for number in range(1, 50)]
    assert len({cursor[:4] for cursor in cursors}) == len({cursor[-4:] for cursor in cursors}) == 49


def test_a_cursor_that_was_changed_or_is_anothers_is_refused():
    cursor = MINE.after(7)
    other = "A" if cursor[5] != "A" else "B"
    made_up = (cursor[:5] + other + cursor[6:], cursor[:-1], cursor + "A", cursor * 2, "7", "", "A" * 22)
    others = (Cursors("another", MINE.listing), Cursors(MINE.secret, "jobs of else"))
    for text in (*made_up, *(each.after(7) for each in others)):
        with pytest.raises(UnknownCursor):
            MINE.number(text)
