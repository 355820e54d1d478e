"""Validation errors of a spec, for users: pydantic's errors become problems that name the field as users wrote it.

pydantic locates an error by the path through its own types, union branches included; a user needs the path
through the spec, the value found there, and the field that was probably meant.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from functools import cache
from typing import Any

from pydantic import ValidationError

from gkd_core.errors import Problem, SpecError, did_you_mean
from jobs.specs.spec import JobSpec, job_spec

MOST = 100
"""Maximum number of reported errors. A body of 1 MiB can contain half a million, and formatting each takes
time."""
_LONGEST = 80
"""Maximum length of a quoted text, in characters."""

EXAMPLE = 'A job spec is a JSON object such as {"kind": "train", "data": "cells"}.'

Loc = tuple[str | int, ...]
Schema = dict[str, Any]


def read_spec(value: object) -> JobSpec:
    """Return the spec in parsed JSON.

    Raises:
        SpecError: it is not a job spec; `problems` names every wrong field.
    """
    try:
        return job_spec.validate_python(value)
    except ValidationError as error:
        raise SpecError(problems(error.errors())) from None


def problems(errors: Iterable[Mapping[str, Any]]) -> list[Problem]:
    """Return pydantic's errors about a spec as problems, one per field.

    Args:
        errors: As of `ValidationError.errors()`, `loc` starting at the spec.
    """
    found: dict[Loc, Problem] = {}
    listed = list(errors)
    for error in listed[:MOST]:
        loc, known = _walk(error["loc"], error["type"])
        problem = _problem(error, loc, known)
        if earlier := found.get(loc):  # the branches of one union, e.g. an integer or "auto"
            problem = earlier.model_copy(update={"message": f"{earlier.message}; or: {problem.message}"})
        found[loc] = problem
    return [*found.values(), *_count_remaining(listed)]


def first(found: Sequence[Problem]) -> list[Problem]:
    """Return the first `MOST` problems, and one that counts the rest."""
    return [*found[:MOST], *_count_remaining(found)]


def _count_remaining(found: Sized) -> list[Problem]:
    left = len(found) - MOST
    return [Problem(loc=(), message=f"and {left} more mistakes")] if left > 0 else []


def _problem(error: Mapping[str, Any], loc: Loc, known: tuple[str, ...]) -> Problem:
    match error["type"]:
        case "extra_forbidden":
            name, place = str(loc[-1]), _format_location(loc[:-1])
            hint = _suggest(name, known, elsewhere=_paths({"$ref": _kinds()[error["loc"][0]]}))
            return Problem(loc=loc, message=f"`{_truncate(name)}` is no field of {place}", hint=hint)
        case "model_type" | "model_attributes_type" | "dict_type":
            message = f"{_format_location(loc)} is an object, {{...}}, got {_format_value(error['input'])}"
            return Problem(loc=loc, message=message, hint=_suggest("", known) if loc else EXAMPLE)
        case "missing" if isinstance(loc[-1], int):
            message = f"{_format_location(loc[:-1])} needs at least {loc[-1] + 1} values"
            return Problem(loc=loc[:-1], message=message)
        case "missing":
            return Problem(loc=loc, message=f"`{loc[-1]}` is missing", hint="It has no default: add it.")
        case "union_tag_not_found":
            return Problem(loc=("kind",), message="`kind` is missing", hint=_suggest("", tuple(_kinds())))
        case "union_tag_invalid":
            tag = _truncate(error["ctx"]["tag"])
            return Problem(
                loc=("kind",), message=f"there is no kind of job {tag!r}", hint=_suggest(tag, tuple(_kinds()))
            )
        case "literal_error":
            choices = tuple(re.findall(r"'([^']*)'", error["ctx"]["expected"]))
            return Problem(loc=loc, message=_format_error(error), hint=_suggest(str(error["input"]), choices))
    return Problem(loc=loc, message=_format_error(error))


def _format_error(error: Mapping[str, Any]) -> str:
    """Return pydantic's own message, with the value if it is short."""
    sentence: str = error["msg"].removeprefix("Value error, ")
    value = error.get("input")
    if isinstance(value, str | int | float | bool | None) and error["type"] != "value_error":
        sentence += f", got {_format_value(value)}"
    return sentence


def _format_value(value: object) -> str:
    return _truncate(repr(value))


def _truncate(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _format_location(loc: Loc) -> str:
    return f"`{'.'.join(_truncate(str(part)) for part in loc)}`" if loc else "a job spec"


def _suggest(name: str, known: tuple[str, ...], elsewhere: Iterable[Loc] = ()) -> str:
    """Return the suggestion "Did you mean ...": a name known here, or else every path that ends with such a name."""
    name = name[:_LONGEST]
    paths = [tuple(map(str, path)) for path in elsewhere]
    found = difflib.get_close_matches(name, {path[-1] for path in paths}, n=1, cutoff=0.8)
    return did_you_mean(name, known, [".".join(path) for path in paths if path[-1] in found])


def _walk(loc: Loc, error_type: str) -> tuple[Loc, tuple[str, ...]]:
    """Return the path through the spec without pydantic's union branches, and the fields known at its end."""
    mapping = _kinds()
    if not loc or loc[0] not in mapping:
        return loc, ()
    inside, unknown = (loc[:-1], loc[-1:]) if error_type == "extra_forbidden" else (loc, ())
    here: Schema = {"$ref": mapping[str(loc[0])]}
    fields = _fields(here)
    path: list[str | int] = []
    for part in inside[1:]:
        if part in fields:
            here = fields[str(part)]
        elif part == "[key]" or (not isinstance(part, int) and not _is_open(here)):
            continue  # pydantic's name of a mapping's key, or of a branch
        fields = _fields(here) if part in fields else {}
        path.append(part)
    return (*path, *unknown), tuple(fields)


def _fields(schema: Schema) -> dict[str, Schema]:
    """Return every field that a value of this schema may have, over all branches of a union."""
    if reference := schema.get("$ref"):
        schema = _schema()["$defs"][reference.rsplit("/", 1)[-1]]
    fields: dict[str, Schema] = dict(schema.get("properties", {}))
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        fields |= _fields(branch)
    return fields


def _is_open(schema: Schema) -> bool:
    """Return whether the schema is a mapping with free keys, such as `tags`."""
    return isinstance(schema.get("additionalProperties") or schema.get("patternProperties"), dict)


def _paths(schema: Schema, above: Loc = ()) -> Iterator[Loc]:
    """Yield the path of every field under a schema."""
    for name, field in _fields(schema).items():
        yield *above, name
        yield from _paths(field, (*above, name))


def _kinds() -> dict[str, str]:
    """Return the reference to the schema of each kind of job."""
    kinds: dict[str, str] = _schema()["discriminator"]["mapping"]
    return kinds


@cache
def _schema() -> Schema:
    return job_spec.json_schema()
