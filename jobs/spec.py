"""What a person asks for: the job spec, and how it becomes something that can run.

`job_spec` says whether a spec is well formed. `resolve` says whether it can be carried out here and now: it makes
paths absolute, checks the data set, looks up the jobs that weights come from, and names everything that is wrong
at once. What comes out of it, a `Resolved`, goes into the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from gkd_core.config import (
    DataConfig,
    DetectorConfig,
    DistillConfig,
    DistillRun,
    Split,
    Strict,
    TeacherConfig,
    TrainConfig,
    TrainRun,
)
from gkd_core.data.check import DataReport, check
from gkd_core.errors import DataError, Problem, SpecError
from jobs.job import Job
from jobs.origins import Origin, find_origin
from jobs.places import PlaceError, Places


def _printable(text: str) -> str:
    """Names and tags are shown in tables and searched for: control characters have no place there."""
    if not text.isprintable():
        raise ValueError(f"{text!r} holds characters that cannot be printed")
    return text


def _plain(key: str) -> str:
    if not key.replace("-", "").replace("_", "").replace(".", "").isalnum() or not key.isascii():
        raise ValueError(f"the tag {key!r} may hold letters, digits and - _ . only")
    return key


Name = Annotated[str, Field(max_length=100), AfterValidator(_printable)]
TagKey = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_plain)]
TagValue = Annotated[str, Field(max_length=200), AfterValidator(_printable)]


class Resources(Strict):
    """What a worker must have to run the job."""

    gpus: int = Field(default=0, ge=0, le=1)
    """0 trains on the CPU, 1 on a GPU. 0 by default: it works everywhere."""


class JobFields(Strict):
    """What every kind of job has."""

    name: Name = ""
    """For people, need not be unique; empty: made from kind and id."""
    tags: dict[TagKey, TagValue] = Field(default={}, max_length=32)
    """Free labels such as `{"team": "lab"}`; jobs can be listed by them."""
    priority: int = Field(default=5, ge=0, le=9)
    """9 goes first, 0 last; equals run in the order they came."""
    resources: Resources = Resources()
    """What a worker must have."""


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
    """What to learn from: a folder, or both splits spelt out."""
    model: DetectorConfig = DetectorConfig()
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
    """What to learn from: a folder, or both splits spelt out."""
    teacher: TeacherConfig
    """Who teaches: weights are `job:<id>` or a path under a data root."""
    student: DetectorConfig = DetectorConfig()
    """The detector that people get."""
    distill: DistillConfig = DistillConfig()
    """What is distilled, and how strongly."""
    train: TrainConfig = TrainConfig()
    """The recipe, shared by student and control."""


Kind = Literal["train", "distill"]
"""Every kind of job that there is."""
JobSpec = Annotated[TrainSpec | DistillSpec, Field(discriminator="kind")]
job_spec: TypeAdapter[TrainSpec | DistillSpec] = TypeAdapter(JobSpec)
"""Reads a spec: `job_spec.validate_json(text)`; its JSON Schema: `job_spec.json_schema()`."""


class Resolved(BaseModel):
    """A spec that can be carried out: paths absolute, data checked, weights looked up."""

    model_config = ConfigDict(frozen=True)

    config: TrainRun | DistillRun = Field(discriminator="kind")
    """What the engine gets, except that `job:<id>` still stands in weights until the job has run."""
    waits_for: tuple[str, ...] = ()
    """Jobs that must succeed first."""
    warnings: tuple[str, ...] = ()
    """What a person should know and that stops nothing."""
    report: DataReport | None = None
    """What was found in the data set."""


def resolve(
    spec: TrainSpec | DistillSpec,
    *,
    roots: Sequence[Path],
    find_job: Callable[[str], Job | None],
    confined: bool = True,
) -> Resolved:
    """Find out whether a spec can be carried out here and now.

    Args:
        spec: A well-formed spec.
        roots: Folders under which relative paths are looked up, in order.
        find_job: Gives a job by id, None where there is none.
        confined: Whether paths must stay under the roots; False only for a person on the own machine.

    Raises:
        SpecError: it cannot; `problems` names every field that is wrong, not only the first.
    """
    return _Resolving(Places(roots, confined=confined), find_job).resolve(spec)


HEADERS = 2000
"""Pictures whose header is read before a job is accepted: a second or two. The engine reads them all."""

Loc = tuple[str | int, ...]


class _Resolving:
    """One resolution: collects problems instead of stopping at the first."""

    def __init__(self, places: Places, find_job: Callable[[str], Job | None]) -> None:
        self.places = places
        self.find_job = find_job
        self.problems: list[Problem] = []
        self.waits_for: list[str] = []
        self.remarks: list[str] = []

    def resolve(self, spec: TrainSpec | DistillSpec) -> Resolved:
        report = self._data(spec.data)
        classes = report.classes if report else None
        if isinstance(spec, TrainSpec):
            model = self._detector(spec.model, "model", classes)
        else:
            teacher = self._teacher(spec, classes)
            student = self._detector(spec.student, "student", classes)
        if self.problems or report is None:
            raise SpecError(self.problems)
        device: Literal["cpu", "cuda"] = "cuda" if spec.resources.gpus else "cpu"
        config: TrainRun | DistillRun
        if isinstance(spec, TrainSpec):
            config = TrainRun(data=report.resolved, model=model, train=spec.train, device=device)
        else:
            config = DistillRun(
                data=report.resolved,
                teacher=teacher,
                student=student,
                distill=spec.distill,
                train=spec.train,
                device=device,
            )
        return Resolved(
            config=config,
            waits_for=tuple(dict.fromkeys(self.waits_for)),
            warnings=(*(warning.message for warning in report.warnings), *self.remarks),
            report=report,
        )

    # ---- data ----

    def _data(self, data: DataConfig) -> DataReport | None:
        before = len(self.problems)
        placed = data.model_copy(
            update={
                "path": self._place(data.path, ("data", "path")),
                "train": self._split(data.train, ("data", "train")),
                "val": self._split(data.val, ("data", "val")),
            }
        )
        if len(self.problems) > before:
            return None
        try:
            report = check(placed, headers=HEADERS)
        except DataError as error:
            self.problems += error.problems
            return None
        except OSError as error:
            hint = "Look at that disk or network, then send the same again."
            self.problems.append(Problem(loc=("data",), message=f"cannot be read now: {error}", hint=hint))
            return None
        self._must_stay(report.resolved)
        return report

    def _split(self, split: Split | None, loc: Loc) -> Split | None:
        if split is None:
            return None
        return split.model_copy(
            update={
                field: self._place(getattr(split, field), (*loc, field))
                for field in ("images", "annotations", "names")
            }
        )

    def _place(self, text: str | None, loc: Loc) -> str | None:
        if text is None:
            return None
        try:
            return str(self.places.find(text))
        except PlaceError as error:
            self._refuse(loc, error)
            return None

    def _must_stay(self, data: DataConfig) -> None:
        """Folders that were found inside a given one may still be links that lead out."""
        for split in filter(None, (data.train, data.val)):
            for path in filter(None, (split.images, split.annotations, split.names)):
                try:
                    self.places.must_allow(Path(path))
                except PlaceError as error:
                    self._refuse(("data",), error)

    # ---- weights ----

    def _teacher(self, spec: DistillSpec, classes: Iterable[str] | None) -> TeacherConfig:
        teacher = spec.teacher
        wanted = {field: getattr(teacher, field) for field in ("architecture", "backbone", "layout", "classes")}
        origin = self._origin(teacher.weights, "teacher", wanted, classes)
        if origin is None:
            return teacher
        if origin.detector is not None:
            self._must_be_comparable(spec, origin.detector)
        return teacher.model_copy(update={"weights": origin.weights})

    def _must_be_comparable(self, spec: DistillSpec, teacher: DetectorConfig) -> None:
        """The engine would refuse it too, but only once the teacher is there."""
        student = spec.student.architecture
        if spec.distill.response.weight and student != teacher.architecture:
            message = (
                f"the scores of a {student} student and a {teacher.architecture} teacher cannot be compared"
            )
            hint = "Set distill.response.weight to 0, or use one architecture for both."
            self.problems.append(Problem(loc=("distill", "response", "weight"), message=message, hint=hint))

    def _detector(self, model: DetectorConfig, role: str, classes: Iterable[str] | None) -> DetectorConfig:
        if model.weights is None:
            return model
        fields = DetectorConfig.model_fields.keys() - {"weights", "norm", "frozen_stages"}
        wanted = {field: getattr(model, field) for field in sorted(fields)}
        origin = self._origin(model.weights, role, wanted, None)
        if origin and classes and (remark := origin.other_classes(classes)):
            self.remarks.append(remark)
        return model.model_copy(update={"weights": origin.weights}) if origin else model

    def _origin(
        self, text: str, role: str, wanted: dict[str, object], classes: Iterable[str] | None
    ) -> Origin | None:
        """Where weights come from, as the engine (for `job:<id>`: the worker) will look them up."""
        try:
            origin = find_origin(text, self.places, self.find_job)
        except PlaceError as error:
            self._refuse((role, "weights"), error)
            return None
        if origin.job_id:
            self.waits_for.append(origin.job_id)
        self.problems += origin.differences(role, wanted, classes)
        return origin

    def _refuse(self, loc: Loc, error: PlaceError) -> None:
        self.problems.append(Problem(loc=loc, message=error.message, hint=error.hint))
