"""Measures the share of a step that a training spends waiting for its next batch of pictures.

    python bench/loading.py [--runs 5] [--steps 4]

Drawn square JPEG pictures, of 1024 px on a GPU (ResNet-50, batch 16, bfloat16) and of 320 px elsewhere (ResNet-18,
batch 8), with the default augmentation and loader, nothing cached. The first steps are left out; each run is so many
steps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from figures import RUNS, Figure, device, report, seconds

from gkd_core.config import DataConfig, DetectorConfig, TrainConfig
from gkd_core.data.loading import Sample, TrainLoader
from gkd_core.data.reading import load
from gkd_core.data.shapes import draw_shapes
from gkd_core.training.trainer import Training

WARM_UP = 4


def shares(loader: TrainLoader, training: Training, runs: int, steps: int) -> list[float]:
    """Return the share of each run, after a warm-up, that was spent waiting for batches."""
    waits, whole = [], []
    for batch, waited in _batches(loader, WARM_UP + runs * steps):
        trained = seconds(lambda batch=batch: training.train_step(batch))
        training.step_in_epoch = 0
        waits.append(waited)
        whole.append(waited + trained)
    begins = range(WARM_UP, len(waits), steps)
    return [sum(waits[first : first + steps]) / sum(whole[first : first + steps]) for first in begins]


def _batches(loader: TrainLoader, count: int) -> Iterator[tuple[list[Sample], float]]:
    """Yield batches over as many epochs as needed, each with the seconds of waiting for it."""
    epoch, batches = 0, loader.epoch(0)
    while count:
        began = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            epoch, batches = epoch + 1, loader.epoch(epoch + 1)
            continue
        yield batch, time.perf_counter() - began
        count -= 1


def main() -> None:
    """Run one training and time its steps and waits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    on_gpu = device().type == "cuda"
    size, batch_size, backbone = (1024, 16, "resnet50") if on_gpu else (320, 8, "resnet18")
    precision = "bfloat16" if on_gpu else "float32"
    recipe = {"image_size": size, "batch_size": batch_size, "precision": precision, "cache_mb": 0}
    config = TrainConfig.model_validate(recipe)
    model = DetectorConfig.model_validate({"architecture": "retinanet", "backbone": backbone})
    with tempfile.TemporaryDirectory() as scratch:
        draw_shapes(Path(scratch), train=8 * batch_size, val=1, size=size, seed=0)
        data = load(DataConfig(path=scratch))
        training = Training("model", config, model, data.classes, 1000, device())
        found = shares(TrainLoader(data.train.images, config), training, options.runs, options.steps)
    what = f"share of a step spent waiting for data, {backbone}, {size} px, batch {batch_size}"
    most, spread = 0.03 if on_gpu else None, (min(found), max(found))
    report([Figure(what, statistics.median(found), "", at_most=most, spread=spread)])


if __name__ == "__main__":
    main()
