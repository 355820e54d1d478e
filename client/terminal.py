"""Consoles and printing: a terminal of any width, or a pipe, in which lines are not broken.

Printed text may come from others: names, error messages, log lines. Characters that control a terminal are
escaped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

if TYPE_CHECKING:
    from pydantic import BaseModel

PIPE_WIDTH = 200
"""Width of output to a pipe in columns: enough for every table."""

_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Control characters, and those that change the direction of writing."""
_ESCAPES = {code: f"\\u{code:04x}" for code in _CONTROLS if chr(code) not in "\n\t"}


class _EscapingConsole(Console):
    """A console that escapes the control characters in its text, and interprets no markup."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with text escaped."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown(segment.text))


def shown(text: str) -> str:
    """Return text with control characters escaped as in JSON; line breaks and tabs stay."""
    return text.translate(_ESCAPES)


def console(*, stderr: bool = False) -> Console:
    """Return a console on stdout or stderr."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return _EscapingConsole(stderr=stderr, highlight=False, markup=False, width=width)


def print_json(value: BaseModel | Any) -> None:
    """Print a model, or any JSON value, for programs."""
    dumped = value.model_dump(mode="json", by_alias=True) if hasattr(value, "model_dump") else value
    print(shown(json.dumps(dumped, indent=2, ensure_ascii=False)))


def print_line(value: BaseModel) -> None:
    """Print a model as one line of JSON, for programs that read line by line."""
    print(shown(value.model_dump_json()), flush=True)


def print_text(text: str) -> None:
    """Print a text unchanged, but escaped if stdout is a terminal."""
    sys.stdout.write(shown(text) if sys.stdout.isatty() else text)
