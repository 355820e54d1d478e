"""Where the commands print: a terminal as wide as it is, or a pipe, which has no edge to break lines at."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from pydantic import BaseModel

PIPE_WIDTH = 200
"""Columns of a table that nobody watches: enough for every one of ours."""


def console(*, stderr: bool = False) -> Console:
    """A console on the standard output or error."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)


def print_json(value: BaseModel | Any) -> None:
    """For programs: a value of ours, or anything that JSON knows."""
    dumped = value.model_dump(mode="json", by_alias=True) if hasattr(value, "model_dump") else value
    print(json.dumps(dumped, indent=2, ensure_ascii=False))
