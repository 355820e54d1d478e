"""What choosing prototypes costs: processor seconds of an epoch by where their features come from, as JSON.

    python bench/prototypes_cost.py [--pictures 64] [--size 192] [--epochs 6]

Drawn pictures, an FCOS teacher and student of ResNet-18, batches of 8, one thread. `never`: prototypes of the first
epoch stay; `bank` and `pass` renew them before every epoch. Left out are the first epoch, which begins with a pass
in all three, and the last, which is evaluated. Processor time, since other programs may run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gkd_core.config import run_config
from gkd_core.data.shapes import draw_shapes
from gkd_core.train import train

MODEL = {"architecture": "fcos", "backbone": "resnet18", "fpn": {"channels": 64}, "head": {"depth": 2}}
WAYS: dict[str, dict[str, Any]] = {
    "never": {"every": 10**6},
    "bank": {"source": "bank"},
    "pass": {"source": "pass"},
}


def seconds_of_epochs(spec: dict[str, Any], folder: Path) -> list[float]:
    """Processor seconds of each epoch but the first and the last."""
    ends: dict[int, float] = {}  # when the first word came that this many epochs are finished
    for event in train(run_config.validate_python(spec), folder):
        if event.kind == "progress" and event.run == "student":
            ends.setdefault(event.epoch, time.process_time())
    return [round(ends[epoch] - ends[epoch - 1], 2) for epoch in range(2, max(ends, default=0))]


def main() -> None:
    """Train the same student three times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("pictures", 64), ("size", 192), ("epochs", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        data, recipe = Path(scratch) / "shapes", {"batch_size": 8, "image_size": options.size, "workers": 0}
        draw_shapes(data, train=options.pictures, val=2, size=options.size, seed=0)
        base = {"data": str(data), "device": "cpu"}
        teacher = {"kind": "train", "model": MODEL, "train": {**recipe, "epochs": 1}, **base}
        seconds_of_epochs(teacher, Path(scratch) / "teacher")
        found: dict[str, dict[str, Any]] = {}
        for way, prototypes in WAYS.items():
            spec = {
                "kind": "distill",
                "teacher": {"weights": str(Path(scratch) / "teacher" / "model.safetensors")},
                "student": MODEL,
                "distill": {"prototypes": prototypes, "control": False},
                "train": {**recipe, "epochs": options.epochs, "evaluate_every": options.epochs},
                **base,
            }
            seconds = seconds_of_epochs(spec, Path(scratch) / way)
            found[way] = {"epochs": seconds, "mean": round(sum(seconds) / len(seconds), 2)}
        for way in WAYS:
            found[way]["ratio"] = round(found[way]["mean"] / found["never"]["mean"], 3)
        print(json.dumps({"pictures": options.pictures, "size": options.size, **found}, indent=1))


if __name__ == "__main__":
    main()
