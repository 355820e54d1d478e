"""The cost of choosing prototypes: an epoch by the source of their features, against one without renewal.

    python bench/prototypes_cost.py [--pictures 96] [--size 256] [--epochs 7]

Drawn pictures, a RetinaNet teacher of ResNet-18 and a student of half its width, batches of 8. `never`: prototypes of
the first epoch stay; `bank` and `pass` renew them before every epoch; `per class` is the pass as published code does
it, each picture read and run by both detectors once for each class that it holds, in every epoch. The trainings advance
in turn, epoch by epoch. Left out are the first epoch, which begins with a pass in all of them, and the last, which is
evaluated. Processor seconds, since other programs may run; on a GPU wall-clock seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from figures import Figure, device, ratio, report

from gkd_core.config import run_config
from gkd_core.data.shapes import draw_shapes
from gkd_core.distill.instances import Choice, InstancePool
from gkd_core.events import Event, Progress
from gkd_core.runs import prototype_renewal
from gkd_core.runs.session import Session
from gkd_core.train import train

TEACHER = {
    "architecture": "retinanet",
    "backbone": "resnet18",
    "fpn": {"channels": 128},
    "head": {"depth": 2},
}
STUDENT = {**TEACHER, "backbone_width": 0.5}
WAYS: dict[str, dict[str, Any]] = {
    "never": {"every": 10**6},
    "bank": {"source": "bank"},
    "pass": {"source": "pass"},
    "per class": {"source": "pass"},
}
RECIPE = {"batch_size": 8, "workers": 0, "ema": None}
once = prototype_renewal._fill


def per_class(session: Session, pool: InstancePool, choice: Choice, base: Progress) -> Iterator[Event]:
    """Run the published pass: class by class over all pictures that hold it; boxes of other classes are ignored."""
    pool.known = None  # the teacher runs once for each class
    images = session.data.train.images
    for label in range(1, len(session.classes) + 1):
        own = {at: rows[images[at].labels[rows] == label] for at, rows in choice.items()}
        yield from once(session, pool, {at: rows for at, rows in own.items() if len(rows)}, base)


class Way:
    """One training, advanced an epoch at a time."""

    def __init__(self, name: str, spec: dict[str, Any], folder: Path) -> None:
        """Prepare the training; nothing runs yet."""
        self.fill = per_class if name == "per class" else once
        self.events = train(run_config.validate_python(spec), folder)
        self.seconds: list[float] = []
        """Of each epoch that was advanced."""

    def advance(self, epoch: int) -> None:
        """Train until this many epochs are finished."""
        began = _now()
        with mock.patch.object(prototype_renewal, "_fill", self.fill):
            for event in self.events:
                if event.kind == "progress" and event.run == "student" and event.epoch >= epoch:
                    break
        self.seconds.append(_now() - began)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main() -> None:
    """Train the same student in every way, in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("pictures", 96), ("size", 256), ("epochs", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        ways = {name: Way(name, *_job(Path(scratch), name, options)) for name in WAYS}
        for epoch in range(1, options.epochs):
            for way in ways.values():
                way.advance(epoch)
    report(_figures({name: way.seconds[1:] for name, way in ways.items()}, options))


def _job(scratch: Path, name: str, options: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """Return a distill job, whose teacher was trained for an epoch before the first of them."""
    data, base = scratch / "shapes", {"data": str(scratch / "shapes"), "device": device().type}
    recipe = {**RECIPE, "image_size": options.size}
    if not data.exists():
        draw_shapes(data, train=options.pictures, val=2, size=options.size, seed=0)
        spec = {"kind": "train", "model": TEACHER, "train": {**recipe, "epochs": 1}, **base}
        for _ in train(run_config.validate_python(spec), scratch / "teacher"):
            pass
    return {
        "kind": "distill",
        "teacher": {"weights": str(scratch / "teacher" / "model.safetensors")},
        "student": STUDENT,
        "distill": {"prototypes": WAYS[name], "control": False},
        "train": {**recipe, "epochs": options.epochs, "evaluate_every": options.epochs},
        **base,
    }, scratch / name


def _figures(seconds: dict[str, list[float]], options: argparse.Namespace) -> list[Figure]:
    what = f"{options.pictures} pictures of {options.size} px"
    asked = {"bank": 1.02, "pass": 1.35, "per class": None}
    return [
        ratio(f"epoch with prototypes, {name} / never, {what}", seconds[name], seconds["never"], at_most=most)
        for name, most in asked.items()
    ]


if __name__ == "__main__":
    main()
