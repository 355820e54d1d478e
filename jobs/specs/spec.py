"""What a person asks for: one job spec a kind. `job_spec` says whether a spec is well formed.

Whether it can be carried out here and now is found out in `jobs.specs.resolve`; what comes out of that, a `Resolved`,
goes into the store.
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
    EvaluateConfig,
    ExportConfig,
    PrototypesRunConfig,
    Strict,
    TeacherConfig,
    TrainConfig,
    require_beginning,
)
from gkd_core.data.check import DataReport
from jobs.names import VISIBLE, Name, not_blank, printable


def _plain(key: str) -> str:
    if not key.replace("-", "").replace("_", "").replace(".", "").isalnum() or not key.isascii():
        raise ValueError(f"the tag {key!r} may hold letters, digits and - _ . only")
    return key


MOST_TAGS = 32
"""Of one job."""

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
    """0 works on the CPU, which everybody has. More than 1: `train` and `distill` train on all of them at once; the
    other kinds use one at most."""


class JobFields(Strict):
    """What every kind of job has."""

    name: Name = ""
    """For people, need not be unique; empty: made from kind and id."""
    tags: dict[TagKey, TagValue] = Field(default={}, max_length=MOST_TAGS)
    """Free labels such as `{"team": "lab"}`; jobs can be listed by them."""
    priority: int = Field(default=5, ge=0, le=9)
    """9 goes first, 0 last; equals run in the order they came."""
    resources: Resources = Resources()
    """What a worker must have."""


class JobChange(Strict):
    """What can be changed of a job, as a JSON merge patch (RFC 7396): null takes away, what is not named stays."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "cells-r18-again", "tags": {"team": "lab", "old": None}}]}
    )

    name: Name | None = None
    """Null or empty: made from kind and id."""
    tags: dict[TagKey, TagValue | None] | None = Field(default=None, max_length=64)
    """Null takes a tag away; null instead of the object takes away all."""
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
    """Tells the kinds of jobs apart."""
    data: DataConfig
    """What to learn from: a folder, `dataset:<id>`, or its splits spelt out."""
    model: DetectorToTrain = DetectorConfig()
    """The detector to train."""
    train: TrainConfig = TrainConfig()
    """The training recipe."""


class DistillSpec(JobFields):
    """Distil a teacher into a student, with a control that says what it gained."""

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
    """Tells the kinds of jobs apart."""
    data: DataConfig
    """What to learn from: a folder, `dataset:<id>`, or its splits spelt out."""
    teacher: TeacherConfig
    """Who teaches: weights are `job:<id>`, `model:<id>`, a path under a data root, or torchvision's name."""
    student: DetectorToTrain = DetectorConfig()
    """The detector that people get."""
    distill: DistillConfig = DistillConfig()
    """What is distilled, and how strongly."""
    train: TrainConfig = TrainConfig()
    """The recipe, shared by student and control."""

    @model_validator(mode="after")
    def _distils_at_all(self) -> DistillSpec:
        require_beginning(self.distill, self.train)
        return self


class EvaluateSpec(JobFields):
    """Score a model on one split: COCO's numbers, size and latency, in a report."""

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
    """Tells the kinds of jobs apart."""
    data: DataConfig
    """What to score on: a folder, `dataset:<id>`, or its splits spelt out, of which one is enough. Classes are matched
    by name."""
    model: TeacherConfig
    """What is scored: weights are `job:<id>`, `model:<id>`, a path under a data root, or torchvision's name."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """How."""


class PrototypesSpec(JobFields):
    """PGM alone: choose the prototypes of a teacher and a student, to look at them. Nothing is trained."""

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
    """Tells the kinds of jobs apart."""
    data: DataConfig
    """Whose training split they are chosen from: a folder, `dataset:<id>`, or its splits spelt out."""
    teacher: TeacherConfig
    """One feature space: weights are `job:<id>`, `model:<id>`, a path under a data root, or torchvision's name."""
    student: TeacherConfig
    """The other one: a trained model too, named in the same ways."""
    prototypes: PrototypesRunConfig = PrototypesRunConfig()
    """How they are chosen."""


class ExportSpec(JobFields):
    """Turn a model into ONNX, and check the file against the model on pictures of the validation split."""

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
    """Tells the kinds of jobs apart."""
    data: DataConfig
    """Whose validation pictures the file is checked on: a folder, `dataset:<id>`, or its splits spelt out."""
    model: TeacherConfig
    """What is exported: weights are `job:<id>`, `model:<id>`, a path under a data root, or torchvision's name."""
    export: ExportConfig = ExportConfig()
    """Into what, and how exactly."""


Kind = Literal["train", "distill", "evaluate", "prototypes", "export"]
"""Every kind of job that there is."""
AnySpec = TrainSpec | DistillSpec | EvaluateSpec | PrototypesSpec | ExportSpec
JobSpec = Annotated[AnySpec, Field(discriminator="kind")]
job_spec: TypeAdapter[AnySpec] = TypeAdapter(JobSpec)
"""Reads a spec: `job_spec.validate_json(text)`; its JSON Schema: `job_spec.json_schema()`."""


def merged(value: Any, patch: Any) -> Any:
    """A value changed by a JSON merge patch (RFC 7396)."""
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
    """What the engine gets, except that `job:<id>`, `model:<id>` and `dataset:<id>/` still stand where a worker puts
    the file or the folder."""
    waits_for: tuple[str, ...] = ()
    """Jobs that must succeed first."""
    uses: tuple[str, ...] = ()
    """Registered data sets and models that it needs."""
    warnings: tuple[str, ...] = ()
    """What a person should know and that stops nothing."""
    report: DataReport | None = None
    """What was found in the data set."""
