"""Job specs, one model per kind. `job_spec` checks whether a spec is well formed.

Whether it can be carried out here and now is checked by `jobs.specs.resolve`; the result, a `Resolved`, goes
into the store.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from gkd_core.config import (
    AnyRun,
    DataConfig,
    DetectorConfig,
    DetectorToTrain,
    DistillConfig,
    DistillTeacher,
    EvaluateConfig,
    ExportConfig,
    PrototypesRunConfig,
    Strict,
    StudentConfig,
    StudentToTrain,
    TeacherConfig,
    TrainConfig,
    require_beginning,
    require_whole_zoom,
)
from gkd_core.data.check import DataReport
from jobs.names import VISIBLE, Name, not_blank, printable


def _plain(key: str) -> str:
    if not key.replace("-", "").replace("_", "").replace(".", "").isalnum() or not key.isascii():
        raise ValueError(f"the tag {key!r} may hold letters, digits and - _ . only")
    return key


MOST_TAGS = 32
"""Maximum number of tags of one job."""

TagKey = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        json_schema_extra={"pattern": r"^[A-Za-z0-9._-]*[A-Za-z0-9][A-Za-z0-9._-]*$"},
    ),
    AfterValidator(_plain),
]
TagValue = Annotated[
    str,
    Field(max_length=200, json_schema_extra=VISIBLE),
    AfterValidator(printable),
    AfterValidator(not_blank),
]


class Resources(Strict):
    """What a worker must have to run the job."""

    gpus: int = Field(default=0, ge=0, le=8)
    """0 runs on the CPU, which every worker has. More than 1: `train` and `distill` train on all of them at
    once; the other kinds use at most one."""


class JobFields(Strict):
    """Fields of every kind of job."""

    name: Name = ""
    """Name for people, need not be unique; empty: made from kind and id."""
    tags: dict[TagKey, TagValue] = Field(default={}, max_length=MOST_TAGS)
    """Free labels such as `{"team": "lab"}`; lists of jobs can be filtered by them."""
    priority: int = Field(default=5, ge=0, le=9)
    """9 runs first, 0 last; equal priorities run in order of arrival."""
    resources: Resources = Resources()
    """What a worker must have."""


class JobChange(Strict):
    """Changes to a job, as a JSON merge patch (RFC 7396): null removes, absent fields stay as they are."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "cells-r18-again", "tags": {"team": "lab", "old": None}}]}
    )

    name: Name | None = None
    """Null or empty: made from kind and id."""
    tags: dict[TagKey, TagValue | None] | None = Field(default=None, max_length=64)
    """Null removes a tag; null instead of the object removes all."""
    priority: int | None = Field(default=None, ge=0, le=9)
    """Only while the job is queued."""


class TrainSpec(JobFields):
    """Train one detector: a teacher, or a plain student."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "train",
                    "name": "cells-teacher",
                    "data": "bccd",
                    "model": {"architecture": "fcos", "backbone": "resnet50"},
                    "train": {"epochs": 30, "image_size": 320},
                }
            ]
        }
    )

    kind: Literal["train"]
    """The kind of the job."""
    data: DataConfig
    """The training data: a folder, `dataset:<id>`, or its splits."""
    model: DetectorToTrain = DetectorConfig()
    """The detector to train."""
    train: TrainConfig = TrainConfig()
    """The training recipe."""


class DistillSpec(JobFields):
    """Distil a teacher into a student, with a control that measures the gain."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "distill",
                    "name": "cells-r18",
                    "data": "bccd",
                    "teacher": {"weights": "job:4f1c0a9be27d"},
                    "student": {"architecture": "fcos", "backbone": "resnet18"},
                    "distill": {"prototypes": {"per_class": 10}, "control": True},
                    "train": {"epochs": 30, "image_size": 320},
                }
            ]
        }
    )

    kind: Literal["distill"]
    """The kind of the job."""
    data: DataConfig
    """The training data: a folder, `dataset:<id>`, or its splits."""
    teacher: DistillTeacher
    """The teacher: weights are `job:<id>`, `model:<id>`, a path under a data root, or torchvision's name."""
    student: StudentToTrain = StudentConfig()
    """The detector to train."""
    distill: DistillConfig = DistillConfig()
    """What is distilled, and with which weights."""
    train: TrainConfig = TrainConfig()
    """The training recipe of both student and control."""

    @model_validator(mode="after")
    def _distils_at_all(self) -> DistillSpec:
        require_beginning(self.distill, self.train)
        require_whole_zoom(self.teacher, self.train)
        return self


