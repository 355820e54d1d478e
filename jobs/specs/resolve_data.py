"""Resolution of the data of a spec: paths under the data roots, a registered data set, or an upload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from gkd_core.config import DataConfig, Split
from gkd_core.data.check import DataReport
from gkd_core.errors import Problem, SpecError
from jobs.errors import ContentGone, WrongContent
from jobs.paths.data_roots import DataRootError, DataRoots, renamed
from jobs.paths.fingerprint import of_annotations, of_data_set
from jobs.resources import DATASET, CheckedResource, Layout, ResourceKind
from jobs.specs.weight_sources import FindResource, changed_since, ready
from jobs.uploads.archive_members import BadArchive
from jobs.uploads.submission_check import Here, Wanted

T = TypeVar("T", bound=BaseModel)
Loc = tuple[str | int, ...]
"""A field of a spec, from the outside in."""


@dataclass
class Findings:
    """What a resolution finds out: all problems, not only the first, remarks, and what the job depends on."""

    problems: list[Problem] = field(default_factory=list)
    """Why the spec cannot be carried out; empty if it can."""
    remarks: list[str] = field(default_factory=list)
    """Warnings for users."""
    waits_for: list[str] = field(default_factory=list)
    """Ids of the jobs whose models it needs, perhaps twice."""
    uses: list[str] = field(default_factory=list)
    """Ids of the data sets and models that it needs, perhaps twice."""

    def add_problem(self, loc: Loc, message: str, hint: str) -> None:
        """Add a problem of a field."""
        self.problems.append(Problem(loc=loc, message=message, hint=hint))

    def add_error(self, loc: Loc, error: DataRootError) -> None:
        """Add an error about a path or a reference as the problem of the field that holds it."""
        self.add_problem(loc, error.message, error.hint)


class DataResolution:
    """The resolution of the data of one spec.

    Args:
        places: Folders under which paths must stay.
        find_resource: Returns a data set by id, None if there is none.
        unpacked: Returns the folder of an uploaded data set.
        look: Inspects data, perhaps in another process.
        found: Gets the problems, remarks and data sets.
    """

    def __init__(
        self,
        places: DataRoots,
        find_resource: FindResource,
        unpacked: Callable[[CheckedResource], Path],
        look: Here,
        found: Findings,
    ) -> None:
        self.places = places
        self.find_resource = find_resource
        self.unpacked = unpacked
        self.look = look
        self.found = found

    def check(self, data: DataConfig, wanted: Wanted) -> DataReport | None:
        """Return the report on the data, with absolute paths.

        None with a problem.

        Args:
            data: As the spec has it: paths, or the id of a data set.
            wanted: What is wanted of it besides its annotations.
        """
        if data.path is not None and data.path.startswith(DATASET):
            return self._known(data, data.path.removeprefix(DATASET), wanted)
        before = len(self.found.problems)
        placed = data.model_copy(
            update={
                "path": self._find_path(data.path, ("data", "path")),
                "train": self._split(data.train, ("data", "train")),
                "val": self._split(data.val, ("data", "val")),
                "test": self._split(data.test, ("data", "test")),
            }
        )
        return self._checked(placed, self.places, wanted) if len(self.found.problems) == before else None

    def _checked(self, placed: DataConfig, places: DataRoots, wanted: Wanted) -> DataReport | None:
        """Return the report on a data set whose paths are absolute, and which must stay within these data roots."""
        looked = self.look.data(placed, places, wanted)
        self.found.problems += looked.problems
        return looked.report

    def _known(self, data: DataConfig, dataset_id: str, wanted: Wanted) -> DataReport | None:
        """Return the report on a data set named by id.

        The spec decides about classes, the data set about everything else.
        """
        kind = ResourceKind.DATASET
        try:
            dataset = ready(self.find_resource(kind, dataset_id), kind, dataset_id)
        except DataRootError as error:
            self.found.add_error(("data", "path"), error)
            return None
        self.found.uses.append(dataset_id)
        found = self._uploaded if dataset.uploaded else self._registered
        return found(data, dataset, wanted)

    def _registered(self, data: DataConfig, dataset: CheckedResource, wanted: Wanted) -> DataReport | None:
        """Return the report on a registered data set under a data root."""
        report = self.check(_as_known(data, dataset.data), wanted)
        remark = report and changed_since(dataset, lambda: of_data_set(_as_checked(report.resolved, dataset)))
        if remark:
            self.found.remarks.append(remark)
        return report

    def _uploaded(self, data: DataConfig, dataset: CheckedResource, wanted: Wanted) -> DataReport | None:
        """Return the report on an upload.

        Its files are named relative to its id, since every machine has its own folder of them.
        """
        try:
            folder = self.unpacked(dataset)
        except (OSError, ContentGone, WrongContent, BadArchive) as error:
            self.found.add_problem(
                ("data", "path"), f"its files are not at hand: {error}", "Upload it again."
            )
            return None
        before = len(self.found.problems)
        layout = dataset.layout or Layout()
        report = self._checked(
            _as_known(data, DataConfig(path=str(folder), format=layout.format)), DataRoots([folder]), wanted
        )
        name = f"{DATASET}{dataset.id}"
        self.found.problems[before:] = [
            _renamed(problem, folder, name) for problem in self.found.problems[before:]
        ]
        return _renamed(report, folder, name) if report else None

    def _split(self, split: Split | None, loc: Loc) -> Split | None:
        if split is None:
            return None
        return split.model_copy(
            update={
                part: self._find_path(getattr(split, part), (*loc, part))
                for part in ("images", "annotations", "names")
            }
        )

    def _find_path(self, text: str | None, loc: Loc) -> str | None:
        if text is None:
            return None
        try:
            return str(self.places.find(text))
        except DataRootError as error:
            self.found.add_error(loc, error)
            return None

    def fingerprint(self, data: DataConfig) -> str | None:
        """Return the fingerprint of the annotations; None for an upload, which never changes.

        Raises:
            SpecError: the annotations cannot be read any more.
        """
        if any(split.annotations.startswith(DATASET) for split in data.splits.values()):
            return None
        try:
            with self.places.reading():
                return of_annotations(data)
        except OSError as away:  # they were readable a moment ago
            hint = "Look at that disk or network, then send the same again."
            self.found.add_problem(("data",), f"cannot be read now: {away}", hint)
            raise SpecError(self.found.problems) from None


def _as_checked(resolved: DataConfig, dataset: CheckedResource) -> DataConfig:
    """Return the data without its test split if an older release checked the data set, which ignored test splits."""
    return resolved if "test" in (dataset.report or {}) else resolved.model_copy(update={"test": None})


def _as_known(data: DataConfig, known: DataConfig) -> DataConfig:
    """Return a spec's data with the paths of a registered data set."""
    paths = {"path": known.path, "train": known.train, "val": known.val, "test": known.test}
    return data.model_copy(update=paths | ({"format": known.format} if data.format == "auto" else {}))


def _renamed(value: T, folder: Path, name: str) -> T:
    """Return the value with another name for a folder."""
    return type(value).model_validate(renamed(value.model_dump(), str(folder), name))
