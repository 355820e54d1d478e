"""The report of a run: the published models side by side, and what distillation gained over the control."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gkd_core.checkpoint import sha256_of
from gkd_core.config import DistillRun, TrainRun
from gkd_core.data.loading import eval_batches
from gkd_core.data.records import ImageRecord
from gkd_core.detectors import Detector, count_parameters, detect
from gkd_core.evaluate import Score, bootstrap_gain
from gkd_core.events import Gain, Latency, ModelReport, Report
from gkd_core.model_card import ModelCard
from gkd_core.run_dir import write_atomically

ENOUGH_PICTURES = 30
"""Under so many, a bootstrap interval is far narrower than the truth."""
_TIMED, _WARM_UP = 20, 3
"""Pictures timed per model, and pictures before that."""


class Entry(NamedTuple):
    """A model that is reported."""

    detector: Detector
    card: ModelCard
    score: Score
    path: Path | None
    """Its published file, when this run wrote it."""


def make_report(
    config: TrainRun | DistillRun,
    entries: dict[str, Entry],
    images: Sequence[ImageRecord],
    folder: Path,
    device: torch.device,
) -> Report:
    """Measure what is not measured yet, and write `report.json` into the folder.

    Args:
        config: the run.
        entries: by role: "model", or "teacher", "student" and perhaps "control".
        images: the validation split.
        folder: where the report goes.
        device: where latency is measured.
    """
    size = config.train.image_size
    latencies = measure_latencies([e.detector for e in entries.values()], images[:_TIMED], size, device)
    models = {
        role: _model(entry, latency, size, device)
        for (role, entry), latency in zip(entries.items(), latencies, strict=True)
    }
    gain = (
        _gain(entries["student"].score, entries["control"].score, len(images))
        if "control" in entries
        else None
    )
    report = Report(time=time.time(), models=models, gain=gain, notes=_notes(config, len(images), gain))
    write_atomically(folder / report.file, report.model_dump_json(indent=2).encode())
    return report


def _model(entry: Entry, latency: Latency, image_size: int, device: torch.device) -> ModelReport:
    written = entry.path
    return ModelReport(
        architecture=entry.card.architecture,
        backbone=entry.card.backbone,
        parameters=count_parameters(entry.detector),
        gflops=count_gflops(entry.detector, image_size, device),
        latency_ms=latency,
        metrics=entry.score.metrics,
        per_class=entry.score.per_class,
        file=written.name if written else None,
        sha256=sha256_of(written) if written else None,
        size=written.stat().st_size if written else None,
    )


def count_gflops(detector: Detector, image_size: int, device: torch.device) -> float:
    """Multiply-adds times two of one square picture, in units of 1e9; convolutions and matrix products.

    For Faster R-CNN the figure depends on how many proposals an empty picture gives, so it moves with the weights.
    """
    with FlopCounterMode(display=False) as counter:
        detect(detector, [torch.zeros(3, image_size, image_size, device=device)])
    return counter.get_total_flops() / 1e9


def measure_latencies(
    detectors: Sequence[Detector], images: Sequence[ImageRecord], image_size: int, device: torch.device
) -> list[Latency]:
    """Time each detector on single pictures, in turn picture by picture, so that drift hits all alike.

    Decoding and resizing are not counted; normalising, the network and the suppression of doubles are.
    """
    pictures = [batch[0].image.to(device).float() / 255 for batch in eval_batches(images, image_size, 1)]
    for detector in detectors:
        for picture in pictures[:_WARM_UP]:
            _milliseconds(detector, picture)
    times = np.array([[_milliseconds(detector, p) for detector in detectors] for p in pictures])
    low, median, high = np.percentile(times, [10, 50, 90], axis=0)
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return [
        Latency(median=float(m), low=float(lo), high=float(hi), device=name)
        for m, lo, hi in zip(median, low, high, strict=True)
    ]


def _milliseconds(detector: Detector, picture: Tensor) -> float:
    if picture.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    detect(detector, [picture])
    if picture.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1000


def _gain(student: Score, control: Score, pictures: int) -> Gain:
    low, high = bootstrap_gain(student, control)
    ap = student.metrics["AP"] - control.metrics["AP"]
    return Gain(
        ap=ap,
        ap50=student.metrics["AP50"] - control.metrics["AP50"],
        ap_low=low,
        ap_high=high,
        verdict=verdict(ap, low, high, pictures),
    )


def verdict(ap: float, low: float, high: float, pictures: int) -> str:
    """One honest sentence about a difference and its 95 % interval over that many validation pictures."""
    if pictures < ENOUGH_PICTURES:
        return f"{pictures} validation pictures are too few to tell what distillation gained: {ap:+.3f} AP; one seed."
    interval = f"95 % interval over validation pictures {low:+.3f} to {high:+.3f}"
    if low > 0:
        return f"Distillation gained {ap:+.3f} AP over the control ({interval}); one seed."
    if high < 0:
        return f"Distillation lost {ap:+.3f} AP against the control ({interval}); one seed."
    return f"No difference that these pictures can show: {ap:+.3f} AP against the control ({interval}); one seed."


def _notes(config: TrainRun | DistillRun, pictures: int, gain: Gain | None) -> tuple[str, ...]:
    notes = [
        f"AP figures are of the published files, on the {pictures} pictures of the validation split; "
        f"latency is over {min(_TIMED, pictures)} of them, on a machine that may have had other work.",
        "What this run trained is published at its best epoch by AP on that same split, which flatters it a little.",
    ]
    if gain:
        notes.append(
            "The control is the same student from the same start, with the same data order and schedule, "
            "trained without distillation. The interval does not cover the chance of another seed."
        )
    elif isinstance(config, DistillRun):
        notes.append("Without a control nobody can say what distillation gained.")
    return tuple(notes)