class EvaluateSpec(JobFields):
    """Evaluate a model on one split: COCO metrics, size and latency, in a report."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "evaluate",
                    "name": "cells-r18-at-640",
                    "data": "bccd",
                    "model": {"weights": "job:4f1c0a9be27d"},
                    "evaluate": {"image_size": 640},
                }
            ]
        }
    )

    kind: Literal["evaluate"]
    """The kind of the job."""
    data: DataConfig
    """The evaluation data: a folder, `dataset:<id>`, or its splits, of which one is enough. Classes are
    matched by name."""
    model: TeacherConfig
    """The model to evaluate: weights are `job:<id>`, `model:<id>`, a path under a data root, or
    torchvision's name."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """How the model is evaluated."""


class PrototypesSpec(JobFields):
    """PGM alone: choose the prototypes of a teacher and a student, to inspect them. Nothing is trained."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "prototypes",
                    "name": "cells-prototypes",
                    "data": "bccd",
                    "teacher": {"weights": "job:4f1c0a9be27d"},
                    "student": {"weights": "job:9d02be6617ac"},
                    "prototypes": {"per_class": 10, "selection": "orthogonal"},
                }
            ]
        }
    )

    kind: Literal["prototypes"]
    """The kind of the job."""
    data: DataConfig
    """The data whose training split they are chosen from: a folder, `dataset:<id>`, or its splits."""
    teacher: TeacherConfig
    """The first feature space: weights are `job:<id>`, `model:<id>`, a path under a data root, or
    torchvision's name."""
    student: TeacherConfig
    """The second feature space: a trained model too, named in the same ways."""
    prototypes: PrototypesRunConfig = PrototypesRunConfig()
    """How the prototypes are chosen."""


class ExportSpec(JobFields):
    """Export a model to ONNX, and compare the file with the model on pictures of the validation split."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "export",
                    "name": "cells-r18-onnx",
                    "data": "bccd",
                    "model": {"weights": "job:4f1c0a9be27d"},
                    "export": {"format": "onnx", "check_pictures": 20},
                }
            ]
        }
    )

    kind: Literal["export"]
    """The kind of the job."""
    data: DataConfig
    """The data whose validation pictures the file is checked on: a folder, `dataset:<id>`, or its splits."""
    model: TeacherConfig
    """The model to export: weights are `job:<id>`, `model:<id>`, a path under a data root, or torchvision's
    name."""
    export: ExportConfig = ExportConfig()
    """Format and tolerance of the export."""


Kind = Literal["train", "distill", "evaluate", "prototypes", "export"]
"""The kinds of jobs."""
AnySpec = TrainSpec | DistillSpec | EvaluateSpec | PrototypesSpec | ExportSpec
JobSpec = Annotated[AnySpec, Field(discriminator="kind")]
job_spec: TypeAdapter[AnySpec] = TypeAdapter(JobSpec)
"""Parses a spec: `job_spec.validate_json(text)`; its JSON Schema: `job_spec.json_schema()`."""


def merged(value: Any, patch: Any) -> Any:
    """Return a value changed by a JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), change)
    return result


class Resolved(BaseModel):
    """A spec that can be carried out: paths absolute, data checked, weights looked up."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    config: AnyRun = Field(discriminator="kind")
    """The engine's config, except that `job:<id>`, `model:<id>` and `dataset:<id>/` stand for files and
    folders that a worker fills in."""
    waits_for: tuple[str, ...] = ()
    """Jobs that must succeed first."""
    uses: tuple[str, ...] = ()
    """Registered data sets and models that it needs."""
    warnings: tuple[str, ...] = ()
    """Warnings for users."""
    report: DataReport | None = None
    """What was found in the data set."""
