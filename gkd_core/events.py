"""Events: the output of the engine as one stream of frozen values, distinguished by `kind`.

The engine appends them as JSON lines to `RUN_DIR/events.jsonl`; the store numbers and keeps them; the HTTP API serves
them. `run` names the training that an event belongs to: "model" in a train, evaluate or export job; "student",
"control" and, where it is evaluated, "teacher" in a distill job; "student" in a prototypes job.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from gkd_core.config import SplitName


def _plain_name(name: str) -> str:
    """Check that a file name is plain: files are published and downloaded under it."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or not name.isprintable():
        raise ValueError(f"{name[:80]!r} is no plain name of a file in the run directory")
    return name


FileName = Annotated[str, Field(max_length=255), AfterValidator(_plain_name)]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    time: float = 0.0
    """Unix seconds on the engine's clock, set when the event is written."""


class Progress(_Event):
    """Progress of the job. Written a few times a second at most, also during selection and evaluation."""

    kind: Literal["progress"] = "progress"
    run: str
    activity: Literal["train", "prototypes", "evaluate", "export", "draw"] = "train"
    epoch: int
    """Epochs finished in this run, from 0."""
    epochs: int
    step: int
    """Optimiser steps finished in this run."""
    steps: int
    fraction: float = Field(ge=0, le=1)
    """Share of the whole job that is done, over all its runs."""
    losses: dict[str, float] = {}
    """Each named loss, mean since the last progress event, weighted as it enters the sum."""
    lr: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    """Estimate for the whole job."""
    saved: bool = False
    """True when a checkpoint to resume from was just written: work up to here is not lost."""


class PrototypesSelected(_Event):
    """New prototypes were selected."""

    kind: Literal["prototypes"] = "prototypes"
    run: str
    epoch: int
    instances: dict[str, int]
    """Instances pooled, by class name."""
    prototypes: dict[str, int]
    """Prototypes chosen, by class name; the same number on every level."""
    reconstruction_error: dict[str, float]
    """Joint reconstruction error per instance, by level (its stride), all classes together; see docs/method.md."""
    seconds: float


class Evaluation(_Event):
    """One evaluation on the validation split."""

    kind: Literal["evaluation"] = "evaluation"
    run: str
    epoch: int
    metrics: dict[str, float]
    """In 0..1, -1: no such objects. COCO's AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl; and VOC07,
    VOC12, the mean AP50 as VOC counted it in 2007 (11 points) and later (all points)."""
    per_class: dict[str, float]
    """AP by class name; -1 where the split has no such object."""
    seconds: float


class Checkpoint(_Event):
    """A model was published: a safetensors file that is enough to rebuild the detector."""

    kind: Literal["checkpoint"] = "checkpoint"
    run: str
    epoch: int
    step: int
    file: FileName
    """Name inside the run directory, also the artifact's name."""
    size: int
    """Bytes."""
    sha256: str
    metrics: dict[str, float] = {}
    best: bool
    """True for the best by `train.best_by` so far, False for the last."""


class Latency(BaseModel):
    """Milliseconds for one picture at batch 1, decoding excluded, measured in the job itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    median: float
    low: float
    """10th percentile."""
    high: float
    """90th percentile."""
    device: str


class OperatingPoint(BaseModel):
    """The score threshold at which a class has its highest F1, at an overlap (IoU) of 0.5."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float
    """Detections of this score or more are kept."""
    precision: float
    recall: float
    f1: float


class Confusion(BaseModel):
    """How many objects of a class were detected as which, at an overlap (IoU) of 0.5; see `evaluation/confusion.py`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float
    """Detections of this score or more are counted: F1 over all classes is highest there."""
    detected: dict[str, dict[str, int]]
    """By annotated class: objects by the class that they were detected as, without zeros."""
    missed: dict[str, int]
    """By annotated class: objects detected as background."""
    false_alarms: dict[str, int]
    """By detected class: detections of background, or of an object that was detected already."""


class CalibrationBin(BaseModel):
    """The detections whose score lies in one of the bins of equal width between 0 and 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int
    score: float
    """Mean score; 0 in an empty bin."""
    precision: float
    """Share of them that are hits at an overlap (IoU) of 0.5; 0 in an empty bin."""


