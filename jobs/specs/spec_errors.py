"""What is wrong with a spec, in words: pydantic's errors become problems that name the field as people wrote it.

pydantic locates an error by the path through its own types, union branches included; a person wants the path
through the spec, what was seen there, and the field that they probably meant.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from functools import cache
from typing import Any

from pydantic import ValidationError

from gkd_core.errors import Problem, SpecError
from jobs.specs.spec import JobSpec, job_spec

MOST = 100
"""Mistakes that are named. A body of 1 MiB can hold half a million, and wording each of them takes time."""
_LONGEST = 80
"""Characters of a text that is quoted."""

EXAMPLE = 'A job spec is a JSON object such as {"kind": "train", "data": "cells"}.'

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
    listed = list(errors)
    for error in listed[:MOST]:
        loc, known = _walk(error["loc"], error["type"])
        problem = _problem(error, loc, known)
        if earlier := found.get(loc):  # the branches of one union, e.g. an integer or "auto"
            problem = earlier.model_copy(update={"message": f"{earlier.message}; or: {problem.message}"})
        found[loc] = problem
    return [*found.values(), *_more(listed)]


def first(found: Sequence[Problem]) -> list[Problem]:
    """As many as people read, and how many more there are."""
    return [*found[:MOST], *_more(found)]


def _more(found: Sized) -> list[Problem]:
    left = len(found) - MOST
    return [Problem(loc=(), message=f"and {left} more mistakes")] if left > 0 else []


def _problem(error: Mapping[str, Any], loc: Loc, known: tuple[str, ...]) -> Problem:
    match error["type"]:
        case "extra_forbidden":
            name, place = str(loc[-1]), _place(loc[:-1])
            hint = _meant(name, known, elsewhere=_paths({"$ref": _kinds()[error["loc"][0]]}))
            return Problem(loc=loc, message=f"`{_cut(name)}` is no field of {place}", hint=hint)
        case "model_type" | "model_attributes_type" | "dict_type":
            message = f"{_place(loc)} is an object, {{...}}, got {_shown(error['input'])}"
            return Problem(loc=loc, message=message, hint=_meant("", known) if loc else EXAMPLE)
        case "missing" if isinstance(loc[-1], int):
            message = f"{_place(loc[:-1])} needs at least {loc[-1] + 1} values"
            return Problem(loc=loc[:-1], message=message)
        case "missing":
            return Problem(loc=loc, message=f"`{loc[-1]}` is missing", hint="It has no default: add it.")
        case "union_tag_not_found":
            return Problem(loc=("kind",), message="`kind` is missing", hint=_meant("", tuple(_kinds())))
        case "union_tag_invalid":
            tag = _cut(error["ctx"]["tag"])
            return Problem(
                loc=("kind",), message=f"there is no kind of job {tag!r}", hint=_meant(tag, tuple(_kinds()))
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
        sentence += f", got {_shown(value)}"
    return sentence


def _shown(value: object) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _place(loc: Loc) -> str:
    return f"`{'.'.join(_cut(str(part)) for part in loc)}`" if loc else "a job spec"


def _meant(name: str, known: tuple[str, ...], elsewhere: Iterable[Loc] = ()) -> str:
    """What was probably meant: a name known here, or else every path that ends with such a name."""
    name = name[:_LONGEST]
    close = difflib.get_close_matches(name, known, n=1)
    if not close:
        paths = [tuple(map(str, path)) for path in elsewhere]
        found = difflib.get_close_matches(name, {path[-1] for path in paths}, n=1, cutoff=0.8)
        close = [".".join(path) for path in paths if path[-1] in found]
    meant = f"Did you mean {' or '.join(f'`{each}`' for each in close)}? " if close else ""
    return f"{meant}Known here: {', '.join(known)}." if known else meant.strip()


def _walk(loc: Loc, error_type: str) -> tuple[Loc, tuple[str, ...]]:
    """The path through the spec without pydantic's union branches, and the fields known at its end."""
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
            continue  # pydantic's word for a mapping's key, or the name of a branch
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
    return isinstance(schema.get("additionalProperties") or schema.get("patternProperties"), dict)


def _paths(schema: Schema, above: Loc = ()) -> Iterator[Loc]:
    """The path of every field under a schema."""
    for name, field in _fields(schema).items():
        yield *above, name
        yield from _paths(field, (*above, name))


def _kinds() -> dict[str, str]:
    """Where the schema describes each kind of job."""
    kinds: dict[str, str] = _schema()["discriminator"]["mapping"]
    return kinds


@cache
def _schema() -> Schema:
    return job_spec.json_schema()
