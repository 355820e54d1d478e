"""What can go wrong in the engine, said in words that a person can act on.

Every error carries a failure class, which decides what happens to the job:

    spec             the spec asks for something impossible         never tried again
    data             pictures, annotations or weights are unusable  never tried again
    out_of_memory    the device is too small for the batch          once more, with half the micro-batch
    diverged         a loss became NaN or infinite                  never tried again
    infrastructure   a machine, process or disk went away           tried again from the last checkpoint
    bug              anything else: a defect of GKD                 never tried again
"""

from __future__ import annotations

import errno
from enum import StrEnum
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class FailureClass(StrEnum):
    """Why a job failed; see the module's table for what follows."""

    SPEC = "spec"
    DATA = "data"
    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "diverged"
    INFRASTRUCTURE = "infrastructure"
    BUG = "bug"


DISK_AND_NETWORK = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE),
        *(errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ECONNRESET, errno.EPIPE),
    }
)
"""Codes of an `OSError` that say something of the machine and nothing of the file."""


class Failure(BaseModel):
    """A failure as it is stored and shown: `message` says what was seen, `hint` what to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failure_class: FailureClass
    message: str
    hint: str = ""


class Problem(BaseModel):
    """One thing wrong with a spec or a data set: where, what, and what to do about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loc: tuple[str | int, ...]
    """Path of the field in the spec, e.g. `("data", "train", "annotations")`."""
    message: str
    hint: str = ""


class GkdError(Exception):
    """Root of the engine's errors."""

    failure_class: ClassVar[FailureClass] = FailureClass.BUG

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def failure(self) -> Failure:
        """The error as a value that can be stored."""
        return Failure(failure_class=self.failure_class, message=self.message, hint=self.hint)


class SpecError(GkdError):
    """The spec cannot be carried out as it stands; `problems` names the fields."""

    failure_class = FailureClass.SPEC

    def __init__(self, problems: list[Problem]) -> None:
        lines = [f"{'.'.join(map(str, p.loc))}: {p.message}" for p in problems]
        hints = [p.hint for p in problems if p.hint]
        super().__init__("; ".join(lines), " ".join(hints))
        self.problems = tuple(problems)


class DataError(GkdError):
    """Annotations or pictures are unusable; `problems` names the files."""

    failure_class = FailureClass.DATA

    def __init__(self, problems: list[Problem]) -> None:
        hints = dict.fromkeys(p.hint for p in problems if p.hint)  # each once
        super().__init__("; ".join(p.message for p in problems), " ".join(hints))
        self.problems = tuple(problems)


class DivergedError(GkdError):
    """A loss became NaN or infinite."""

    failure_class = FailureClass.DIVERGED


class InfrastructureError(GkdError):
    """The machine or a disk does not give what was there; trying again later may help."""

    failure_class = FailureClass.INFRASTRUCTURE


class StoppedError(GkdError):
    """The run was asked to stop and did, after a checkpoint where there was something to save; not a failure."""

    failure_class = FailureClass.INFRASTRUCTURE
