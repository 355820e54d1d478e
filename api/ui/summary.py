"""A job in a few words and numbers, as a row of the list and the head of its page show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from api.ui import words
from jobs.job import END_STATES, Job, State

OF_STUDENT = ("student", "model")
"""The trainings whose AP is the job's: the other ones are what it is compared with."""


@dataclass(frozen=True)
class Summary:
    """What one line can say about a job."""

    job: Job
    data: str
    detector: str
    """What is trained, evaluated or exported; empty if only the file says it."""
    teacher: str
    """Weights, or detector, of the teacher; empty without one."""
    where: str
    """Where it is and why, or what came of it."""
    left: str
    """Time left, or time taken."""
    percent: float | None
    """Of a job that has begun and not succeeded."""
    ap: float | None
    to_control: float | None
    to_teacher: float | None
    is_proved: bool
    """The interval of the gain leaves out zero on the good side."""


def summary_of(job: Job, report: Mapping[str, Any] | None) -> Summary:
    """Return the summary of a job.

    Args:
        job: The job.
        report: Its report, if it has one.
    """
    models, gain = (report or {}).get("models") or {}, (report or {}).get("gain")
    aps = {role: _ap(model.get("metrics")) for role, model in models.items()}
    ap = next((aps[role] for role in OF_STUDENT if role in aps), None)
    teacher = aps.get("teacher")
    return Summary(
        job=job,
        data=_data_of(job),
        detector=_detector(job, "model", "student"),
        teacher=_detector(job, "teacher"),
        where=_gain(gain) if gain else _where(job),
        left=_left(job),
        percent=_percent(job),
        ap=_latest_ap(job) if ap is None else ap,
        to_control=gain["ap"] if gain else None,
        to_teacher=ap - teacher if ap is not None and teacher is not None else None,
        is_proved=bool(gain and gain["ap_low"] > 0),
    )


def _data_of(job: Job) -> str:
    """Return the name of a job's data as its spec has it."""
    data = job.spec.get("data")
    if isinstance(data, str):
        return data
    found = data if isinstance(data, dict) else {}
    path = found.get("path") or (found.get("train") or found.get("val") or {}).get("images")
    return str(path or "its data")


def _detector(job: Job, *roles: str) -> str:
    """Return architecture and backbone of the first of these detectors that the config has, or its weights."""
    for role in roles:
        if found := job.resolved.get(role):
            parts = [words.architecture(found[key]) for key in ("architecture", "backbone") if found.get(key)]
            weights = (job.spec.get(role) or {}).get("weights")
            return " ".join(parts) or str(weights or "")
    return ""


def _where(job: Job) -> str:
    """Return where a job is: of a failed one message and hint."""
    if job.failure is not None:
        return f"{job.failure.message} {job.failure.hint}".strip()
    reason = job.reason.removeprefix(f"{job.state}: ")
    if job.state is not State.RUNNING or not job.progress:
        return reason[:1].upper() + reason[1:]
    return progress_text(job.progress)


_ACTIVITIES = {
    "prototypes": "selecting prototypes",
    "evaluate": "evaluating",
    "export": "exporting and checking",
    "draw": "drawing",
}


def progress_text(progress: Mapping[str, Any]) -> str:
    """Return run, epoch and activity of a progress event."""
    run = "" if progress["run"] == "model" else f"{progress['run']}, "
    epoch = f"epoch {min(progress['epoch'] + 1, progress['epochs'])} of {progress['epochs']}"
    activity = _ACTIVITIES.get(progress["activity"])
    text = f"{run}{epoch}" + (f", {activity}" if activity else "")
    return text[:1].upper() + text[1:]


def _left(job: Job) -> str:
    if job.estimated_end is not None:
        seconds = (job.estimated_end - datetime.now(UTC)).total_seconds()
        return f"{words.duration(max(0.0, seconds))} left, until about {job.estimated_end:%H:%M} UTC"
    if job.state in END_STATES and job.started_at and job.finished_at:
        return f"took {words.duration((job.finished_at - job.started_at).total_seconds())}"
    return ""


def _percent(job: Job) -> float | None:
    if job.progress is None or job.state in (State.SUCCEEDED, State.QUEUED):
        return None
    return round(100 * float(job.progress["fraction"]), 1)


def _gain(gain: Mapping[str, Any]) -> str:
    interval = f"95\N{NO-BREAK SPACE}%: {words.signed(gain['ap_low'])} to {words.signed(gain['ap_high'])}"
    if gain["ap_low"] <= 0 <= gain["ap_high"]:
        return f"{words.signed(gain['ap'])} AP over the control, no proof of a difference ({interval})."
    return f"{words.signed(gain['ap'])} AP over the control ({interval})."


def _latest_ap(job: Job) -> float | None:
    """Return the AP of the latest evaluation, if it is of the detector that the job makes."""
    evaluation = job.evaluation or {}
    return _ap(evaluation.get("metrics")) if evaluation.get("run") in OF_STUDENT else None


def _ap(metrics: Mapping[str, float] | None) -> float | None:
    """Return AP in 0 to 1; None if it is unknown, or there were no objects."""
    value = (metrics or {}).get("AP")
    return None if value is None or value < 0 else value
