"""The formats of a spec file: JSON, YAML and TOML, all three with the values of JSON and nothing else."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml


class Format(NamedTuple):
    """A format: its name, and the function that parses it or raises a `ValueError` with line and column."""

    name: str
    parse: Callable[[bytes], Any]


def format_of(path: Path) -> Format:
    """Return the format of a file by its suffix: `.yaml`, `.yml` and `.toml`; any other file is JSON."""
    return _BY_SUFFIX.get(path.suffix.lower(), JSON)


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON; NaN and Infinity are not.
    """
    return json.loads(text, parse_constant=_raise_not_json)


def parse_yaml(text: str | bytes) -> Any:
    """Return the value of a YAML text, whose plain scalars are read as YAML 1.2 and JSON do.

    Raises:
        ValueError: it is not YAML, or holds what JSON does not have.
    """
    try:
        return yaml.load(text, _JsonLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f": line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise ValueError(f"{error.problem or error.context}{at}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def parse_toml(text: bytes) -> Any:
    """Return the value of a TOML text.

    Raises:
        ValueError: it is not TOML in UTF-8.
    """
    return tomllib.loads(text.decode("utf-8-sig"))


def only_json(value: Any) -> Any:
    """Return a parsed value as JSON would give it: names of fields are text, aliases are copies.

    Raises:
        ValueError: it holds a date, NaN, binary data, or a text that cannot be sent.
    """
    text = json.dumps(value, default=_raise_no_value, allow_nan=False, ensure_ascii=False)
    text.encode()  # lone surrogates can be parsed, but not be sent
    return json.loads(text)


JSON = Format("JSON", parse_json)
_YAML = Format("YAML", parse_yaml)
_BY_SUFFIX = {".yaml": _YAML, ".yml": _YAML, ".toml": Format("TOML", parse_toml)}


class _JsonLoader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """PyYAML's safe loader with the scalars of YAML 1.2 and without repeated fields.

    YAML 1.1 reads `1e-3` as a text, `no` as false, `012` as ten and `2026-01-31` as a date.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML reads it from the class)

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Return a mapping; refuse a field that is there twice, of which one would be lost."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"`{key.value}` is there twice", key.start_mark)
            seen.add(key.value)
        return node


for _tag, _pattern, _starts in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _JsonLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _starts)


def _raise_not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON; write a number or leave the field out")


def _raise_no_value(value: object) -> NoReturn:
    raise ValueError(f"{value!r:.60} is no value of JSON; write it in quotes, or as a number")
