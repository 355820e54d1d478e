"""The kinds of runs and the settings that only one of them has; `run_config` reads any of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, model_validator

from gkd_core.config.data import DataConfig, SplitName
from gkd_core.config.detector import (
    DetectorConfig,
    DetectorToTrain,
    DistillTeacher,
    StudentConfig,
    StudentToTrain,
    TeacherConfig,
)
from gkd_core.config.distill import DistillConfig, PrototypeChoice, require_beginning, require_whole_zoom
from gkd_core.config.strict import Strict
from gkd_core.config.train import GpuArithmetic, TrainConfig, Workers


class EvaluateConfig(GpuArithmetic):
    """Settings of an evaluation."""

    split: SplitName = "val"
    """The pictures that it is scored on. If it is left out and the data have only one split, that one."""
    image_size: Annotated[int, Field(ge=64, le=4096, multiple_of=32)] | None = None
    """Longer side of the resized picture, in pixels; None: that of the model's training."""
    batch_size: int = Field(default=8, ge=1, le=4096)
    """Pictures at a time."""
    workers: Workers = "auto"
    """Threads that load pictures, as in `train.workers`."""


class ExportConfig(Strict):
    """The format of an export, and how the exported file is checked."""

    format: Literal["onnx"] = "onnx"
    """ONNX runs nearly everywhere."""
    opset: int = Field(default=17, ge=16, le=20)
    """Version of ONNX's operators; 17 is known to every runtime of the last years."""
    check_pictures: int = Field(default=20, ge=1, le=1000)
    """Pictures of the validation split on which the exported network is compared with torch."""
    box_tolerance: float = Field(default=0.5, gt=0)
    """Largest difference of a box coordinate that passes, in pixels."""
    score_tolerance: float = Field(default=1e-3, gt=0)
    """Largest difference of a score that passes."""


class PrototypesRunConfig(PrototypeChoice, GpuArithmetic):
    """PGM alone: how prototypes are chosen, and from which pictures. There are no epochs, so there is no `every`."""

    source: Literal["pass"] = "pass"
    """There are no training steps to take features from."""

    image_size: Annotated[int, Field(ge=64, le=4096, multiple_of=32)] | None = None
    """Longer side of the resized picture, in pixels; None: that of the student's training."""
    batch_size: int = Field(default=8, ge=1, le=4096)
    """Pictures at a time."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Decides which instances are pooled where a class has more than `max_instances`."""


Device = Literal["auto", "cpu", "cuda"]


class _DataRun(Strict):
    """Fields of every run on a data set."""

    data: DataConfig
    data_fingerprint: str | None = None
    """Fingerprint of the annotations when this config was made, to tell whether they changed. Null: unknown."""


class TrainRun(_DataRun):
    """Train one detector: a teacher, or a plain student."""

    kind: Literal["train"] = "train"
    model: DetectorToTrain = DetectorConfig()
    train: TrainConfig = TrainConfig()
    device: Device = "auto"
    processes: int = Field(default=1, ge=1, le=64)
    """How many train together, each on a GPU of its own (on a CPU: for tests)."""


class DistillRun(_DataRun):
    """Distil a teacher into a student, with a control."""

    kind: Literal["distill"] = "distill"
    teacher: DistillTeacher
    student: StudentToTrain = StudentConfig()
    distill: DistillConfig = DistillConfig()
    train: TrainConfig = TrainConfig()
    device: Device = "auto"
    processes: int = Field(default=1, ge=1, le=64)
    """How many train together, each on a GPU of its own (on a CPU: for tests)."""

    @model_validator(mode="after")
    def _distils_at_all(self) -> DistillRun:
        require_beginning(self.distill, self.train)
        require_whole_zoom(self.teacher, self.train)
        return self


class EvaluateRun(_DataRun):
    """Score a model on one split."""

    kind: Literal["evaluate"] = "evaluate"
    model: TeacherConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    device: Device = "auto"


class PrototypesRun(_DataRun):
    """PGM alone: the prototypes of a teacher and a student on the training split, to look at."""

    kind: Literal["prototypes"] = "prototypes"
    teacher: TeacherConfig
    student: TeacherConfig
    prototypes: PrototypesRunConfig = PrototypesRunConfig()
    device: Device = "auto"


class ExportRun(_DataRun):
    """Turn a model into ONNX, and check it on pictures of the validation split."""

    kind: Literal["export"] = "export"
    model: TeacherConfig
    export: ExportConfig = ExportConfig()
    device: Literal["auto", "cpu"] = "auto"
    """The CPU either way: there torch and onnxruntime compute the same."""


AnyRun = TrainRun | DistillRun | EvaluateRun | PrototypesRun | ExportRun
RunConfig = Annotated[AnyRun, Field(discriminator="kind")]
run_config: TypeAdapter[AnyRun] = TypeAdapter(RunConfig)
"""Reads a config: `run_config.validate_json(text)`."""
