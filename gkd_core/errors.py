"""The engine's errors, each with a message and a hint that a person can act on.

Every error carries a failure class, which decides what happens to the job:

    spec             the spec asks for something impossible         never retried
    data             pictures, annotations or weights are unusable  never retried
    out_of_memory    the device is too small for the batch          retried once, with half the micro-batch
    diverged         a loss became NaN or infinite                  never retried
    infrastructure   a machine, process or disk went away           retried from the last checkpoint
    bug              anything else: a defect of GKD                 never retried
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

_Model = TypeVar("_Model", bound=BaseModel)


class FailureClass(StrEnum):
    """Why a job failed; the module's table says how each class is handled."""

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
"""`errno` values of an `OSError` that concern the machine (disk, network) and not the file."""


class Failure(BaseModel):
    """A failure as it is stored and shown: `message` describes what was found, `hint` what to do."""

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
        """Return the error as a value that can be stored."""
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
        hints = dict.fromkeys(p.hint for p in problems if p.hint)  # no duplicates
        super().__init__("; ".join(p.message for p in problems), " ".join(hints))
        self.problems = tuple(problems)


class DivergedError(GkdError):
    """A loss became NaN or infinite."""

    failure_class = FailureClass.DIVERGED


class InfrastructureError(GkdError):
    """The machine or a disk failed; trying again later may help."""

    failure_class = FailureClass.INFRASTRUCTURE


class StoppedError(GkdError):
    """The run was asked to stop and did, after a checkpoint where there was something to save; not a failure."""

    failure_class = FailureClass.INFRASTRUCTURE


# ---- validating arguments --------------------------------------------------------------------------------


def checked(model: type[_Model], *at: str, **values: object) -> _Model:
    """Return the validated value.

    Args:
        model: class of the value.
        at: its path in a spec, which prefixes the fields of problems.
        values: its fields.

    Raises:
        SpecError: fields are wrong; each is named, with a suggestion for a misspelt name.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SpecError([_problem(each, model, at) for each in error.errors()]) from None


def _problem(error: Mapping[str, Any], model: type[BaseModel], at: tuple[str, ...]) -> Problem:
    """Convert one of pydantic's errors to a problem."""
    loc, known = (*at, *error["loc"]), _fields_at(model, error["loc"][:-1])
    if error["type"] == "extra_forbidden":
        place = ".".join(map(str, loc[:-1])) or model.__name__
        return Problem(
            loc=loc, message=f"`{loc[-1]}` is no field of `{place}`", hint=did_you_mean(str(loc[-1]), known)
        )
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        return Problem(loc=loc, message=message)
    choices = re.findall(r"'([^']*)'", error.get("ctx", {}).get("expected", ""))
    hint = did_you_mean(str(error["input"]), choices)
    return Problem(loc=loc, message=f"{message}, got {error['input']!r:.80}", hint=hint)


def did_you_mean(name: str, known: Sequence[str], otherwise: Sequence[str] = ()) -> str:
    """Return a hint: the known name that is nearest, and all known ones; empty where there is nothing to say.

    Args:
        name: what was written.
        known: what could stand there.
        otherwise: suggested where no known name is near.
    """
    close = difflib.get_close_matches(name, known, n=1) or otherwise
    meant = f"Did you mean {' or '.join(f'`{each}`' for each in close)}? " if close else ""
    return f"{meant}Known here: {', '.join(known)}." if known else meant.strip()


def _fields_at(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Return the names of the fields at a path below a model; none where there is no model."""
    for part in loc:
        inner = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        found = inner.get(str(part))
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            return []
        model = found
    return [field.alias or name for name, field in model.model_fields.items()]
