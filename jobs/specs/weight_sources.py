"""Sources of weights: a file under a data root, a registered model, the model of another job, or torchvision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel

from gkd_core.config import DetectorConfig, StudentConfig
from gkd_core.detectors.model_card import ModelCard, carries_card, holds_tensors, read_card
from gkd_core.detectors.published import COCO_CLASSES, DETECTORS, backbone_of, is_name
from gkd_core.errors import Problem, SpecError
from jobs.job import Job, State
from jobs.paths.data_roots import DataRootError, DataRoots
from jobs.paths.fingerprint import of_file
from jobs.resources import MODEL, CheckedResource, ResourceKind, ResourceState
from jobs.uploads.submission_check import HERE, has_large_header

JOB = "job:"
"""Prefix of weights in a spec that name a job."""

FindJob = Callable[[str], Job | None]
"""Returns a job by id, None if there is none."""
FindResource = Callable[[ResourceKind, str], CheckedResource | None]
"""Returns a data set or model by id, None if there is none."""
CardOf = Callable[[Path], ModelCard | None]
"""Returns the card of a weights file with a large header, None if it has none."""

PLAIN = (".pth", ".pt", ".safetensors")
"""File types that may contain a plain state dict: only the engine can tell whether it fits."""
_MODEL_FIELD = {"train": "model", "distill": "student"}
"""The field of each kind's config that describes the model it creates."""


@dataclass(frozen=True)
class Origin:
    """A model that weights come from."""

    weights: str
    """An absolute path, `job:<id>`, `model:<id>` (an upload), or torchvision's name."""
    detector: DetectorConfig | None = None
    """None: unknown until the tensors are read, or the weights are those of a backbone only."""
    classes: tuple[str, ...] | None = None
    """In label order; None: unknown, or the weights have no classes."""
    job_id: str | None = None
    """The job that creates the model; None for a file."""
    image_size: int | None = None
    """Longer side of the pictures in training, in pixels; None: unknown."""
    resource_id: str | None = None
    """Id of the registered model."""
    remark: str | None = None
    """A warning about the source for users."""

    def differences(
        self, role: str, wanted: Mapping[str, object], classes: Iterable[str] | None
    ) -> list[Problem]:
        """Return the differences between the model and the spec.

        Args:
            role: The field of the spec that names the model, e.g. "teacher".
            wanted: The detector's fields as in the spec; None: not specified.
            classes: Classes that the model must know; None: any.
        """
        problems = self._missing_classes(role, classes or ())
        if self.detector is None:
            return problems + self._undeclared(role, wanted)
        return problems + [
            Problem(
                loc=(role, field),
                message=f"{self.weights} has {field} {_format_value(seen)}, the spec says {_format_value(value)}",
                hint="Make them equal, or name other weights.",
            )
            for field, value in wanted.items()
            if value is not None and value != (seen := self._known(field))
        ]

    def _known(self, field: str) -> object:
        return self.classes if field == "classes" else getattr(self.detector, field)

    def _undeclared(self, role: str, wanted: Mapping[str, object]) -> list[Problem]:
        """Return the problem of missing declarations for weights without a model card."""
        missing = [field for field, value in wanted.items() if value is None]
        if wanted.get("layout") == "gkd" and "classes" in wanted:  # a model that is used as it is
            message = f"{self.weights} carries no card, and layout 'gkd' leaves widths and anchors open"
            hint = "Use the .safetensors file that a GKD job published."
            return [Problem(loc=(role, "layout"), message=message, hint=hint)]
        if not missing:
            return []
        message = f"{self.weights} is a plain state dict, which says nothing of its {', '.join(missing)}"
        hint = "Declare architecture, backbone, layout and classes (in label order) beside the weights."
        return [Problem(loc=(role, missing[0]), message=message, hint=hint)]

    def _missing_classes(self, role: str, classes: Iterable[str]) -> list[Problem]:
        """Return the problem of classes of the data set that the model does not know."""
        missing = sorted(set(classes) - set(self.classes or classes))
        if not missing:
            return []
        known = ", ".join(sorted(self.classes or ()))
        message = f"{self.weights} does not know {', '.join(missing)}; it knows {known}"
        hint = (
            "Classes are matched by name: train the model on this data set, or use data.rename or data.only."
        )
        return [Problem(loc=(role, "weights"), message=message, hint=hint)]

    def other_classes(self, classes: Iterable[str]) -> str | None:
        """Return a warning about weights whose classes differ from those of the detector that starts from them."""
        if self.classes is None or set(self.classes) == set(classes):
            return None
        known, needed = ", ".join(sorted(self.classes)), ", ".join(sorted(classes))
        return f"{self.weights} knows the classes {known}; for {needed} the last layers of the heads start from scratch"


