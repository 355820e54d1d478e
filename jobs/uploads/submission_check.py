"""Inspection of the data set or weights of a submission: in this process, or in a limited one if they are large.

Python holds the GIL while it parses JSON, so a file of a hundred megabytes would block the API for seconds. A
process costs about a second, which a small data set need not wait for.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from gkd_core.config import DataConfig, SplitName, TrainConfig
from gkd_core.data.check import DataReport, check_layout, find_layout, needed, recognise
from gkd_core.data.folders import is_picture_name
from gkd_core.detectors.model_card import ModelCard, header_bytes
from gkd_core.errors import DataError, Problem
from gkd_core.process.named_files import NotToBeRead
from jobs.paths.data_roots import DataRootError, DataRoots
from jobs.uploads.limited_process import answer_in, broke_off, end_of, ended, started
from jobs.uploads.model_files import BadModel, inspect

HEADERS = 2000
"""Number of pictures whose header is read before a job is accepted: a second or two. The engine reads them
all."""
LARGE_BYTES = 8 * 1024**2
"""Size in bytes from which an annotation file counts as large: parsing it blocks the API for half a second."""
MANY_FILES = 20_000
"""Number of files from which a data set is inspected in another process: its labels take seconds."""
LARGE_HEADER = 1024**2
"""Bytes of the header of a weights file, likewise; the header of a thousand tensors has a tenth of that."""
COMMAND = ("-m", "jobs.uploads.check_process", "submission")
"""Arguments for Python that start the limited process."""


class Wanted(BaseModel):
    """What a submission needs of its data set."""

    model_config = ConfigDict(frozen=True)

    scored: SplitName | None = None
    """The split to evaluate a model on; None: the splits of a training."""
    certain: bool = False
    """Whether that split was named explicitly; if not, the only existing split will do."""
    recipe: TrainConfig | None = None
    """The training recipe; objects that are too small for it cause warnings."""

    def of(self, data: DataConfig) -> Collection[SplitName]:
        """Return the splits that are needed of a data set.

        Raises:
            DataError: the split to evaluate is missing.
        """
        return needed(data) if self.scored is None else _scored_split(self.scored, self.certain, data)


class Submission(BaseModel):
    """The request to a limited process."""

    model_config = ConfigDict(frozen=True)

    data: DataConfig | None = None
    """A data set with absolute paths, or"""
    weights: Path | None = None
    """a weights file."""
    wanted: Wanted = Wanted()
    roots: tuple[Path, ...]
    confined: bool = True
    memory_bytes: int
    seconds: int


class Looked(BaseModel):
    """The result of an inspection."""

    model_config = ConfigDict(frozen=True)

    report: DataReport | None = None
    card: ModelCard | None = None
    problems: tuple[Problem, ...] = ()


class Here:
    """Inspection in this process."""

    def data(self, placed: DataConfig, places: DataRoots, wanted: Wanted) -> Looked:
        """Return what is in a data set whose paths are absolute, and which must stay within these data roots."""
        try:
            with (
                places.reading()
            ):  # a data.yaml is read to find the rest, and a link may be created there at any time
                needs = wanted.of(placed)
                found = recognise(placed, needs=needs)
                left = tuple(_problem(error.message, error.hint) for error in places.left_by(found.config))
                report = (
                    None if left else check_layout(found, needs=needs, headers=HEADERS, recipe=wanted.recipe)
                )
                return Looked(report=report, problems=left)
        except DataError as wrong:
            return Looked(problems=tuple(wrong.problems))
        except (PermissionError, NotToBeRead) as error:
            message = f"{str(error.filename)!r} cannot be read: {error.strerror}"
            hint = "Let the service read it, below one of the data roots."
            return Looked(problems=(_problem(message, hint),))
        except OSError as away:
            hint = "Look at that disk or network, then send the same again."
            return Looked(problems=(_problem(f"cannot be read now: {away}", hint),))

    def card(self, weights: Path) -> ModelCard | None:
        """Return the card of a weights file whose header is large; None if it has none.

        Raises:
            DataRootError: it is no weights file.
        """
        try:
            return inspect(weights).card
        except BadModel as error:
            raise DataRootError(f"{weights}: {error}", "Copy or download it again.") from None


HERE = Here()


@dataclass(frozen=True)
class Apart(Here):
    """Inspection of large data in a limited process of its own, so that other requests are answered meanwhile."""

    memory_bytes: int
    """Maximum address space of a process, in bytes."""
    seconds: float
    """Timeout of a process."""

    def data(self, placed: DataConfig, places: DataRoots, wanted: Wanted) -> Looked:
        """Return what is in a data set; see `Here.data`."""
        if not is_large(placed):
            return super().data(placed, places, wanted)
        return self._run_process(self._submission(places, data=placed, wanted=wanted))

    def card(self, weights: Path) -> ModelCard | None:
        """Return the card of a weights file; see `Here.card`."""
        looked = self._run_process(self._submission(DataRoots([weights.parent]), weights=weights))
        for problem in looked.problems:
            raise DataRootError(problem.message, problem.hint)
        return looked.card

    def _submission(self, places: DataRoots, **about: object) -> Submission:
        limits = {"memory_bytes": self.memory_bytes, "seconds": max(1, int(self.seconds))}
        return Submission.model_validate(
            {"roots": places.roots, "confined": places.confined, **limits, **about}
        )

    def _run_process(self, submission: Submission) -> Looked:
        with (
            tempfile.TemporaryFile() as output,
            tempfile.TemporaryFile() as errors,
            started(COMMAND, submission, output, errors) as process,
        ):
            why = ended(process, self.seconds) or broke_off(process.returncode, submission.seconds)
            if why is not None:
                return Looked(problems=(_problem(f"it cannot be looked into: {why}", _SMALLER),))
            try:
                return Looked.model_validate_json(answer_in(output))
            except ValidationError:
                raise RuntimeError(f"a look into a submission gave no answer: {end_of(errors)!r}") from None


_SMALLER = "Split it, or give the service more of GKD_CHECK_MEMORY and GKD_LOOK_SECONDS."


def is_large(data: DataConfig) -> bool:
    """Return whether a data set has a large file that is no picture, or very many files."""
    splits = [path for split in data.splits.values() for path in (split.images, split.annotations) if path]
    files = 0
    for place in dict.fromkeys(filter(None, [data.path, *splits])):
        for file in _files(Path(place)):
            files += 1
            if files > MANY_FILES or (not is_picture_name(file.name) and _size(file) > LARGE_BYTES):
                return True
    return False


def has_large_header(weights: Path) -> bool:
    """Return whether the header of a weights file is too large to be parsed in the API's process."""
    return header_bytes(weights) > LARGE_HEADER


def _files(place: Path) -> Iterator[Path]:
    """Yield the file, or the files of a folder.

    Links to folders are not followed: this is an estimate, not a check.
    """
    if place.is_file():
        yield place
    for folder, _, names in os.walk(place):
        yield from (Path(folder, name) for name in names)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _problem(message: str, hint: str) -> Problem:
    return Problem(loc=("data",), message=message, hint=hint)


def _scored_split(split: SplitName, certain: bool, data: DataConfig) -> tuple[SplitName, ...]:
    """Return the split that a model is to be evaluated on, if need be the only existing one.

    Args:
        split: The split asked for.
        certain: Whether no other one will do.
        data: With absolute paths.

    Raises:
        DataError: there is no such split, and either it was named explicitly or there is no single other one.
    """
    try:
        find_layout(data, needs=(split,))
    except DataError as missing:
        others = () if certain else _splits_there(data)
        if len(others) != 1:
            raise missing
        return others
    return (split,)


def _splits_there(data: DataConfig) -> tuple[SplitName, ...]:
    try:
        return tuple(find_layout(data, needs=()).splits)
    except DataError:
        return ()
