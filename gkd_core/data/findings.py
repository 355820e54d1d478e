"""Remarks about a data set, collected while it is read: a remark on many items becomes one problem."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gkd_core.errors import DataError, Problem

SHOWN = 3
"""Items that a message names; the others are only counted."""


def few(items: Sequence[str]) -> str:
    """Return the first items, and the number of the others."""
    more = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Noted:
    """A remark on items of one split."""

    split: str
    source: str
    """The annotations."""
    message: str
    hint: str
    items: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Return the message with the number of items and the first of them."""
        return f"{self.message} ({len(self.items)}: {few(self.items)})"


class Findings:
    """The remarks on one split; none of them stops the reading.

    Args:
        split: `train` or `val`; becomes part of every problem's `loc`.
        source: the annotations, named in every message.
    """

    def __init__(self, split: str, source: str) -> None:
        self.split = split
        self.source = source
        self._items: dict[tuple[str, str], list[str]] = {}

    def add(self, item: str, message: str, hint: str = "") -> None:
        """Record that `message` holds for `item`."""
        self._items.setdefault((message, hint), []).append(item)

    def noted(self) -> tuple[Noted, ...]:
        """Return all recorded remarks."""
        return tuple(
            Noted(self.split, self.source, message, hint, tuple(items))
            for (message, hint), items in self._items.items()
        )

    def remarks(self) -> tuple[str, ...]:
        """Return one sentence for each different message, with a count and the first items."""
        return tuple(remark.sentence for remark in self.noted())

    def problems(self) -> tuple[Problem, ...]:
        """Return one problem for each different message, with a count and the first items."""
        loc = ("data", self.split, "annotations")
        return tuple(
            Problem(loc=loc, message=f"{self.source}: {remark.sentence}", hint=remark.hint)
            for remark in self.noted()
        )

    def error(self, message: str, hint: str = "", field: str = "annotations") -> DataError:
        """Return an error that says that the whole split cannot be used."""
        loc = ("data", self.split, field)
        return DataError([Problem(loc=loc, message=f"{self.source}: {message}", hint=hint)])


class Gathered:
    """Collects errors of several steps and raises them together, so that a person can mend them all at once."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []

    @contextmanager
    def step(self) -> Iterator[None]:
        """Run a step and keep its DataError for `stop`."""
        try:
            yield
        except DataError as error:
            self._problems += error.problems

    def stop(self) -> None:
        """Raise the collected errors, if there are any.

        Raises:
            DataError: with the problems of every step so far.
        """
        if self._problems:
            raise DataError(self._problems)
