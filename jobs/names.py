"""Validation of user-chosen names: of jobs, tags, keys, data sets and models."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

VISIBLE: dict[str, Any] = {"pattern": r"^$|\S"}
"""JSON schema of `not_blank`."""


def printable(text: str) -> str:
    """Return the name if it has no control characters, which would break tables.

    Raises:
        ValueError: it contains some.
    """
    if not text.isprintable():
        raise ValueError(f"{text!r} holds characters that cannot be printed")
    return text


def not_blank(text: str) -> str:
    """Return the name if it is not only blanks; an empty name is allowed here.

    Raises:
        ValueError: it consists of blanks.
    """
    if text and not text.strip():
        raise ValueError(f"{text!r} consists of blanks; give it letters or digits")
    return text


Name = Annotated[
    str,
    Field(max_length=100, json_schema_extra=VISIBLE),
    AfterValidator(printable),
    AfterValidator(not_blank),
]
