"""What people may call things: jobs, tags, keys, data sets and models."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

VISIBLE: dict[str, Any] = {"pattern": r"^$|\S"}
"""What `not_blank` demands, in a JSON schema."""


def printable(text: str) -> str:
    """Return a name that tables can show: control characters have no place there.

    Raises:
        ValueError: it holds some.
    """
    if not text.isprintable():
        raise ValueError(f"{text!r} holds characters that cannot be printed")
    return text


def not_blank(text: str) -> str:
    """Return a name that can be seen; whether it may be empty is for others to say.

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
