"""How things look in a terminal: jobs, reports, data sets, and one line for every event."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gkd_core.events import (
    Checkpoint,
    Evaluation,
    Event,
    FileWritten,
    ModelReport,
    Progress,
    PrototypesSelected,
    Report,
    events,
)
from jobs.job import Artifact, Job, State, StoredEvent

if TYPE_CHECKING:  # the check needs numpy, the other commands do not
    from gkd_core.data.check import DataReport

ROLES = ("teacher", "control", "student", "model")
"""The order of a report's rows."""

COLOURS = {
    State.RUNNING: "cyan",
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.PAUSED: "yellow",
    State.CANCELLED: "yellow",
}


def event_of(stored: StoredEvent) -> Event | None:
    """The engine's event in a stored one; None where it tells of a move or a request."""
    return (
        None
        if stored.kind in ("state", "request")
        else events.validate_python({"kind": stored.kind, **stored.body})
    )


def stored_line(stored: StoredEvent) -> str:
    """A stored event in one line."""
    if event := event_of(stored):
        return line(event)
    if stored.kind == "request":
        return f"asked to {stored.body['desired']}"
    return told(stored.body["state"], stored.body["reason"])


def told(state: str, reason: str) -> str:
    """Where a job is and why, without saying the same twice."""
    return reason if reason.startswith(state) else f"{state}: {reason}"


def line(event: Event) -> str:
    """An event in one line."""
    match event:
        case Progress():
            return _progress(event)
        case Evaluation():
            return f"{event.run}, epoch {event.epoch}: {_metrics(event.metrics)}"
        case PrototypesSelected():
            chosen, pooled = sum(event.prototypes.values()), sum(event.instances.values())
            return f"{event.run}, epoch {event.epoch}: {chosen} prototypes out of {pooled} objects"
        case Checkpoint():
            best = ", the best so far" if event.best else ""
            return f"{event.run}, epoch {event.epoch}: published {event.file} ({size(event.size)}){best}"
        case FileWritten():
            return f"{event.run}: published {event.file} ({size(event.size)}): {event.title}"
        case Report():
            return "the report is written"
        case _:
            return f"warning: {event.message}" + (f" ({event.hint})" if event.hint else "")


def _progress(event: Progress) -> str:
    epoch = f", epoch {min(event.epoch + 1, event.epochs)}/{event.epochs}" if event.epochs else ""
    parts = [f"{event.run}{epoch}"]
    if event.activity == "train":
        parts += [f"step {event.step}/{event.steps}", _losses(event.losses)]
    else:
        parts.append({"prototypes": "selecting prototypes", "evaluate": "evaluating"}[event.activity])
    if event.seconds_left is not None:
        parts.append(f"{duration(event.seconds_left)} left")
    return ", ".join(filter(None, parts))


def _losses(losses: dict[str, float]) -> str:
    if not losses:
        return ""
    each = " ".join(f"{name.removeprefix('loss_')} {value:.3g}" for name, value in losses.items())
    return (
        f"loss {sum(losses.values()):.3g} ({each})" if len(losses) > 1 else f"loss {sum(losses.values()):.3g}"
    )


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {number(metrics[name])}" for name in ("AP", "AP50", "AP75") if name in metrics)


def number(value: float | None) -> str:
    """A COCO number; -1 stands for "there is no such object"."""
    return "-" if value is None or value < 0 else f"{value:.3f}"


def size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def age(moment: datetime) -> str:
    """How long ago something was."""
    passed: timedelta = datetime.now(moment.tzinfo) - moment
    return f"{duration(max(passed.total_seconds(), 0))} ago"


def jobs_table(jobs: tuple[Job, ...]) -> Table:
    """Many jobs, one line each."""
    table = Table("id", "name", "kind", "state", "why", "done", "created", box=None, pad_edge=False)
    table.columns[0].no_wrap = True  # ids are there to be copied
    for job in jobs:
        done = f"{100 * job.progress['fraction']:.0f} %" if job.progress else ""
        table.add_row(
            job.id, Text(job.name), job.kind, _state(job), Text(job.reason), done, age(job.created_at)
        )
    return table


def _state(job: Job) -> Text:
    return Text(job.state, style=COLOURS.get(job.state, ""))


