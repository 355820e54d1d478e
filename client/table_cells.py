"""Table cells of at most a few lines, however narrow the terminal is."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

LEAST_COLUMNS = 8
"""Minimum width of a cropped cell."""


class Cropped:
    """Text that ends with an ellipsis if it does not fit.

    Args:
        text: The text.
        lines: Maximum number of lines.
    """

    def __init__(self, text: str, lines: int = 1) -> None:
        self.text = Text(text)
        self.lines = lines

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return the minimum and the preferred width."""
        wanted = self.text.cell_len
        return Measurement(min(wanted, LEAST_COLUMNS), wanted)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Wrap the text, and crop the last line that fits."""
        width = options.max_width
        lines = list(self.text.wrap(console, width)) if self.lines > 1 else [self.text.copy()]
        shown, cut = lines[: self.lines], lines[self.lines :]
        if cut:
            shown[-1] = Text(f"{shown[-1].plain.rstrip()} {cut[0].plain}{'…' * (len(cut) > 1)}")
        for line in shown:
            line.truncate(width, overflow="ellipsis")
            yield line
