"""Text in a cell of a table that takes a few lines at most, however narrow the terminal is."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

LEAST_COLUMNS = 8
"""A cell that is cropped is not made narrower than this."""


class Cropped:
    """Text that ends with an ellipsis where it does not fit.

    Args:
        text: what is shown.
        lines: how many lines it may take.
    """

    def __init__(self, text: str, lines: int = 1) -> None:
        self.text = Text(text)
        self.lines = lines

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Say how wide it wants to be, and that it can live with less."""
        wanted = self.text.cell_len
        return Measurement(min(wanted, LEAST_COLUMNS), wanted)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Break the text into lines, and crop the last one that there is room for."""
        width = options.max_width
        lines = list(self.text.wrap(console, width)) if self.lines > 1 else [self.text.copy()]
        shown, cut = lines[: self.lines], lines[self.lines :]
        if cut:
            shown[-1] = Text(f"{shown[-1].plain.rstrip()} {cut[0].plain}{'…' * (len(cut) > 1)}")
        for line in shown:
            line.truncate(width, overflow="ellipsis")
            yield line
