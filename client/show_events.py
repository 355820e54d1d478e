"""Events on the terminal, in one line each."""

from __future__ import annotations

from collections.abc import Iterator

from client.show_text import duration, number, size
from gkd_core.events import (
    Checkpoint,
    Evaluation,
    Event,
    FileWritten,
    Progress,
    PrototypesSelected,
    Report,
    events,
)
from jobs.job import StoredEvent

ACTIVITIES = {
    "prototypes": "selecting prototypes",
    "evaluate": "evaluating",
    "export": "exporting and checking",
    "draw": "drawing",
}
"""Descriptions of a job's activities besides training."""


def event_of(stored: StoredEvent) -> Event | None:
    """Return the engine's event in a stored one; None if it is about a transition, request or change."""
    return (
        None
        if stored.kind in ("state", "request", "change")
        else events.validate_python({"kind": stored.kind, **stored.body})
    )


def stored_line(stored: StoredEvent) -> str:
    """Return a stored event in one line."""
    if event := event_of(stored):
        return line(event)
    if stored.kind == "request":
        return (
            "no longer asked to pause"
            if stored.body["desired"] == "run"
            else f"asked to {stored.body['desired']}"
        )
    if stored.kind == "change":
        tags = ", ".join(f"{key}:{value}" for key, value in stored.body["tags"].items())
        return (
            f"changed: name {stored.body['name']}, priority {stored.body['priority']}, tags {tags or 'none'}"
        )
    return told(stored.body["state"], stored.body["reason"])


def told(state: str, reason: str) -> str:
    """Return state and reason of a job, without repetition."""
    return reason if reason.startswith(state) else f"{state}: {reason}"


def line(event: Event) -> str:
    """Return an event in one line."""
    match event:
        case Progress():
            return progress_line(event)
        case Evaluation():
            return f"{_format_run(event)}: {_metrics(event.metrics)}"
        case PrototypesSelected():
            chosen, pooled = sum(event.prototypes.values()), sum(event.instances.values())
            return f"{_format_run(event)}: {chosen} prototypes out of {pooled} objects"
        case Checkpoint():
            best = ", the best so far" if event.best else ""
            return f"{event.run}, epoch {event.epoch}: published {event.file} ({size(event.size)}){best}"
        case FileWritten():
            return f"{event.run}: published {event.file} ({size(event.size)}): {event.title}"
        case Report():
            return "the report is written"
        case _:
            return f"warning: {event.message}" + (f" ({event.hint})" if event.hint else "")


def _format_run(event: Evaluation | PrototypesSelected) -> str:
    """Return the run of an event, with its epoch if it has one."""
    return f"{event.run}, epoch {event.epoch}" if event.epoch else event.run


def progress_line(event: Progress) -> str:
    """Return everything known about a job's progress."""
    activity = (
        (f"step {event.step}/{event.steps}", _losses(event.losses)) if _trains(event) else (_activity(event),)
    )
    return ", ".join(filter(None, (_run_and_epoch(event), *activity, time_left(event))))


def standing(event: Progress, width: int) -> str:
    """Return a job's progress in at most `width` columns: losses are shortened first, then steps go, then the epoch."""
    return next((told for told in _progress_forms(event) if len(told) <= width), "")


def _progress_forms(event: Progress) -> Iterator[str]:
    """Yield the progress in ever shorter forms."""
    if not _trains(event):
        yield from (
            f"{_run_and_epoch(event)}, {_activity(event)}",
            f"{event.run}, {_activity(event)}",
            _activity(event),
        )
    else:
        step = f"{_run_and_epoch(event)}, step {event.step}/{event.steps}"
        losses = [_losses(event.losses, shown) for shown in range(len(event.losses), -1, -1)]
        yield from (f"{step}, {told}" for told in losses if told)
        yield step
    yield from (
        _run_and_epoch(event),
        f"{event.run} {_epoch(event)}".rstrip(),
        event.run,
        f"{event.run[:7]}…",
    )


def time_left(event: Progress) -> str:
    """Return the remaining time of a job; empty if it is unknown."""
    return "" if event.seconds_left is None else f"{duration(event.seconds_left)} left"


def _trains(event: Progress) -> bool:
    return event.activity == "train"


def _activity(event: Progress) -> str:
    return ACTIVITIES[event.activity]


def _run_and_epoch(event: Progress) -> str:
    return f"{event.run}, epoch {_epoch(event)}" if event.epochs else event.run


def _epoch(event: Progress) -> str:
    return f"{min(event.epoch + 1, event.epochs)}/{event.epochs}" if event.epochs else ""


def _losses(losses: dict[str, float], shown: int | None = None) -> str:
    """Return the sum of the losses, and its first `shown` parts (None: all)."""
    if not losses:
        return ""
    parts = [f"{name.removeprefix('loss_')} {value:.3g}" for name, value in losses.items()]
    told = parts[:shown] + ["…"] * (shown is not None and shown < len(parts))
    total = f"loss {sum(losses.values()):.3g}"
    return f"{total} ({' '.join(told)})" if len(parts) > 1 and shown != 0 else total


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {number(metrics[name])}" for name in ("AP", "AP50", "AP75") if name in metrics)
