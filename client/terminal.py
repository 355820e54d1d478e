"""Where the commands print: a terminal as wide as it is, or a pipe, which has no edge to break lines at.

What is printed was written by others: names, messages of errors, lines of logs. A terminal obeys some characters, so
they are shown instead of sent.
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
"""Columns of a table that nobody watches: enough for every one of ours."""

_OBEYED = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Control characters, and those that turn the direction of writing."""
_SHOWN = {code: f"\\u{code:04x}" for code in _OBEYED if chr(code) not in "\n\t"}


class _Showing(Console):
    """A console that shows the characters that a terminal would obey, except its own, and takes no text for markup."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, but for the text of others."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown(segment.text))


def shown(text: str) -> str:
    """Text that no terminal obeys, as JSON writes it; line breaks and tabs stay."""
    return text.translate(_SHOWN)


def console(*, stderr: bool = False) -> Console:
    """A console on the standard output or error."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return _Showing(stderr=stderr, highlight=False, markup=False, width=width)


def print_json(value: BaseModel | Any) -> None:
    """For programs: a value of ours, or anything that JSON knows."""
    dumped = value.model_dump(mode="json", by_alias=True) if hasattr(value, "model_dump") else value
    print(shown(json.dumps(dumped, indent=2, ensure_ascii=False)))


def print_line(value: BaseModel) -> None:
    """For programs that read line by line."""
    print(shown(value.model_dump_json()), flush=True)


def print_text(text: str) -> None:
    """A text of others as it is, but to a terminal as one can look at it safely."""
    sys.stdout.write(shown(text) if sys.stdout.isatty() else text)