def job_card(job: Job, artifacts: tuple[Artifact, ...] = ()) -> RenderableType:
    """One job with all that is known about it."""
    card = Table.grid(padding=(0, 2))
    under_way = job.state is not State.SUCCEEDED  # then the report says it better
    rows: dict[str, Any] = {
        "job": job.id,
        "name": job.name,
        "kind": job.kind,
        "state": _state(job),
        "why": job.reason,
        "created": f"{job.created_at:%Y-%m-%d %H:%M:%S} ({age(job.created_at)})",
        "worker": job.worker,
        "waits for": ", ".join(job.waits_for),
        "tags": ", ".join(f"{key}:{value}" for key, value in job.tags.items()),
        "progress": _progress(Progress.model_validate(job.progress)) if job.progress and under_way else None,
        "evaluation": line(Evaluation.model_validate(job.evaluation))
        if job.evaluation and under_way
        else None,
        "failure": f"{job.failure.failure_class}: {job.failure.message}" if job.failure else None,
        "hint": job.failure.hint if job.failure else None,
        "you can": ", ".join(job.actions),
    }
    for name, value in rows.items():
        if value:
            card.add_row(Text(name, style="dim"), value if isinstance(value, Text) else Text(str(value)))
    for attempt in job.attempts if len(job.attempts) > 1 else ():
        told = f"on {attempt.worker}: {attempt.outcome or 'runs'} {attempt.message}".rstrip()
        card.add_row(Text(f"attempt {attempt.attempt}", style="dim"), Text(told))
    return Group(card, artifacts_table(artifacts)) if artifacts else card


def artifacts_table(artifacts: tuple[Artifact, ...]) -> Table:
    """Published files."""
    table = Table("artifact", "size", "AP", "SHA-256", box=None, pad_edge=False)
    for artifact in artifacts:
        table.add_row(artifact.name, size(artifact.size), number(artifact.metrics.get("AP")), artifact.sha256)
    return table


def data_set(found: DataReport) -> RenderableType:
    """What is in a data set, and what to know about it."""
    table = Table("", "train", "val", box=None, pad_edge=False)
    splits = (found.train, found.val)
    table.add_row("pictures", *(str(split.images) for split in splits))
    table.add_row("without objects", *(str(split.images_without_boxes) for split in splits))
    table.add_row("objects", *(str(split.boxes) for split in splits))
    for name in found.classes:
        table.add_row(Text(f"  {name}"), *(str(split.boxes_per_class.get(name, 0)) for split in splits))
    for name in ("small", "medium", "large", "crowd"):
        table.add_row(
            f"  {name}" if name != "crowd" else "ignored regions", *(str(getattr(s, name)) for s in splits)
        )
    warnings = [
        Text(f"warning: {warning.message} {warning.hint}", style="yellow") for warning in found.warnings
    ]
    return Group(
        f"a data set in {found.format.upper()} format, {len(found.classes)} classes", table, *warnings
    )


def report(report: Report) -> RenderableType:
    """The models side by side, what distillation gained, and what to know about the figures."""
    table = Table("", "detector", "AP", "AP50", "AP75", "parameters", "GFLOPs", "ms per image", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for role in sorted(report.models, key=lambda role: ROLES.index(role) if role in ROLES else len(ROLES)):
        table.add_row(role, *_model_cells(report.models[role]))
    lines = [Text(f"note: {note}", style="dim") for note in report.notes]
    if gain := report.gain:
        interval = f"95 % interval {gain.ap_low:+.3f} to {gain.ap_high:+.3f}"
        told = f"student minus control: {gain.ap:+.3f} AP ({interval}), {gain.ap50:+.3f} AP50"
        lines = [Text(told), Text(gain.verdict, style="bold"), *lines]
    return Group(table, *lines)


def _model_cells(model: ModelReport) -> tuple[str, ...]:
    return (
        f"{model.architecture} {model.backbone}",
        *(number(model.metrics.get(name)) for name in ("AP", "AP50", "AP75")),
        f"{model.parameters / 1e6:.2f} M",
        f"{model.gflops:.1f}",
        f"{model.latency_ms.median:.1f}",
    )
