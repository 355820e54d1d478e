"""Where weights come from: a model file under a data root, or the model that another job makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from gkd_core.config import DetectorConfig
from gkd_core.errors import Problem, SpecError
from gkd_core.model_card import read_card
from jobs.job import Job, State
from jobs.places import PlaceError, Places

JOB = "job:"
"""What the weights of a spec start with when they name a job."""

_MODEL_FIELD = {"train": "model", "distill": "student"}
"""Where the config of each kind of job describes the model that it makes."""


@dataclass(frozen=True)
class Origin:
    """A model that weights come from."""

    weights: str
    """An absolute path, or `job:<id>`."""
    detector: DetectorConfig
    classes: tuple[str, ...]
    job_id: str | None = None
    """The job that makes the model; None for a file."""

    def differences(
        self, role: str, wanted: Mapping[str, object], classes: Iterable[str] | None
    ) -> list[Problem]:
        """Where the model is not what the spec says.

        Args:
            role: The field of the spec that asks for the model, e.g. "teacher".
            wanted: What the spec says of the detector, by field; None leaves it open.
            classes: Class names of the data set; None: not known, so not compared.
        """
        problems = [
            Problem(
                loc=(role, field),
                message=f"{self.weights} has {field} {_shown(seen)}, the spec says {_shown(value)}",
                hint="Make them equal, or name other weights.",
            )
            for field, value in wanted.items()
            if value is not None and value != (seen := getattr(self.detector, field))
        ]
        if classes is not None and set(classes) != set(self.classes):
            problems.append(self._other_classes(role, classes))
        return problems

    def _other_classes(self, role: str, classes: Iterable[str]) -> Problem:
        known, needed = ", ".join(sorted(self.classes)), ", ".join(sorted(classes))
        return Problem(
            loc=(role, "weights"),
            message=f"{self.weights} knows the classes {known}; the data set has {needed}",
            hint="Classes must agree by name: train the model on this data set, or set data.classes.",
        )


def find_origin(text: str, places: Places, find_job: Callable[[str], Job | None]) -> Origin:
    """Look up what a spec names as weights.

    Raises:
        PlaceError: there is no such job or file, or it makes or holds no model.
    """
    if text.startswith(JOB):
        return _job(text.removeprefix(JOB), find_job)
    path = places.find(text)
    if not path.is_file():
        raise PlaceError(f"{text!r} is no file", "Name a .safetensors file, or a job as job:<id>.")
    try:
        card = read_card(path)
    except SpecError as error:
        raise PlaceError(error.problems[0].message, error.problems[0].hint) from None
    return Origin(str(path), card.detector(), card.classes)


def _job(job_id: str, find_job: Callable[[str], Job | None]) -> Origin:
    job = find_job(job_id)
    if job is None:
        raise PlaceError(f"there is no job {job_id!r}", "List the jobs that there are: gkd jobs.")
    if job.state in (State.FAILED, State.CANCELLED):
        raise PlaceError(f"job {job_id} is {job.state} and made no model", "Name one that succeeded or runs.")
    detector = DetectorConfig.model_validate(job.resolved[_MODEL_FIELD[job.kind]])
    return Origin(f"{JOB}{job_id}", detector, tuple(job.resolved["data"]["classes"]), job_id)


def _shown(value: object) -> str:
    return value.model_dump_json() if isinstance(value, BaseModel) else str(value)
