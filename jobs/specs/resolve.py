"""Resolution of a spec into an engine config: `resolve` checks whether it can be carried out here and now.

It makes paths absolute, checks the data set, looks up the jobs and files that weights come from, fills in what
was left open, and reports all problems at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gkd_core.config import (
    Architecture,
    DetectorConfig,
    DistillConfig,
    EvaluateConfig,
    TeacherConfig,
    finest_anchor,
    incomparable_scores,
    inheritance_problems,
    response_weight,
    run_config,
    settled_losses,
    zoom_of,
    zoomed_scores,
)
from gkd_core.data.check import DataReport
from gkd_core.errors import Problem, SpecError
from jobs.paths.data_roots import DataRootError, DataRoots
from jobs.resources import CheckedResource, ResourceKind
from jobs.specs.resolve_data import DataResolution, Findings
from jobs.specs.spec import (
    AnySpec,
    DistillSpec,
    EvaluateSpec,
    ExportSpec,
    PrototypesSpec,
    Resolved,
    TrainSpec,
)
from jobs.specs.weight_sources import FindJob, FindResource, Origin, find_origin
from jobs.uploads.submission_check import HERE, Here, Wanted


def no_resource(kind: ResourceKind, resource_id: str) -> None:
    """Return None: no resource is registered."""


def no_folder(resource: CheckedResource) -> Path:
    """Raise `FileNotFoundError`: nothing was uploaded.

    Raises:
        FileNotFoundError: always.
    """
    raise FileNotFoundError(f"{resource.id} is not there")


def resolve(
    spec: AnySpec,
    *,
    roots: Sequence[Path],
    find_job: FindJob,
    find_resource: FindResource = no_resource,
    unpacked: Callable[[CheckedResource], Path] = no_folder,
    confined: bool = True,
    look: Here = HERE,
) -> Resolved:
    """Resolve a spec into the engine's config, or raise all its problems.

    Args:
        spec: A well-formed spec.
        roots: Folders against which relative paths are resolved, in order.
        find_job: Returns a job by id, None if there is none.
        find_resource: Returns a data set or model by kind and id, None if there is none.
        unpacked: Returns the folder of an uploaded data set.
        confined: Whether paths must stay under the roots; False only for a user of the local machine.
        look: Inspects data and weights; large ones perhaps in another process.

    Raises:
        SpecError: it cannot be carried out; `problems` names every wrong field, not only the first.
    """
    places = DataRoots(roots, confined=confined)
    return _Resolving(places, find_job, find_resource, unpacked, look).resolve(spec)


MOST_GPUS = {"train": 8, "distill": 8, "evaluate": 1, "prototypes": 1, "export": 0}
"""Maximum number of GPUs by kind of job."""
DECLARED = ("architecture", "backbone", "layout", "classes")
"""Fields of a trained model that a spec may declare."""

AnyTeacher = TypeVar("AnyTeacher", bound=TeacherConfig)
Classes = Iterable[str] | None


class _Resolving:
    """One resolution, which collects problems instead of stopping at the first."""

    def __init__(
        self,
        places: DataRoots,
        find_job: FindJob,
        find_resource: FindResource,
        unpacked: Callable[[CheckedResource], Path],
        look: Here,
    ) -> None:
        self.places = places
        self.find_job = find_job
        self.find_resource = find_resource
        self.look = look
        self.found = Findings()
        self.data = DataResolution(places, find_resource, unpacked, look, self.found)

    def resolve(self, spec: AnySpec) -> Resolved:
        self._check_gpus(spec)
        report = self.data.check(spec.data, _wanted(spec))
        fields = self._fields(spec, report)
        if self.found.problems or report is None:
            raise SpecError(self.found.problems)
        self._compare_batch(spec, report)
        fingerprint = self.data.fingerprint(report.resolved)
        device = "cuda" if spec.resources.gpus else "cpu"
        config = run_config.validate_python(
            {
                "kind": spec.kind,
                "data": report.resolved,
                "device": device,
                "data_fingerprint": fingerprint,
                **fields,
            }
        )
        return Resolved(
            config=config,
            waits_for=tuple(dict.fromkeys(self.found.waits_for)),
            uses=tuple(dict.fromkeys(self.found.uses)),
            warnings=(*(warning.message for warning in report.warnings), *self.found.remarks),
            report=report,
        )

    def _fields(self, spec: AnySpec, report: DataReport | None) -> dict[str, Any]:
        """Return the fields of this kind's config besides data and device."""
        classes = report.classes if report else None
        match spec:
            case TrainSpec():
                return {"model": self._detector(spec.model, "model", classes)} | _training(spec)
            case DistillSpec():
                return self._distillation(spec, classes) | _training(spec)
            case EvaluateSpec():
                evaluate = _with_split(spec.evaluate, report)
                return {"model": self._scored(spec.model, classes), "evaluate": evaluate}
            case PrototypesSpec():
                teacher, _ = self._trained(spec.teacher, "teacher", classes)
                student, _ = self._trained(spec.student, "student", None)
                return {"teacher": teacher, "student": student, "prototypes": spec.prototypes}
            case ExportSpec():
                model, _ = self._trained(spec.model, "model", None)
                return {"model": model, "export": spec.export}

    # ---- resources ----

    def _check_gpus(self, spec: AnySpec) -> None:
        gpus, most = spec.resources.gpus, MOST_GPUS[spec.kind]
        if gpus > most:
            where = "on the CPU only" if most == 0 else "with one GPU at most"
            self.found.add_problem(
                ("resources", "gpus"), f"`{spec.kind}` works {where}", f"Set it to {most}."
            )
        elif isinstance(spec, TrainSpec | DistillSpec) and gpus > 1:
            self._check_shares(spec, gpus)

    def _check_shares(self, spec: TrainSpec | DistillSpec, gpus: int) -> None:
        """Check that the batch divides evenly among GPUs; otherwise the mean over GPUs is not that of the batch."""
        pictures = spec.train.batch_size // spec.train.accumulate
        if pictures % gpus:
            message = f"{pictures} pictures at a time cannot be shared out evenly to {gpus} GPUs"
            hint = f"Take a multiple of {gpus * spec.train.accumulate}, or another number of GPUs."
            self.found.add_problem(("train", "batch_size"), message, hint)

    def _compare_batch(self, spec: AnySpec, report: DataReport) -> None:
        """Warn if a batch is larger than the training split."""
        pictures = report.train.images if report.train else 0
        if not isinstance(spec, TrainSpec | DistillSpec) or spec.train.batch_size <= pictures:
            return
        self.found.remarks.append(
            f"train.batch_size is {spec.train.batch_size}, and there are only {pictures} pictures to learn from: each "
            f"epoch is one step over all {pictures}; with a smaller batch_size it has more steps"
        )

    # ---- models ----

    def _detector(self, model: DetectorConfig, role: str, classes: Classes) -> DetectorConfig:
        """Return a detector to train, with the weights it starts from, if any, looked up."""
        if model.weights is None:
            return model
        fields = DetectorConfig.model_fields.keys() - {"weights", "norm", "frozen_stages"}
        wanted = {field: getattr(model, field) for field in sorted(fields)}
        origin = self._origin(model.weights, role, wanted, None)
        if origin and classes and (remark := origin.other_classes(classes)):
            self.found.remarks.append(remark)
        return model.model_copy(update={"weights": origin.weights}) if origin else model

    def _trained(self, model: AnyTeacher, role: str, classes: Classes) -> tuple[AnyTeacher, Origin | None]:
        """Return a trained model and its origin; it must know `classes`."""
        wanted = {field: getattr(model, field) for field in DECLARED}
        origin = self._origin(model.weights, role, wanted, classes)
        return (model.model_copy(update={"weights": origin.weights}), origin) if origin else (model, None)

    def _scored(self, model: TeacherConfig, classes: Classes) -> TeacherConfig:
        """Return a model to evaluate, which may lack some of the classes, but not all."""
        placed, origin = self._trained(model, "model", None)
        known = (origin.classes if origin else None) or model.classes
        wanted = tuple(classes or ())
        if known is None or not (missing := [name for name in wanted if name not in known]):
            return placed
        if len(missing) == len(wanted):
            message = f"the model knows none of the classes {', '.join(wanted)}; it knows {', '.join(known)}"
            hint = "Classes are matched by name; data.rename gives them other names."
            self.found.add_problem(("model", "weights"), message, hint)
        else:
            self.found.remarks.append(f"the model does not know {', '.join(missing)}, whose AP counts as 0")
        return placed

    def _distillation(self, spec: DistillSpec, classes: Classes) -> dict[str, Any]:
        teacher, origin = self._trained(spec.teacher, "teacher", classes)
        student = self._detector(spec.student, "student", classes)
        if origin and origin.detector:
            self.found.problems += inheritance_problems(spec.student, origin.detector)
        distill = self._settled(spec, origin)
        return {"teacher": teacher, "student": student, "distill": distill}

    def _settled(self, spec: DistillSpec, teacher: Origin | None) -> DistillConfig:
        """Return the distillation config with the weights set that were left to us.

        That of the response loss is 0 if the scores of the two heads are not comparable.

        The engine would find that out too, but only once the teacher exists.
        """
        response = spec.distill.response
        problem = _incomparable(spec, teacher)
        try:
            weight = response_weight(spec.distill, problem)
            losses = settled_losses(spec.distill.losses, spec.student.architecture, problem)
        except SpecError as error:
            self.found.problems += error.problems
            return spec.distill
        if problem and response.weight == "auto":
            self.found.remarks.append(f"distill.response.weight is 0: {problem.message}")
        settled = response.model_copy(update={"weight": weight})
        return spec.distill.model_copy(update={"response": settled, "losses": losses})

    def _origin(self, text: str, role: str, wanted: dict[str, object], classes: Classes) -> Origin | None:
        """Return the origin of weights, as the engine (for `job:<id>`: the worker) will look them up.

        None with a problem.
        """
        try:
            with self.places.reading():
                origin = find_origin(text, self.places, self.find_job, self.find_resource, self.look.card)
        except DataRootError as error:
            self.found.add_error((role, "weights"), error)
            return None
        if origin.job_id:
            self.found.waits_for.append(origin.job_id)
        if origin.resource_id:
            self.found.uses.append(origin.resource_id)
        if origin.remark:
            self.found.remarks.append(origin.remark)
        self.found.problems += origin.differences(role, wanted, classes)
        return origin


