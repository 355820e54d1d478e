"""Events of a job in one line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from api.ui import words
from jobs.job import StoredEvent


def event_text(event: StoredEvent) -> str:
    """Return what happened. An unknown kind of event is named and not explained."""
    tell = _TEXTS.get(event.kind)
    return tell(event.body) if tell else event.kind


def _state(body: dict[str, Any]) -> str:
    reason = str(body.get("reason", ""))
    state = str(body.get("state", ""))
    return reason if reason.startswith(state) else f"{state}: {reason}".rstrip(": ")


def _request(body: dict[str, Any]) -> str:
    desired = body.get("desired")
    return "a request to pause was withdrawn" if desired == "run" else f"asked to {desired}"


def _change(body: dict[str, Any]) -> str:
    tags = ", ".join(f"{key}:{value}" for key, value in body.get("tags", {}).items())
    return f"name {body.get('name')}, priority {body.get('priority')}, tags {tags or 'none'}"


def _evaluation(body: dict[str, Any]) -> str:
    shown = {name: body["metrics"][name] for name in ("AP", "AP50", "AP75") if name in body["metrics"]}
    numbers = ", ".join(f"{name} {words.points(value)}" for name, value in shown.items())
    return f"{_run(body)}: {numbers}"


def _prototypes(body: dict[str, Any]) -> str:
    chosen, pooled = sum(body["prototypes"].values()), sum(body["instances"].values())
    return f"{_run(body)}: {chosen:,} prototypes of {pooled:,} objects, in {words.duration(body['seconds'])}"


def _checkpoint(body: dict[str, Any]) -> str:
    best = ", the best so far" if body["best"] else ""
    return f"{_run(body)}: {body['file']}, {words.size(body['size'])}{best}"


def _file(body: dict[str, Any]) -> str:
    return f"{body['file']}, {words.size(body['size'])}: {body['title']}"


def _warning(body: dict[str, Any]) -> str:
    return f"{body['message']} {body.get('hint', '')}".rstrip()


def _run(body: dict[str, Any]) -> str:
    return f"{body['run']}, epoch {body['epoch']}" if body.get("epoch") else str(body["run"])


_TEXTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "state": _state,
    "request": _request,
    "change": _change,
    "evaluation": _evaluation,
    "prototypes": _prototypes,
    "checkpoint": _checkpoint,
    "file": _file,
    "warning": _warning,
    "report": lambda _: "the report is written",
}
