"""The history of a run, read from its `events.jsonl`, across all attempts.

An attempt that was killed leaves events of steps that the next one repeats; later events replace earlier ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class RunHistory:
    """The history of one training."""

    losses: dict[int, dict[str, float]] = field(default_factory=dict)
    """By step, ascending: each named loss, mean since the entry before."""
    evaluations: dict[int, dict[str, float]] = field(default_factory=dict)
    """By epoch: the scores on the validation split."""
    errors: dict[int, dict[str, float]] = field(default_factory=dict)
    """By epoch: the prototypes' reconstruction error of each level (its stride)."""
    best: int | None = None
    """Epoch of the weights that are published as the best."""
    epochs: int = 0
    steps: int = 0
    """Steps of the whole training."""


def read_history(path: Path) -> dict[str, RunHistory]:
    """Read the history of each training, by its name; empty where nothing was written."""
    history: dict[str, RunHistory] = {}
    for event in _events(path):
        name = event.get("run")
        if isinstance(name, str):
            _apply_event(history.setdefault(name, RunHistory()), event)
    return {name: run for name, run in history.items() if run.losses or run.evaluations}


def _events(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:  # truncated: its writer was killed
                continue
            if isinstance(event, dict):
                yield event


def _apply_event(run: RunHistory, event: dict[str, Any]) -> None:
    match event.get("kind"):
        case "progress":
            run.epochs, run.steps = event["epochs"] or run.epochs, event["steps"] or run.steps
            if event["activity"] == "train":
                _add_losses(run, event["step"], event["losses"])
        case "evaluation":
            run.evaluations[event["epoch"]] = event["metrics"]
        case "prototypes":
            run.errors[event["epoch"]] = event["reconstruction_error"]
        case "checkpoint" if event["best"]:
            run.best = event["epoch"]


def _add_losses(run: RunHistory, step: int, losses: dict[str, float]) -> None:
    """Add an entry and drop those of later steps, which are of an attempt that was killed."""
    while run.losses and next(reversed(run.losses)) > step:
        run.losses.popitem()
    if losses:
        run.losses[step] = losses
