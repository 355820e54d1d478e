"""Remarks about a data set, gathered while it is read: what is said of many items becomes one problem."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gkd_core.errors import DataError, Problem

SHOWN = 3
"""Items that a message names before it only counts."""


def few(items: Sequence[str]) -> str:
    """The first items, and how many more there are."""
    more = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Noted:
    """What was noticed about items of one split."""

    split: str
    source: str
    """The annotations."""
    message: str
    hint: str
    items: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The message with the number of items and the first of them."""
        return f"{self.message} ({len(self.items)}: {few(self.items)})"


class Findings:
    """What was noticed about one split that stops nothing.

    Args:
        split: `train` or `val`; becomes part of every problem's `loc`.
        source: the annotations, named in every message.
    """

    def __init__(self, split: str, source: str) -> None:
        self.split = split
        self.source = source
        self._items: dict[tuple[str, str], list[str]] = {}

    def add(self, item: str, message: str, hint: str = "") -> None:
        """Remember that `message` holds for `item`."""
        self._items.setdefault((message, hint), []).append(item)

    def noted(self) -> tuple[Noted, ...]:
        """Everything that was remembered."""
        return tuple(
            Noted(self.split, self.source, message, hint, tuple(items))
            for (message, hint), items in self._items.items()
        )

    def remarks(self) -> tuple[str, ...]:
        """One sentence for each different message, with a count and the first items."""
        return tuple(remark.sentence for remark in self.noted())

    def problems(self) -> tuple[Problem, ...]:
        """One problem for each different message, with a count and the first items."""
        loc = ("data", self.split, "annotations")
        return tuple(
            Problem(loc=loc, message=f"{self.source}: {remark.sentence}", hint=remark.hint)
            for remark in self.noted()
        )

    def error(self, message: str, hint: str = "", field: str = "annotations") -> DataError:
        """The split cannot be used at all."""
        loc = ("data", self.split, field)
        return DataError([Problem(loc=loc, message=f"{self.source}: {message}", hint=hint)])


class Gathered:
    """Errors of several steps, raised together, so that a person can mend them all at once."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []

    @contextmanager
    def step(self) -> Iterator[None]:
        """Run a step; its DataError is kept for `stop`."""
        try:
            yield
        except DataError as error:
            self._problems += error.problems

    def stop(self) -> None:
        """End here if a step went wrong.

        Raises:
            DataError: with the problems of every step so far.
        """
        if self._problems:
            raise DataError(self._problems)
