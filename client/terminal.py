"""Where the commands print: a terminal as wide as it is, or a pipe, which has no edge to break lines at."""

from __future__ import annotations

import sys

from rich.console import Console

PIPE_WIDTH = 200
"""Columns of a table that nobody watches: enough for every one of ours."""


def console(*, stderr: bool = False) -> Console:
    """A console on the standard output or error."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)
