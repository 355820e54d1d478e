"""What a job's page says first: a number with its sentence, and the models on one scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from api.ui import charts, words
from api.ui.summary import OF_STUDENT
from jobs.curves import Curve, JobCurves
from jobs.job import END_STATES, Job


@dataclass(frozen=True)
class Verdict:
    """A number, what it is, and a sentence."""

    number: str
    """Empty if there is nothing to count yet."""
    unit: str
    sentence: str
    more: str
    """A second sentence that qualifies the first."""
    scale: Markup | None
    """The models' AP on a scale, if there are at least two."""


def verdict_of(job: Job, report: Mapping[str, Any] | None, curves: JobCurves) -> Verdict:
    """Return the verdict on a job: of its report, or of its evaluations so far."""
    if job.failure is not None:
        failure = job.failure
        return Verdict("", "", failure.message, failure.hint, None)
    models = (report or {}).get("models") or {}
    aps = {role: 100 * ap for role, model in models.items() if (ap := model["metrics"].get("AP", -1)) >= 0}
    if gain := (report or {}).get("gain"):
        return Verdict(words.signed(gain["ap"]), "AP", gain["verdict"], _on_test(report), _scale(aps))
    if aps:
        role = next((role for role in OF_STUDENT if role in aps), next(iter(aps)))
        return Verdict(f"{aps[role]:.1f}", "AP", f"of the {role}, on validation pictures.", "", _scale(aps))
    return _so_far(job, curves)


def _on_test(report: Mapping[str, Any] | None) -> str:
    gain = (report or {}).get("gain_on_test")
    return f"On the test split: {gain['verdict']}" if gain else ""


def _so_far(job: Job, curves: JobCurves) -> Verdict:
    """Return the verdict of a job without a report."""
    found = {role: curve for role in curves.runs if (curve := ap_curve(curves, role)) is not None}
    ending = "" if job.state in END_STATES else "So far; the report adds the interval over the pictures."
    if epoch := last_common_epoch(found.get("student"), found.get("control")):
        values = {role: 100 * value_at(found[role], epoch) for role in ("control", "student")}
        if teacher := found.get("teacher"):
            values["teacher"] = 100 * teacher.y[-1]
        gain = (values["student"] - values["control"]) / 100
        sentence = f"student over control, both at epoch {epoch}."
        return Verdict(words.signed(gain), "AP", sentence, ending, _scale(values))
    for role in (*OF_STUDENT, "control"):
        if curve := found.get(role):
            best = max(curve.y)
            epoch = curve.x[curve.y.index(best)]
            sentence = f"of the {role}, the best so far, at epoch {epoch}."
            more = "Its control, which the gain is measured against, comes next." if role == "student" else ""
            return Verdict(
                f"{100 * best:.1f}", "AP", sentence, more if job.state not in END_STATES else "", None
            )
    reason = job.reason.removeprefix(f"{job.state}: ")
    return Verdict("", "", reason[:1].upper() + reason[1:], "", None)


def ap_curve(curves: JobCurves, role: str, metric: str = "AP") -> Curve | None:
    """Return the curve of a metric of one training; None if it was never evaluated."""
    found = curves.runs[role].evaluation.get(metric) if role in curves.runs else None
    return found if found and found.x else None


def last_common_epoch(student: Curve | None, control: Curve | None) -> int | None:
    """Return the last epoch at which both were evaluated."""
    return max(set(student.x) & set(control.x), default=None) if student and control else None


def value_at(curve: Curve, epoch: int) -> float:
    """Return the value of a curve at an epoch that it has."""
    return curve.y[curve.x.index(epoch)]


def _scale(values: Mapping[str, float]) -> Markup | None:
    shown = {role: values[role] for role in ("teacher", "control", "student") if role in values}
    if len(shown) < 2:
        return None
    return charts.scale(shown, ", ".join(f"{role} {value:.1f} AP" for role, value in shown.items()))
