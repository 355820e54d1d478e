"""Jobs side by side on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.comparison import Comparison
from client.show_text import number, size, warning_text
from gkd_core.events import ModelReport, in_order


def comparison(found: Comparison) -> RenderableType:
    """Return the models of all jobs, the gains, the fields that differ, and doubts in front of all."""
    doubts = [warning_text(f"AP cannot be compared: {doubt}", "") for doubt in found.doubts]
    parts: list[RenderableType] = [*doubts, _models(found), *_gains(found)]
    return Group(*parts, "", _differences(found) if found.differences else Text("their specs are the same"))


def _labels(found: Comparison) -> list[str]:
    """Return what jobs are called: by name, or by id if names repeat."""
    names = [job.name for job in found.jobs]
    return names if len(set(names)) == len(names) else [job.id for job in found.jobs]


def _models(found: Comparison) -> Table:
    metrics = tuple(dict.fromkeys(name for report in found.reports for name in report.headline))
    table = Table(
        "job", "", "detector", *metrics, "parameters", "size", "GFLOPs", "ms", box=None, pad_edge=False
    )
    for column in table.columns[3:]:
        column.justify, column.no_wrap = "right", True
    for label, report in zip(_labels(found), found.reports, strict=True):
        for role in in_order(report.models):
            table.add_row(Text(label), role, *_cells(report.models[role], metrics))
    return table


def _cells(model: ModelReport, metrics: tuple[str, ...]) -> Iterator[str]:
    yield f"{model.architecture} {model.backbone}"
    yield from (number(model.metrics.get(name)) for name in metrics)
    yield f"{model.parameters / 1e6:.2f} M"
    yield size(model.size) if model.size is not None else "-"
    yield f"{model.gflops:.1f}"
    yield f"{model.latency_ms.median:.1f}"


def _gains(found: Comparison) -> Iterator[Text]:
    for label, report in zip(_labels(found), found.reports, strict=True):
        for gain, where in ((report.gain, report.split), (report.gain_on_test, "test")):
            if gain:
                yield Text(f"{label}, student minus control on {where}: {gain}, {gain.ap50:+.3f} AP50")


def _differences(found: Comparison) -> Table:
    table = Table("what differs", *_labels(found), box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for field, values in found.differences.items():
        table.add_row(Text(field), *(Text(_value(value)) for value in values))
    return table


def _value(value: object) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)