def _wanted(spec: AnySpec) -> Wanted:
    """Return what is wanted of the data besides its annotations: a training, or the scores on a split."""
    if isinstance(spec, TrainSpec | DistillSpec):
        return Wanted(recipe=spec.train)
    if isinstance(spec, EvaluateSpec):
        return Wanted(scored=spec.evaluate.split, certain="split" in spec.evaluate.model_fields_set)
    return Wanted()


def _with_split(evaluate: EvaluateConfig, report: DataReport | None) -> EvaluateConfig:
    """Return the config with the split set to the only existing one, if the default is missing."""
    if report is None or evaluate.split in report.splits:
        return evaluate
    return evaluate.model_copy(update={"split": next(iter(report.splits))})


def _training(spec: TrainSpec | DistillSpec) -> dict[str, Any]:
    return {"train": spec.train, "processes": max(1, spec.resources.gpus)}


def _incomparable(spec: DistillSpec, teacher: Origin | None) -> Problem | None:
    """Return why the scores of student and teacher are not comparable, as far as is known before the teacher exists."""
    if zoomed := zoomed_scores(zoom_of(spec.teacher, spec.train)):
        return zoomed
    family: Architecture | None = spec.teacher.architecture
    anchors = None
    if teacher and teacher.detector:
        family = teacher.detector.architecture
        anchors = _finest_anchors(spec, teacher.detector.layout, teacher.image_size)
    elif spec.teacher.layout:
        anchors = _finest_anchors(spec, spec.teacher.layout, None)
    return incomparable_scores(spec.student.architecture, family, anchors) if family else None


def _finest_anchors(spec: DistillSpec, layout: str, image_size: int | None) -> tuple[float, float] | None:
    """Return the smallest anchor sides of student and teacher in pixels; None if the teacher's are unknown."""
    if image_size is None and layout == "gkd":
        return None
    mine = finest_anchor(spec.student.layout, spec.train.image_size)
    return mine, finest_anchor(layout, image_size or 0)
