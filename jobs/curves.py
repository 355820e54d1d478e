"""How numbers went while a job ran: its events as curves, thinned so that what a picture of them shows stays.

A stretch of many points is shown by its lowest and its highest one. Spikes survive that, which means and every n-th
point lose, and the curve has no value that was not measured.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict

KINDS = ("progress", "evaluation", "prototypes")
"""The events that hold numbers over time."""

LEAST_POINTS, MOST_POINTS = 10, 10_000


class Curve(BaseModel):
    """One number over time: as many entries in `x` as in `y`, x rising."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    x: tuple[int, ...]
    """Optimiser steps or epochs."""
    y: tuple[float, ...]


class RunCurves(BaseModel):
    """The curves of one training: of "model", or of "student" or "control"; of "teacher", where it is evaluated."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    losses: dict[str, Curve] = {}
    """Each named loss, as it enters the sum, over steps."""
    lr: Curve | None = None
    """Learning rate over steps."""
    images_per_second: Curve | None = None
    """Over steps."""
    evaluation: dict[str, Curve] = {}
    """Each metric over epochs, AP first."""
    per_class: dict[str, Curve] = {}
    """AP of each class over epochs."""
    reconstruction_error: dict[str, Curve] = {}
    """Of the prototypes, over epochs, by level (its stride)."""


class JobCurves(BaseModel):
    """Everything about a job that changes while it runs."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    runs: dict[str, RunCurves]
    """By name of the training."""


class _Points:
    """A curve as it comes in. What a later attempt did again takes the place of what the one before did."""

    def __init__(self) -> None:
        self.x = array("q")
        self.y = array("d")

    def add(self, x: int, y: float) -> None:
        while self.x and self.x[-1] >= x:
            self.x.pop()
            self.y.pop()
        self.x.append(x)
        self.y.append(y)

    def curve(self, points: int) -> Curve:
        kept = thin(self.y, points)
        return Curve(x=tuple(self.x[n] for n in kept), y=tuple(self.y[n] for n in kept))


_Measured = dict[tuple[str, str], _Points]  # by field of RunCurves and name in it


class Measurements:
    """Collects the events of a job, in order."""

    def __init__(self) -> None:
        self._runs: dict[str, _Measured] = {}

    def add(self, kind: str, body: Mapping[str, Any]) -> None:
        """One event of a kind in `KINDS`."""
        run = self._runs.setdefault(body["run"], defaultdict(_Points))
        x = body["step" if kind == "progress" else "epoch"]
        for key, value in _VALUES[kind](body):
            if value is not None:  # it was NaN or infinite
                run[key].add(x, value)

    def curves(self, points: int) -> JobCurves:
        """All of them, none with more than so many points."""
        return JobCurves(
            runs={name: _run(measured, points) for name, measured in self._runs.items() if measured}
        )


def thin(values: Sequence[float], points: int) -> list[int]:
    """Which of many values to show: first and last, and of each stretch between them the lowest and the highest.

    Args:
        values: In order.
        points: How many at most, 4 or more.

    Returns:
        Indices in rising order, all of them where there are few enough.
    """
    count = len(values)
    if count <= points:
        return list(range(count))
    stretches = (points - 2) // 2
    ends = [1 + (count - 2) * n // stretches for n in range(stretches + 1)]
    kept = {0, count - 1}
    for start, end in pairwise(ends):
        stretch = values[start:end]
        kept |= {start + stretch.index(min(stretch)), start + stretch.index(max(stretch))}
    return sorted(kept)


def _run(measured: _Measured, points: int) -> RunCurves:
    found: dict[str, dict[str, Curve]] = defaultdict(dict)
    for (field, name), curve in measured.items():
        found[field][name] = curve.curve(points)
    single = {field: found.pop(field, {}).get("") for field in ("lr", "images_per_second")}
    return RunCurves.model_validate({**found, **single})


_Value = tuple[tuple[str, str], float | None]


def _of_progress(body: Mapping[str, Any]) -> Iterator[_Value]:
    if body["activity"] != "train":
        return
    for name, value in body["losses"].items():
        yield ("losses", name), value
    for name in ("lr", "images_per_second"):
        yield (name, ""), body[name]


def _of_evaluation(body: Mapping[str, Any]) -> Iterator[_Value]:
    for field, values in (("evaluation", body["metrics"]), ("per_class", body["per_class"])):
        for name, value in values.items():
            yield (field, name), None if value is not None and value < 0 else value  # -1: no such objects


def _of_prototypes(body: Mapping[str, Any]) -> Iterator[_Value]:
    for level, value in body["reconstruction_error"].items():
        yield ("reconstruction_error", level), value


_VALUES = {"progress": _of_progress, "evaluation": _of_evaluation, "prototypes": _of_prototypes}
