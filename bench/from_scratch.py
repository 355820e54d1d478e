"""How quickly small detectors learn from scratch: AP on the validation split over minutes of training, as JSON.

    python bench/from_scratch.py DATA [--architecture fcos] [--epochs 24] [--lr 2e-3] [--seed 0] [--precision bfloat16]

One detector of a ResNet-18 of half width and 64 channels, 320 px, batch 4, one thread. Minutes are those of the
processor, since other programs may run; evaluations are not counted. Without DATA there is nothing to do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gkd_core.config import run_config
from gkd_core.train import train

EVALUATE_EVERY = 2
"""Epochs between evaluations."""


def main() -> None:
    """Train one detector and print its curve."""
    options = _options()
    if options.data is None:
        print("nothing to do: name the folder of a data set", file=sys.stderr)
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        curve = list(_curve(_spec(options), Path(folder)))
    print(json.dumps({name: str(value) for name, value in vars(options).items()} | {"curve": curve}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--architecture", default="fcos")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="bfloat16")
    return parser.parse_args()


def _spec(options: argparse.Namespace) -> dict[str, Any]:
    model = {"architecture": options.architecture, "backbone": "resnet18", "backbone_width": 0.5}
    recipe = {"epochs": options.epochs, "seed": options.seed, "precision": options.precision, "batch_size": 4}
    return {
        "kind": "train",
        "data": str(options.data.absolute()),
        "device": "cpu",
        "model": model | {"fpn": {"channels": 64}, "head": {"depth": 2, "width": 64}},
        "train": recipe
        | {
            "image_size": 320,
            "evaluate_every": EVALUATE_EVERY,
            "workers": 0,
            "optimizer": {"lr": options.lr},
        },
    }


def _curve(spec: dict[str, Any], folder: Path) -> Any:
    """Yield epoch, minutes of training and AP at every evaluation."""
    evaluating, began, spent = False, time.process_time(), 0.0
    for event in train(run_config.validate_python(spec), folder):
        now = time.process_time()
        if event.kind == "progress" and event.activity == "evaluate" and not evaluating:
            evaluating, spent = True, spent + now - began
        if event.kind == "progress" and event.activity == "train" and evaluating:
            evaluating, began = False, now
        if event.kind == "evaluation":
            minutes = (spent if evaluating else spent + now - began) / 60
            point = {"epoch": event.epoch, "minutes": round(minutes, 2), "AP": round(event.metrics["AP"], 4)}
            print(point, file=sys.stderr, flush=True)
            yield point


if __name__ == "__main__":
    main()
