"""The report of a run: the published models side by side, and what distillation gained over the control."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from gkd_core.config import TO_TRAIN, DataConfig, DistillRun, Metric, SplitName, TrainConfig, TrainRun
from gkd_core.data.find import find_layout
from gkd_core.data.records import DataSet, ImageRecord
from gkd_core.detectors.build import count_parameters
from gkd_core.detectors.checkpoint import sha256_of
from gkd_core.detectors.detector import Detector
from gkd_core.detectors.model_card import ModelCard
from gkd_core.evaluation.assessment import Assessment, assess
from gkd_core.evaluation.bootstrap import DRAWS, bootstrap_gain, draws_for
from gkd_core.evaluation.coco import Score
from gkd_core.events import (
    Assessed,
    Calibration,
    CalibrationBin,
    Confusion,
    Gain,
    Latency,
    ModelReport,
    OperatingPoint,
    Report,
    Scores,
)
from gkd_core.run_dir import write_atomically
from gkd_core.runs.model_cost import count_gflops, measure_latencies
from gkd_core.training.position import Account

NAMES: dict[SplitName, str] = {
    "train": "the training split",
    "val": "the validation split",
    "test": "the test split",
}
SCORED: tuple[SplitName, ...] = ("val", "test")
"""The splits that the models of a training are scored on."""
ENOUGH_PICTURES = 30
"""Fewest images for a bootstrap interval: with fewer it is far too narrow."""
_TIMED = 20
"""Images timed per model."""


class Entry(NamedTuple):
    """A model in the report."""

    detector: Detector
    card: ModelCard
    score: Score
    path: Path | None
    """Its published file, if this run wrote it."""
    test: Score | None = None
    """Score on the test split, if there is one."""
    assessment: Assessment | None = None
    """On the split of `score`, if it was assessed."""
    test_assessment: Assessment | None = None
    """On the test split, if there is one."""
    image_size: int | None = None
    """Longer side of the pictures that it sees, in pixels; None: that of the run."""

    def assessed(self, classes: Sequence[str]) -> Entry:
        """Assess the detections on both splits; `classes` in label order."""
        test = assess(self.test, classes) if self.test else None
        return self._replace(assessment=assess(self.score, classes), test_assessment=test)


def make_report(
    config: TrainRun | DistillRun,
    entries: dict[str, Entry],
    data: DataSet,
    folder: Path,
    device: torch.device,
    notes: Sequence[str] = (),
    figures: Sequence[str] = (),
    stop_if_asked: Callable[[], None] = lambda: None,
) -> Report:
    """Measure latency and GFLOPs of the models, compute the gain, and write `report.json` into the folder.

    Args:
        config: the run.
        entries: by role: "model", or "teacher", "student" and perhaps "control".
        data: the data set that the models were scored on.
        folder: where the report goes.
        device: where latency is measured.
        notes: further notes for the reader.
        figures: files of the figures that were drawn.
        stop_if_asked: called often in long computations; raises when the run was asked to stop.
    """
    models = report_models(entries, data.val.images, config.train.image_size, device)
    pictures = {name: len(data.splits[name].images) for name in SCORED if name in data.splits}
    gains = {
        name: _gain(name, *pair, pictures[name], stop_if_asked)
        for name in pictures
        if (pair := _student_and_control(entries, name))
    }
    report = Report(
        time=time.time(),
        models=models,
        gain=gains.get("val"),
        gain_on_test=gains.get("test"),
        pictures=pictures,
        headline=headline(config.data, config.train.best_by),
        notes=(
            *_notes(config, pictures, bool(gains)),
            *_few_draws(entries, gains),
            *_proposals(entries),
            *notes,
        ),
        figures=tuple(figures),
    )
    return write_report(report, folder)


def _student_and_control(entries: dict[str, Entry], split: SplitName) -> tuple[Score, Score] | None:
    """Return the scores of both on a split; None without a control."""
    if "control" not in entries:
        return None
    student, control = entries["student"], entries["control"]
    if split == "val":
        return student.score, control.score
    return (student.test, control.test) if student.test and control.test else None


def headline(
    data: DataConfig, best_by: Metric = "AP", needs: Collection[SplitName] = TO_TRAIN
) -> tuple[str, ...]:
    """Return the metrics to show first: those usual for this kind of data, and the one that ranked the epochs."""
    is_voc = find_layout(data, needs=needs).format == "voc"
    known = ("AP", "AP50", "VOC07", "VOC12") if is_voc else ("AP", "AP50", "AP75")
    return known if best_by in known else (*known, best_by)


def report_models(
    entries: dict[str, Entry], images: Sequence[ImageRecord], image_size: int, device: torch.device
) -> dict[str, ModelReport]:
    """Return each model's report, its latency measured in turn with the others'; arguments as `make_report`."""
    sized = [(entry.detector, entry.image_size or image_size) for entry in entries.values()]
    latencies = measure_latencies(sized, images[:_TIMED], device)
    return {
        role: _model(entry, latency, entry.image_size or image_size, device)
        for (role, entry), latency in zip(entries.items(), latencies, strict=True)
    }


def write_report(report: Report, folder: Path) -> Report:
    """Write a report into the run directory; return it."""
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
        test=_scores(entry.test, entry.test_assessment) if entry.test else None,
        **dict(_scores(entry.score, entry.assessment)),
        file=written.name if written else None,
        sha256=sha256_of(written) if written else None,
        size=written.stat().st_size if written else _bytes(entry.detector),
    )


def _scores(score: Score, assessment: Assessment | None) -> Scores:
    return Scores(
        metrics=score.metrics,
        per_class=score.per_class,
        per_class_voc=score.per_class_voc,
        assessment=_assessed(assessment) if assessment else None,
    )


def _assessed(assessment: Assessment) -> Assessed:
    """Return an assessment as it is reported."""
    points, means = assessment.points.items(), assessment.mean_precision.items()
    return Assessed(
        operating_points={
            name: OperatingPoint(**point._asdict()) if point else None for name, point in points
        },
        precision_recall={name: tuple(mean.round(4).tolist()) for name, mean in means},
        confusion=_confusion(assessment),
        calibration=_calibration(assessment),
    )


def _confusion(assessment: Assessment) -> Confusion:
    """Name the labels of a confusion matrix."""
    names, counts = assessment.classes, assessment.confusion.tolist()
    return Confusion(
        threshold=assessment.threshold,
        detected={
            name: {other: count for other, count in zip(names, counts[label][1:], strict=True) if count}
            for label, name in enumerate(names, start=1)
        },
        missed={name: counts[label][0] for label, name in enumerate(names, start=1)},
        false_alarms=dict(zip(names, counts[0][1:], strict=True)),
    )


def _calibration(assessment: Assessment) -> Calibration:
    found = assessment.calibration
    rows = zip(found.counts.tolist(), found.scores.tolist(), found.precision.tolist(), strict=True)
    bins = [CalibrationBin(count=count, score=score, precision=share) for count, score, share in rows]
    return Calibration(error=found.error, bins=tuple(bins))


def _bytes(detector: Detector) -> int:
    """Return the size of the weights, which is nearly that of the file: its header is small."""
    return sum(tensor.numel() * tensor.element_size() for tensor in detector.state_dict().values())


def _gain(
    split: SplitName, student: Score, control: Score, pictures: int, stop_if_asked: Callable[[], None]
) -> Gain:
    draws = draws_for(student, control)
    low, high = bootstrap_gain(student, control, draws=draws, between=stop_if_asked)
    ap = student.metrics["AP"] - control.metrics["AP"]
    return Gain(
        ap=ap,
        ap50=student.metrics["AP50"] - control.metrics["AP50"],
        ap_low=low,
        ap_high=high,
        verdict=verdict(ap, low, high, pictures, split),
    )


def verdict(ap: float, low: float, high: float, pictures: int, split: SplitName = "val") -> str:
    """Return one sentence that judges a difference by its 95 % interval over `pictures` images of a split."""
    kind = "test" if split == "test" else "validation"
    if pictures < ENOUGH_PICTURES:
        return f"{pictures} {kind} pictures are too few to tell what distillation gained: {ap:+.3f} AP; one seed."
    interval = f"95 % interval over {kind} pictures {low:+.3f} to {high:+.3f}"
    if low > 0:
        return f"Distillation gained {ap:+.3f} AP over the control ({interval}); one seed."
    if high < 0:
        return f"Distillation lost {ap:+.3f} AP against the control ({interval}); one seed."
    return f"No difference that these pictures can show: {ap:+.3f} AP against the control ({interval}); one seed."


def _notes(config: TrainRun | DistillRun, pictures: dict[SplitName, int], has_gain: bool) -> tuple[str, ...]:
    val = pictures["val"]
    notes = [
        f"AP figures are of the published files, on the {val} pictures of the validation split; "
        f"latency is over {min(_TIMED, val)} of them, on a machine that may have had other work.",
        f"What this run trained is published at its best epoch by {config.train.best_by} on that same split, "
        "which flatters it a little.",
    ]
    if "test" in pictures:
        notes.append(
            f"Test figures are on the {pictures['test']} pictures of the test split, which decided nothing: every "
            "model was scored on them once, at the end."
        )
    if has_gain:
        notes.append(
            "The control is the same student from the same start, with the same data order and schedule, "
            "trained without distillation. The interval does not cover the chance of another seed."
        )
    elif isinstance(config, DistillRun):
        notes.append("Without a control nobody can say what distillation gained.")
    return tuple(notes)


def _few_draws(entries: dict[str, Entry], splits: Collection[SplitName]) -> list[str]:
    """Return a note for each split whose interval has fewer resamples than usual."""
    return [
        f"The interval is of {draws} draws and not of {DRAWS}: {NAMES[name]} is large."
        for name in splits
        if (pair := _student_and_control(entries, name)) and (draws := draws_for(*pair)) < DRAWS
    ]


def _proposals(entries: dict[str, Entry]) -> list[str]:
    """Return a note on the meaning of a Faster R-CNN's GFLOPs."""
    if not any(entry.card.architecture == "faster_rcnn" for entry in entries.values()):
        return []
    return [
        "GFLOPs of a Faster R-CNN count as many proposals as it can have, 1000 unless pictures are tiny; "
        "most pictures give fewer."
    ]