class Calibration(BaseModel):
    """How far scores are from the precision of the detections that have them, over all classes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    error: float
    """Expected calibration error (ECE): mean of |precision - score| over the bins, weighted by `count`; 0 is best."""
    bins: tuple[CalibrationBin, ...]
    """Lowest scores first."""


class Assessed(BaseModel):
    """What decides whether a detector can be shipped, beyond its metrics; on one split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operating_points: dict[str, OperatingPoint | None]
    """By name of a class that the split has objects of; None where the detector found none of them."""
    precision_recall: dict[str, tuple[float, ...]]
    """Precision at the recalls 0, 0.01 .. 1, mean over the classes, by the metric that is its mean: at the overlaps of
    `AP50` and `AP75`, and over those of `AP`."""
    confusion: Confusion
    calibration: Calibration


class Scores(BaseModel):
    """The scores of one detector on a split; as in `ModelReport`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: dict[str, float]
    per_class: dict[str, float]
    per_class_voc: dict[str, dict[str, float]] = {}
    assessment: Assessed | None = None


class ModelReport(BaseModel):
    """One detector in a report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    backbone: str
    parameters: int
    gflops: float
    """Multiply-adds times two, in units of 1e9, for one square picture at the job's image size; of Faster R-CNN with
    as many proposals as it can have."""
    latency_ms: Latency
    metrics: dict[str, float]
    per_class: dict[str, float]
    """AP by class name; -1 where the split has no such object."""
    per_class_voc: dict[str, dict[str, float]] = {}
    """AP50 by class name for `VOC07` and `VOC12`, likewise."""
    assessment: Assessed | None = None
    """Thresholds, curves, confusions and calibration; None in an export job and in reports of older versions."""
    test: Scores | None = None
    """The same on the test split, of a job that trains and whose data have one."""
    file: str | None = None
    sha256: str | None = None
    size: int | None = None
    """Bytes of the published file; of a model that the job did not write, of its weights."""


class Gain(BaseModel):
    """What distillation gained over the control: student minus control, on the same pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ap: float
    ap50: float
    ap_low: float
    """Lower end of the 95 % interval of the AP difference, by a paired bootstrap over pictures."""
    ap_high: float
    verdict: str
    """One sentence that says whether the gain is significant."""

    def __str__(self) -> str:
        """Return the difference in AP with its interval, for people."""
        return f"{self.ap:+.3f} AP (95 % interval {self.ap_low:+.3f} to {self.ap_high:+.3f})"


class ExportCheck(BaseModel):
    """An exported network against torch, on pictures of the validation split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: int
    detections: int
    """Found by both, so compared."""
    largest_box_difference: float
    """Of any coordinate, in pixels of the resized picture."""
    largest_score_difference: float
    decided_otherwise: int
    """Detections that rounding decides: at the score threshold, or between two boxes that tie. Not compared."""


ROLES = ("teacher", "control", "student", "model", "onnx")
"""The models of a report, in the order in which they are shown."""


def in_order(roles: Iterable[str]) -> list[str]:
    """Return the roles of models in the order in which they are shown; unknown ones are the last."""
    return sorted(roles, key=lambda role: ROLES.index(role) if role in ROLES else len(ROLES))


class Report(_Event):
    """The end of a job: the models side by side."""

    kind: Literal["report"] = "report"
    file: str = "report.json"
    models: dict[str, ModelReport]
    """By role: "model", or "teacher", "control" and "student", or "model" and "onnx"; none in a prototypes job."""
    gain: Gain | None = None
    """On the validation split; None without a control."""
    gain_on_test: Gain | None = None
    """The same on the test split; None without one."""
    export: ExportCheck | None = None
    """Of an export job."""
    split: SplitName = "val"
    """What `metrics` of the models are measured on."""
    pictures: dict[SplitName, int] = Field(default_factory=dict)
    """Number of images of each split that was scored."""
    headline: tuple[str, ...] = ("AP", "AP50", "AP75")
    """The metrics to show first."""
    notes: tuple[str, ...] = ()
    """Notes that a reader needs to interpret the numbers."""
    figures: tuple[str, ...] = ()
    """Files with pictures that the job drew."""


class FileWritten(_Event):
    """A file for people or programs that is no model: a chart, a gallery, an exported network."""

    kind: Literal["file"] = "file"
    run: str
    """The training that it belongs to, or "job"."""
    file: FileName
    """Name inside the run directory, also the artifact's name."""
    title: str
    """What it shows, in a sentence."""
    size: int
    """Bytes."""
    sha256: str


class Warning(_Event):
    """A warning for people; the job continues."""

    kind: Literal["warning"] = "warning"
    message: str
    hint: str = ""


Event = Annotated[
    Progress | PrototypesSelected | Evaluation | Checkpoint | FileWritten | Report | Warning,
    Field(discriminator="kind"),
]
events: TypeAdapter[Event] = TypeAdapter(Event)
"""Reads and writes events: `events.validate_json(line)`, `event.model_dump_json()`."""
