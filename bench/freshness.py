"""How current prototypes are over a distillation, how that affects its losses, and the student's AP.

    python bench/freshness.py DATA --teacher MODEL.safetensors [--epochs 12] [--seed 0] [--every 6] [--distill JSON]

Trains a student of 0.3 M parameters and its control, and records in every step, on each object's own level: its
robustness omega, and, where a prototype is an object of the batch, the cosine between the student's feature of it now
and the one that the prototype holds. Three times an epoch it also takes the norms of the gradients that reach the
student's backbone, loss by loss. Prints JSON: means by epoch, and AP and AP50 of student and control.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

from gkd_core.config import run_config
from gkd_core.distill.distiller import Distiller
from gkd_core.distill.features import assign_levels
from gkd_core.distill.losses import positions, robustness
from gkd_core.distill.positives import Instances
from gkd_core.train import train

STUDENT = {
    "architecture": "fcos",
    "backbone": "mobilenet_v3_small",
    "backbone_width": 0.5,
    "fpn": {"channels": 48, "depthwise": True},
    "head": {"depth": 2, "depthwise": True},
}
GRADIENTS_EVERY = 17
"""Steps between two records of the gradients, which cost a backward pass for each loss."""


class Recorder:
    """Records values of the steps of a distillation, by name and epoch."""

    def __init__(self) -> None:
        """Begin without records."""
        self.seen: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.rows: list[dict[tuple[int, int], int]] = []
        self.steps = 0
        self.gradients: dict[str, float] = {}

    def choose(self, distiller: Distiller, *arguments: Any, **named: Any) -> Any:
        """Replace `Distiller.choose_prototypes`; record which objects were chosen."""
        chosen = CHOOSE(distiller, *arguments, **named)
        pooled = arguments[0]
        self.rows = [
            {
                (int(pooled.image_ids[index]), int(pooled.rows[index])): row
                for row, index in enumerate(level.indices.tolist())
            }
            for level in chosen
        ]
        return chosen

    def forward(self, distiller: Distiller, *arguments: Any, **named: Any) -> dict[str, Tensor]:
        """Replace `Distiller.forward`; record gradients at some steps."""
        losses = FORWARD(distiller, *arguments, **named)
        if self.steps % GRADIENTS_EVERY == 0:
            self.gradients = _gradients(distiller, losses)
        self.steps += 1
        return losses

    def update_bank(self, distiller: Distiller, targets: list[dict[str, Tensor]], epoch: int) -> None:
        """Replace `Distiller.update_bank`; record what the step pooled."""
        if distiller._latest is not None and sum(len(target["boxes"]) for target in targets):
            self._record(distiller, targets, epoch)
        UPDATE_BANK(distiller, targets, epoch)

    def _record(self, distiller: Distiller, targets: list[dict[str, Tensor]], epoch: int) -> None:
        objects = Instances.of(targets)
        assert distiller._latest is not None
        own = assign_levels(objects.boxes, distiller.pixels_per_cell, distiller.student.cells_per_box)
        origins = [tuple(origin) for target in targets for origin in target["origins"].tolist()]
        for level, (student, teacher, prototypes) in enumerate(
            zip(*distiller._latest, distiller.prototypes, strict=True)
        ):
            here = (own == level).nonzero().squeeze(1)
            places = positions(student[here], teacher[here], prototypes)
            self.seen["omega"][epoch] += robustness(places, objects.labels[here], prototypes).tolist()
            for index in here.tolist():
                row = self.rows[level].get(origins[index])
                if row is not None:
                    cosine = functional.cosine_similarity(student[index], prototypes.student[row], dim=0)
                    self.seen["cosine"][epoch].append(float(cosine))
        for name, norm in self.gradients.items():
            self.seen[f"gradient {name}"][epoch].append(norm)
        self.gradients = {}

    def by_epoch(self) -> dict[str, list[float]]:
        """Return the means of each epoch."""
        return {
            name: [round(statistics.mean(values), 4) for _, values in sorted(epochs.items())]
            for name, epochs in self.seen.items()
        }


CHOOSE, FORWARD, UPDATE_BANK = Distiller.choose_prototypes, Distiller.forward, Distiller.update_bank


def _gradients(distiller: Distiller, losses: dict[str, Tensor]) -> dict[str, float]:
    """Return the norms of the gradients in the student's backbone: of the detection losses together, and each other."""
    weights = [weight for weight in distiller.student.backbone.parameters() if weight.requires_grad]
    detection = torch.stack([loss for name, loss in losses.items() if "distill" not in name]).sum()
    others = {name: loss for name, loss in losses.items() if "distill" in name}
    found = {}
    for name, loss in {"detection": detection, **others}.items():
        parts = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        norms = [part.float().norm() for part in parts if part is not None]
        found[name.removeprefix("distill_")] = float(torch.stack(norms).norm()) if norms else 0.0
    return found


def main() -> None:
    """Train once and print the records."""
    options = _options()
    recorder = Recorder()
    metrics: dict[str, dict[str, tuple[float, float]]] = {}
    names = {
        "choose_prototypes": recorder.choose,
        "forward": recorder.forward,
        "update_bank": recorder.update_bank,
    }
    replaced = {name: _method(function) for name, function in names.items()}
    with tempfile.TemporaryDirectory() as folder, mock.patch.multiple(Distiller, **replaced):
        for event in train(run_config.validate_python(_spec(options)), Path(folder)):
            if event.kind == "evaluation":
                found = event.metrics["AP"], event.metrics["AP50"]
                metrics.setdefault(event.run, {})[str(event.epoch)] = found
                print(f"{event.run}, epoch {event.epoch}: {found}", file=sys.stderr, flush=True)
    print(json.dumps({"seed": options.seed, "metrics": metrics, "by epoch": recorder.by_epoch()}))


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that replaces a method of the distiller, and gets the distiller as its first argument."""
    return lambda *arguments, **named: function(*arguments, **named)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=6)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--distill", default="{}", help="more of the spec's distill, as JSON")
    return parser.parse_args()


def _spec(options: argparse.Namespace) -> dict[str, Any]:
    distill = json.loads(options.distill)
    distill["prototypes"] = {"every": options.every, **distill.get("prototypes", {})}
    return {
        "kind": "distill",
        "data": str(options.data.absolute()),
        "device": "cpu",
        "teacher": {"weights": str(options.teacher.absolute())},
        "student": STUDENT,
        "distill": distill,
        "train": {
            "epochs": options.epochs,
            "evaluate_every": max(1, options.epochs // 2),
            "seed": options.seed,
            "batch_size": 4,
            "image_size": options.size,
            "precision": options.precision,
            "optimizer": {"lr": 2e-3},
            "workers": 0,
        },
    }


if __name__ == "__main__":
    main()
