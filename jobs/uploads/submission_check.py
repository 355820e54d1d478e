"""What is in the data set that a submission names: looked into here, or in a limited process where it is large.

Python parses JSON without letting any other thread on, so a file of a hundred megabytes would silence the API for
seconds. A process costs about a second, which a small data set need not wait for.
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
"""Pictures whose header is read before a job is accepted: a second or two. The engine reads them all."""
LARGE_BYTES = 8 * 1024**2
"""Of a file that is no picture: half a second of silence, if it is parsed here."""
MANY_FILES = 20_000
"""Of a data set, from which on it is looked into apart: their labels take seconds."""
LARGE_HEADER = 1024**2
"""Bytes of the header of a file of weights, likewise: those of a thousand tensors take a tenth."""
COMMAND = ("-m", "jobs.uploads.check_process", "submission")
"""What Python is to run."""


class Wanted(BaseModel):
    """What a submission needs of its data set."""

    model_config = ConfigDict(frozen=True)

    scored: SplitName | None = None
    """The one that a model is to be scored on; None: those of a training."""
    certain: bool = False
    """Whether that one was asked for in so many words; if not, the only one that there is will do."""
    recipe: TrainConfig | None = None
    """How it is to be learnt from; objects that are too small for that are told."""

    def of(self, data: DataConfig) -> Collection[SplitName]:
        """The splits that are needed of a data set.

        Raises:
            DataError: the one that is to be scored is not there.
        """
        return needed(data) if self.scored is None else _scored_split(self.scored, self.certain, data)


class Submission(BaseModel):
    """What a process is to look into."""

    model_config = ConfigDict(frozen=True)

    data: DataConfig | None = None
    """A data set with absolute paths, or"""
    weights: Path | None = None
    """a file of weights."""
    wanted: Wanted = Wanted()
    roots: tuple[Path, ...]
    confined: bool = True
    memory_bytes: int
    seconds: int


class Looked(BaseModel):
    """What was found."""

    model_config = ConfigDict(frozen=True)

    report: DataReport | None = None
    card: ModelCard | None = None
    problems: tuple[Problem, ...] = ()


class Here:
    """Looks into what a submission names in this process."""

    def data(self, placed: DataConfig, places: DataRoots, wanted: Wanted) -> Looked:
        """What is in a data set whose paths are absolute, and which must not leave these places."""
        try:
            with (
                places.reading()
            ):  # a data.yaml is read to find the rest, and a link may be put there any time
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
        """The card in a file of weights whose header is large; None: it has none.

        Raises:
            DataRootError: it is no file of weights.
        """
        try:
            return inspect(weights).card
        except BadModel as error:
            raise DataRootError(f"{weights}: {error}", "Copy or download it again.") from None


HERE = Here()


@dataclass(frozen=True)
class Apart(Here):
    """The same, but what is large in a process of its own, with limits: the others are answered meanwhile."""

    memory_bytes: int
    """Address space that a process may take."""
    seconds: float
    """How long it may take."""

    def data(self, placed: DataConfig, places: DataRoots, wanted: Wanted) -> Looked:
        """See `Here.data`."""
        if not is_large(placed):
            return super().data(placed, places, wanted)
        return self._ask(self._submission(places, data=placed, wanted=wanted))

    def card(self, weights: Path) -> ModelCard | None:
        """See `Here.card`."""
        looked = self._ask(self._submission(DataRoots([weights.parent]), weights=weights))
        for problem in looked.problems:
            raise DataRootError(problem.message, problem.hint)
        return looked.card

    def _submission(self, places: DataRoots, **about: object) -> Submission:
        limits = {"memory_bytes": self.memory_bytes, "seconds": max(1, int(self.seconds))}
        return Submission.model_validate(
            {"roots": places.roots, "confined": places.confined, **limits, **about}
        )

    def _ask(self, submission: Submission) -> Looked:
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
    """Whether a data set has a large file that is no picture, or very many files."""
    splits = [path for split in data.splits.values() for path in (split.images, split.annotations) if path]
    files = 0
    for place in dict.fromkeys(filter(None, [data.path, *splits])):
        for file in _files(Path(place)):
            files += 1
            if files > MANY_FILES or (not is_picture_name(file.name) and _size(file) > LARGE_BYTES):
                return True
    return False


def has_large_header(weights: Path) -> bool:
    """Whether the header of a file of weights is too large to be parsed in passing."""
    return header_bytes(weights) > LARGE_HEADER


def _files(place: Path) -> Iterator[Path]:
    """The file, or what lies in a folder; links to other folders are not followed: this is a guess, not a check."""
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
    """Return the split that a model is to be scored on, if need be the only one that there is.

    Args:
        split: what was asked for.
        certain: whether no other will do.
        data: with absolute paths.

    Raises:
        DataError: there is no such split, and no single other one or a certain one was asked for.
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