def find_origin(
    text: str, places: DataRoots, find_job: FindJob, find_resource: FindResource, card_of: CardOf = HERE.card
) -> Origin:
    """Return the origin of the weights that a spec names.

    Raises:
        DataRootError: there is no such job, model or file, or it contains no model.
    """
    if text.startswith(JOB):
        return _job(text.removeprefix(JOB), find_job)
    if text.startswith(MODEL):
        return _model(text.removeprefix(MODEL), places, find_resource, card_of)
    if is_name(text):
        return _published(text)
    return _file(text, places, card_of)


def _file(text: str, places: DataRoots, card_of: CardOf) -> Origin:
    path = places.find(text)
    if not path.is_file():
        hint = (
            "Name a .safetensors or .pth file, job:<id>, model:<id>, or weights that torchvision publishes."
        )
        raise DataRootError(f"{text!r} is no file", hint)
    if has_large_header(path):
        large = card_of(path)
        return Origin(str(path)) if large is None else _carded(path, large)
    if path.suffix in PLAIN and not carries_card(path) and holds_tensors(path):
        return Origin(str(path))
    try:
        card = read_card(path)
    except SpecError as error:
        raise DataRootError(error.problems[0].message, error.problems[0].hint) from None
    return _carded(path, card)


def _carded(path: Path, card: ModelCard) -> Origin:
    return Origin(str(path), card.detector(), card.classes, image_size=card.image_size)


def _job(job_id: str, find_job: Callable[[str], Job | None]) -> Origin:
    job = find_job(job_id)
    if job is None:
        raise DataRootError(f"there is no job {job_id!r}", "List the jobs that there are: gkd jobs.")
    if job.kind not in _MODEL_FIELD:
        raise DataRootError(
            f"job {job_id} is of kind {job.kind}, which makes no model", "Name one that trains."
        )
    if job.state in (State.FAILED, State.CANCELLED):
        raise DataRootError(
            f"job {job_id} is {job.state} and made no model", "Name one that succeeded or runs."
        )
    detector = StudentConfig.model_validate(job.resolved[_MODEL_FIELD[job.kind]])
    classes = tuple(job.resolved["data"]["classes"])
    return Origin(f"{JOB}{job_id}", detector, classes, job_id, job.resolved["train"]["image_size"])


def _model(model_id: str, places: DataRoots, find_resource: FindResource, card_of: CardOf) -> Origin:
    model = ready(find_resource(ResourceKind.MODEL, model_id), ResourceKind.MODEL, model_id)
    if not model.uploaded:
        origin = _file(str(model.path), places, card_of)
        remark = changed_since(model, lambda: of_file(Path(origin.weights)))
        return replace(origin, resource_id=model_id, remark=remark)
    card = (model.report or {}).get("card")
    if card is None:
        return Origin(f"{MODEL}{model_id}", resource_id=model_id)
    known = ModelCard.model_validate(card)
    return Origin(
        f"{MODEL}{model_id}",
        known.detector(),
        known.classes,
        image_size=known.image_size,
        resource_id=model_id,
    )


def ready(resource: CheckedResource | None, kind: ResourceKind, resource_id: str) -> CheckedResource:
    """Return a data set or a model that a spec names, if a job may use it.

    Raises:
        DataRootError: there is none of this id, it was refused, or its check has not finished.
    """
    called = {ResourceKind.DATASET: "data set", ResourceKind.MODEL: "model"}[kind]
    if resource is None:
        raise DataRootError(
            f"there is no {called} {resource_id!r}", f"See which there are: gkd {kind}s list."
        )
    if resource.state is ResourceState.REFUSED:
        hint = f"See the whole of it: gkd {kind}s show {resource_id}."
        raise DataRootError(f"{called} {resource_id} was refused: {resource.reason}", hint)
    if resource.state is ResourceState.CHECKING:
        hint = f"Send the job again when it is ready: gkd {kind}s show {resource_id}."
        raise DataRootError(f"{called} {resource_id} is still being checked", hint)
    return resource


def changed_since(resource: CheckedResource, look: Callable[[], str]) -> str | None:
    """Return a warning if files under a data root have changed since the resource was checked."""
    try:
        same = look() == resource.fingerprint
    except OSError:  # a missing file is reported elsewhere
        return None
    when = resource.checked_at.isoformat(timespec="seconds") if resource.checked_at else "earlier"
    return (
        None if same else f"the files of {resource.kind}:{resource.id} changed since it was checked, {when}"
    )


def _published(name: str) -> Origin:
    if name in DETECTORS:
        return Origin(name, DETECTORS[name], COCO_CLASSES)
    if backbone_of(name) is None:
        hint = (
            f"Detectors are {', '.join(DETECTORS)}; backbones are named like ResNet50_Weights.IMAGENET1K_V2."
        )
        raise DataRootError(f"{name!r} is no name of weights that GKD can use", hint)
    return Origin(name)


def _format_value(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return value.model_dump_json() if isinstance(value, BaseModel) else str(value)
