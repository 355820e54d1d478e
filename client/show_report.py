"""The report of a job on the terminal: models side by side, and the gain of distillation."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.show_text import number, size
from gkd_core.events import (
    Gain,
    ModelReport,
    Report,
    in_order,
)


def report(report: Report) -> RenderableType:
    """Return the models side by side, if any, the gain of distillation, and notes on the figures."""
    lines = [Text(f"note: {note}", style="dim") for note in report.notes]
    if report.gain_on_test:
        lines = [*_gain(report.gain_on_test, " on test"), *lines]
    if report.gain:
        lines = [*_gain(report.gain, " on val" if report.gain_on_test else ""), *lines]
    if report.figures:
        lines.append(Text(f"to look at: {', '.join(report.figures)}"))
    return Group(_models(report), *_on_test(report), *lines) if report.models else Group(*lines)


def _gain(gain: Gain, where: str) -> list[Text]:
    interval = f"95 % interval {gain.ap_low:+.3f} to {gain.ap_high:+.3f}"
    told = f"student minus control{where}: {gain.ap:+.3f} AP ({interval}), {gain.ap50:+.3f} AP50"
    return [Text(told), Text(gain.verdict, style="bold")]


def _models(report: Report) -> Table:
    measured = ("parameters", "size", "GFLOPs", "ms per image")
    table = Table("", "detector", *report.headline, *measured, box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for column in table.columns[2:-1]:  # if the terminal is narrow, words are broken and numbers are not
        column.no_wrap = True
        column.min_width = len(str(column.header))
    for role in in_order(report.models):
        table.add_row(role, *_model_cells(report.models[role], report.headline))
    return table


def _on_test(report: Report) -> Iterator[Table]:
    """Yield a table of the models' metrics on the test split, if there is one."""
    found = {role: model.test for role in in_order(report.models) if (model := report.models[role]).test}
    if not found:
        return
    table = Table("on test", *report.headline, box=None)
    for role, scores in found.items():
        numbers = scores.metrics if scores else {}
        table.add_row(role, *(number(numbers.get(name)) for name in report.headline))
    yield table


def _model_cells(model: ModelReport, metrics: tuple[str, ...]) -> tuple[str, ...]:
    latency = model.latency_ms
    return (
        f"{model.architecture} {model.backbone}",
        *(number(model.metrics.get(name)) for name in metrics),
        f"{model.parameters / 1e6:.2f} M",
        size(model.size) if model.size is not None else "-",
        f"{model.gflops:.1f}",
        f"{latency.median:.1f} ({latency.low:.1f} to {latency.high:.1f})",
    )
