"""The charts and tables of a job's page, from its curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from api.ui import charts, words
from api.ui.charts import Series
from api.ui.verdict import ap_curve, last_common_epoch, value_at
from jobs.curves import Curve, JobCurves
from jobs.job import Job

ROLES = ("teacher", "control", "student", "model")
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "VOC07", "VOC12")
"""The metrics to choose from, of those that a job has."""


@dataclass(frozen=True)
class MetricChart:
    """A metric over epochs, as a chart and as a table."""

    metric: str
    metrics: tuple[str, ...]
    """Those that can be chosen."""
    roles: tuple[str, ...]
    chart: Markup
    table: tuple[tuple[int, tuple[str, ...]], ...]
    """Epoch, and a value for each role."""


def epochs_of(job: Job) -> int | None:
    """Return the number of epochs that a job trains for; None if it trains nothing."""
    epochs = (job.resolved.get("train") or {}).get("epochs")
    return int(epochs) if epochs else None


def ap_chart(curves: JobCurves, metric: str, epochs: int | None) -> MetricChart:
    """Return the chart of a metric, of AP if the job has no such one."""
    known = {name for run in curves.runs.values() for name in run.evaluation}
    metric = metric if metric in known else "AP"
    found = {role: curve for role in ROLES if (curve := ap_curve(curves, role, metric)) is not None}
    last = float(max([epochs or 0, *(curve.x[-1] for curve in found.values())]))
    lines = [_metric_line(role, curve, last) for role, curve in found.items()]
    return MetricChart(
        metric,
        tuple(name for name in METRICS if name in known),
        tuple(found),
        charts.line_chart(lines, title=f"{metric} over epochs", until=last or None),
        tuple(_rows(found)),
    )


def _metric_line(role: str, curve: Curve, last: float) -> Series:
    """Return the line of a metric in points; a teacher, which does not train, is level all the way."""
    y = [100 * value for value in curve.y]
    x: list[float] = [float(each) for each in curve.x]
    if role == "teacher":
        x, y = [0.0, max(last, 1.0)], [y[-1], y[-1]]
    return Series(role, role, x, y, f"{role} {y[-1]:.1f}")


def _rows(found: Mapping[str, Curve]) -> Iterator[tuple[int, tuple[str, ...]]]:
    values = {role: dict(zip(curve.x, curve.y, strict=True)) for role, curve in found.items()}
    for epoch in sorted({epoch for curve in values.values() for epoch in curve}):
        yield epoch, tuple(words.points(curve.get(epoch)) for curve in values.values())


@dataclass(frozen=True)
class ClassRow:
    """AP of one class by role, and what the student has more than the control."""

    name: str
    values: Mapping[str, float]
    gain: float | None


def class_rows(curves: JobCurves, report: Mapping[str, Any] | None) -> tuple[tuple[str, ...], list[ClassRow]]:
    """Return the roles, and the AP of each class: those with the largest gain first, without a control as named.

    Of the report if there is one, otherwise of the latest evaluations: of student and control at the same epoch.
    """
    models = (report or {}).get("models") or {}
    by_role: dict[str, Mapping[str, float]] = {
        role: models[role]["per_class"] for role in ROLES if role in models
    } or _latest(curves)
    by_role = {role: values for role, values in by_role.items() if values}
    names = dict.fromkeys(name for values in by_role.values() for name in values)
    rows = [_class_row(name, by_role) for name in names]
    rows.sort(key=lambda row: (row.gain is None, -(row.gain or 0.0)))
    return tuple(by_role), rows


def _latest(curves: JobCurves) -> dict[str, Mapping[str, float]]:
    compared = ("student", "control")
    common = last_common_epoch(*(ap_curve(curves, role) for role in compared))
    return {
        role: _at_epoch(curves.runs[role].per_class, common if role in compared else None)
        for role in ROLES
        if role in curves.runs
    }


def _at_epoch(per_class: Mapping[str, Curve], epoch: int | None) -> dict[str, float]:
    """Return the value of each class at an epoch, or its latest one."""
    return {
        name: value_at(curve, epoch) if epoch in curve.x else curve.y[-1]
        for name, curve in per_class.items()
        if curve.y
    }


def _class_row(name: str, by_role: Mapping[str, Mapping[str, float]]) -> ClassRow:
    values = {role: values[name] for role, values in by_role.items() if values.get(name, -1) >= 0}
    both = "student" in values and "control" in values
    return ClassRow(name, values, values["student"] - values["control"] if both else None)


@dataclass(frozen=True)
class SmallChart:
    """One of the small charts."""

    name: str
    unit: str
    chart: Markup


def loss_charts(curves: JobCurves) -> list[SmallChart]:
    """Return a small chart for each loss, the learning rate and the speed, with a line for each training."""
    trained = [role for role in ROLES if role in curves.runs]
    names = dict.fromkeys(name for role in trained for name in curves.runs[role].losses)
    found = [(name, "loss", {role: curves.runs[role].losses.get(name) for role in trained}) for name in names]
    found.append(("learning rate", "", {role: curves.runs[role].lr for role in trained}))
    found.append(("pictures per second", "", {role: curves.runs[role].images_per_second for role in trained}))
    return [
        SmallChart(
            name.removeprefix("loss_").replace("_", " "),
            unit,
            _small(name, {role: c for role, c in lines.items() if c and c.x}),
        )
        for name, unit, lines in found
        if any(curve and curve.x for curve in lines.values())
    ]


def _small(name: str, lines: Mapping[str, Curve]) -> Markup:
    series = [Series(role, role, curve.x, curve.y, f"{curve.y[-1]:.3g}") for role, curve in lines.items()]
    return charts.line_chart(series, title=f"{name} over steps", size="small", from_zero=True)
