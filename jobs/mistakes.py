"""What is wrong with a spec, in words: pydantic's errors become problems that name the field as people wrote it.

pydantic locates an error by the path through its own types, union branches included; a person wants the path
through the spec, what was seen there, and the field that they probably meant.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError

from gkd_core.errors import Problem, SpecError
from jobs.spec import JobSpec, job_spec

Loc = tuple[str | int, ...]
Schema = dict[str, Any]


def read_spec(value: object) -> JobSpec:
    """A spec from parsed JSON.

    Raises:
        SpecError: it is no job spec; `problems` names every field that is wrong.
    """
    try:
        return job_spec.validate_python(value)
    except ValidationError as error:
        raise SpecError(problems(error.errors())) from None


def problems(errors: Iterable[Mapping[str, Any]]) -> list[Problem]:
    """pydantic's errors about a spec, one problem for every field.

    Args:
        errors: As `ValidationError.errors()` gives them, `loc` starting at the spec.
    """
    found: dict[Loc, Problem] = {}
    for error in errors:
        loc, known = _walk(error["loc"], error["type"])
        problem = _problem(error, loc, known)
        if earlier := found.get(loc):  # the branches of one union, e.g. an integer or "auto"
            problem = earlier.model_copy(update={"message": f"{earlier.message}; or: {problem.message}"})
        found[loc] = problem
    return list(found.values())


def _problem(error: Mapping[str, Any], loc: Loc, known: tuple[str, ...]) -> Problem:
    match error["type"]:
        case "extra_forbidden":
            place = f"`{'.'.join(map(str, loc[:-1]))}`" if loc[:-1] else "a job spec"
            return Problem(
                loc=loc, message=f"`{loc[-1]}` is no field of {place}", hint=_meant(str(loc[-1]), known)
            )
        case "missing":
            return Problem(loc=loc, message=f"`{loc[-1]}` is missing", hint="It has no default: add it.")
        case "union_tag_not_found":
            return Problem(loc=("kind",), message="`kind` is missing", hint=_meant("", _kinds()))
        case "union_tag_invalid":
            tag = error["ctx"]["tag"]
            return Problem(
                loc=("kind",), message=f"there is no kind of job {tag!r}", hint=_meant(tag, _kinds())
            )
        case "literal_error":
            choices = tuple(re.findall(r"'([^']*)'", error["ctx"]["expected"]))
            return Problem(loc=loc, message=_said(error), hint=_meant(str(error["input"]), choices))
    return Problem(loc=loc, message=_said(error))


def _said(error: Mapping[str, Any]) -> str:
    """pydantic's own sentence, with the value seen where it is short."""
    sentence: str = error["msg"].removeprefix("Value error, ")
    value = error.get("input")
    if isinstance(value, str | int | float | bool | None) and error["type"] != "value_error":
        shown = repr(value)
        sentence += f", got {shown if len(shown) <= 80 else shown[:77] + '...'}"
    return sentence


def _meant(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"Did you mean `{close[0]}`? " if close else ""
    return f"{meant}Known here: {', '.join(known)}." if known else meant.strip()


def _walk(loc: Loc, error_type: str) -> tuple[Loc, tuple[str, ...]]:
    """The path through the spec without pydantic's union branches, and the fields known at its end."""
    root = _schema()
    mapping: dict[str, str] = root["discriminator"]["mapping"]
    if not loc or loc[0] not in mapping:
        return loc, ()
    inside, unknown = (loc[:-1], loc[-1:]) if error_type == "extra_forbidden" else (loc, ())
    here: Schema = {"$ref": mapping[str(loc[0])]}
    fields = _fields(here)
    path: list[str | int] = []
    for part in inside[1:]:
        if part in fields:
            here = fields[str(part)]
        elif not isinstance(part, int) and not _is_open(here):
            continue  # the name of a branch
        fields = _fields(here) if part in fields else {}
        path.append(part)
    return (*path, *unknown), tuple(fields)


def _fields(schema: Schema) -> dict[str, Schema]:
    """Every field that a value of this schema may have, over all the branches of a union."""
    if reference := schema.get("$ref"):
        schema = _schema()["$defs"][reference.rsplit("/", 1)[-1]]
    fields: dict[str, Schema] = dict(schema.get("properties", {}))
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        fields |= _fields(branch)
    return fields


def _is_open(schema: Schema) -> bool:
    """Whether it is a mapping with keys of the writer's choice, such as `tags`."""
    return isinstance(schema.get("additionalProperties"), dict)


def _kinds() -> tuple[str, ...]:
    return tuple(_schema()["discriminator"]["mapping"])


@cache
def _schema() -> Schema:
    return job_spec.json_schema()
