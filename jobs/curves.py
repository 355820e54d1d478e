"""Metric curves of a job, computed from its events and downsampled so that a plot keeps its shape.

Each bin of many points is reduced to its minimum and maximum. This keeps spikes, which means and every n-th
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
"""The event kinds with values over time."""

LEAST_POINTS, MOST_POINTS = 10, 10_000


class Curve(BaseModel):
    """One value over time: `x` and `y` have equal length, x is rising."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    x: tuple[int, ...]
    """Optimiser steps or epochs."""
    y: tuple[float, ...]


class RunCurves(BaseModel):
    """The curves of one training: of "model", or of "student" or "control"; of "teacher" if it is evaluated."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    losses: dict[str, Curve] = {}
    """Each named loss, as it enters the sum, over steps."""
    lr: Curve | None = None
    """Learning rate over steps."""
    images_per_second: Curve | None = None
    """Images per second over steps."""
    evaluation: dict[str, Curve] = {}
    """Each metric over epochs, AP first."""
    per_class: dict[str, Curve] = {}
    """AP of each class over epochs."""
    reconstruction_error: dict[str, Curve] = {}
    """Reconstruction error of the prototypes over epochs, by level (its stride)."""


class JobCurves(BaseModel):
    """All curves of a job."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    runs: dict[str, RunCurves]
    """By name of the training."""


class _Points:
    """A curve under construction.

    Points of a later attempt replace those of an earlier one from the same step on.
    """

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
    """Collector of curves from the events of a job, which are added in order."""

    def __init__(self) -> None:
        self._runs: dict[str, _Measured] = {}

    def add(self, kind: str, body: Mapping[str, Any]) -> None:
        """Add one event of a kind in `KINDS`."""
        run = self._runs.setdefault(body["run"], defaultdict(_Points))
        x = body["step" if kind == "progress" else "epoch"]
        for key, value in _VALUES[kind](body):
            if value is not None:  # it was NaN or infinite
                run[key].add(x, value)

    def curves(self, points: int) -> JobCurves:
        """Return all curves, each of at most `points` points."""
        return JobCurves(
            runs={name: _run(measured, points) for name, measured in self._runs.items() if measured}
        )


def thin(values: Sequence[float], points: int) -> list[int]:
    """Return the indices of the values to show: first and last, and of each bin between them minimum and maximum.

    Args:
        values: The values, in order.
        points: Maximum number of indices, 4 or more.

    Returns:
        Indices in rising order, all of them if there are few enough.
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


def _progress_values(body: Mapping[str, Any]) -> Iterator[_Value]:
    if body["activity"] != "train":
        return
    for name, value in body["losses"].items():
        yield ("losses", name), value
    for name in ("lr", "images_per_second"):
        yield (name, ""), body[name]


def _evaluation_values(body: Mapping[str, Any]) -> Iterator[_Value]:
    for field, values in (("evaluation", body["metrics"]), ("per_class", body["per_class"])):
        for name, value in values.items():
            yield (field, name), None if value is not None and value < 0 else value  # -1: no such objects


def _prototype_values(body: Mapping[str, Any]) -> Iterator[_Value]:
    for level, value in body["reconstruction_error"].items():
        yield ("reconstruction_error", level), value


_VALUES = {"progress": _progress_values, "evaluation": _evaluation_values, "prototypes": _prototype_values}