def training_notes(accounts: dict[str, Account], recipe: TrainConfig) -> list[str]:
    """Return notes on how the trainings went.

    Args:
        accounts: by role: "model", or "student" and perhaps "control".
        recipe: their common training config.
    """
    stopped = [
        f"{early_stop(role, account, recipe)}."
        for role, account in accounts.items()
        if account.epochs < recipe.epochs
    ]
    return stopped + _micro_batches(accounts)


def early_stop(role: str, account: Account, recipe: TrainConfig) -> str:
    """Return why a training ended before its last epoch."""
    return (
        f"the {role} stopped after epoch {account.epochs} of {recipe.epochs}: {recipe.patience} evaluations in a row "
        f"brought no better {recipe.best_by} than epoch {account.best_epoch}"
    )


def _micro_batches(accounts: dict[str, Account]) -> list[str]:
    """Return a note if a step was split into more micro-batches after running out of memory.

    Batch norm then computes its statistics over fewer images.
    """
    used = {role: " and then ".join(map(str, account.accumulated)) for role, account in accounts.items()}
    told = ", ".join(f"the {role} with {parts}" for role, parts in used.items())
    if len(set(used.values())) > 1:
        return [
            f"Micro-batches per step differ, because memory ran out: {told}. Batch norm saw other numbers of pictures "
            "at a time, so the gain is not of distillation alone."
        ]
    if any(len(account.accumulated) > 1 for account in accounts.values()):
        return [f"Micro-batches per step changed, because memory ran out: {told}."]
    return []
