"""Parsing of spec files: JSON, YAML or TOML by the suffix of the file, with errors that name file and line."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from client.spec_formats import format_of, only_json, parse_json
from gkd_core.errors import Problem, SpecError


def read(path: Path) -> Any:
    """Return the value in a spec file, or in JSON from stdin if the path is `-`.

    Raises:
        SpecError: the file does not exist, or is not of the format that its suffix names.
    """
    form = format_of(path)
    try:
        text = sys.stdin.buffer.read() if path == Path("-") else path.read_bytes()
        return only_json(form.parse(text))
    except FileNotFoundError:
        problem = Problem(loc=(str(path),), message="there is no such file")
    except (ValueError, RecursionError, OSError) as error:
        problem = Problem(loc=(str(path),), message=f"cannot be read as {form.name}: {error}")
    raise SpecError([problem])


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
        return parse_json(text)
    except ValueError:
        return text
