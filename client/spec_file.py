"""Parsing of spec files: JSON as the service understands it, with errors that name the file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from gkd_core.errors import Problem, SpecError


def read(path: Path) -> Any:
    """Return the JSON value in a spec file, or from stdin if the path is `-`.

    Raises:
        SpecError: the file does not exist, or is not JSON.
    """
    try:
        text = sys.stdin.buffer.read() if path == Path("-") else path.read_bytes()
        value = json.loads(text, parse_constant=_raise_not_json)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates can be parsed, but not be sent
        return value
    except FileNotFoundError:
        problem = Problem(loc=(str(path),), message="there is no such file")
    except (ValueError, RecursionError, OSError) as error:
        problem = Problem(loc=(str(path),), message=f"cannot be read as JSON: {error}")
    raise SpecError([problem])


def _raise_not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON; write a number or leave the field out")


def changed(settings: Iterable[str]) -> dict[str, Any]:
    """Return a JSON merge patch from settings such as `train.epochs=24`: values are JSON, or text.

    Null removes a field.

    Raises:
        SpecError: one of them is no FIELD=VALUE.
    """
    patch: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        *parents, name = path.split(".")
        if not equals or not all((*parents, name)):
            hint = "Write it as train.epochs=24 or name=cells."
            raise SpecError([Problem(loc=(), message=f"{setting!r} is no FIELD=VALUE", hint=hint)])
        here = patch
        for parent in parents:
            deeper = here.setdefault(parent, {})
            if not isinstance(deeper, dict):
                deeper = here[parent] = {}
            here = deeper
        here[name] = _value(text)
    return patch


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_raise_not_json)
    except ValueError:
        return text
