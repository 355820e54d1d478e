"""Charts of the results of `run.py`: each figure relative to its target, and how selection grows.

    python bench/charts.py bench/results/MACHINE-DATE.json

Writes MACHINE-DATE-figures.png and MACHINE-DATE-growth.png beside it; `make bench` does so by itself.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

REACHED, MISSED = "#009E73", "#D55E00"
"""Colours of Okabe and Ito; a figure that missed its target is also hatched."""
LOOKS = (("#0072B2", "o-"), ("#D55E00", "s--"))


def draw(results: Path) -> list[Path]:
    """Draw the charts of one file of results.

    Returns:
        The PNG files that were written; none where nothing is to be drawn.
    """
    found = json.loads(results.read_text())
    figures = [each for part in found["measurements"].values() for each in part.get("figures", ())]
    where = f"{found['machine']['gpu'] or found['machine']['cpu']}, {found['date']}"
    charts = {"figures": _against_wanted(figures, where), "growth": _growth(figures, where)}
    written = []
    for name, chart in charts.items():
        if chart is not None:
            written.append(results.with_name(f"{results.stem}-{name}.png"))
            chart.savefig(written[-1])
    return written


def _against_wanted(figures: list[dict[str, Any]], where: str) -> Figure | None:
    """Draw a bar for each figure: the target lies at 1, what was reached to the right of it."""
    asked = [each for each in figures if each["reached"] is not None]
    if not asked:
        return None
    chart = Figure(figsize=(11, 1.2 + 0.42 * len(asked)), dpi=110, layout="constrained")
    axes = chart.add_subplot()
    for row, each in enumerate(reversed(asked)):
        _bar(axes, row, each)
    axes.set_yticks(range(len(asked)), [_label(each) for each in reversed(asked)], fontsize=7)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("share of what is wanted that was reached: at 1 or beyond it is")
    axes.set_title(f"Figures and what they should be ({where})", fontsize=10)
    return chart


def _bar(axes: Axes, row: int, each: dict[str, Any]) -> None:
    share = each["value"] / each["at_least"] if each["at_least"] else each["at_most"] / each["value"]
    colour, hatch = (REACHED, "") if each["reached"] else (MISSED, "//")
    axes.barh(row, share - 1, left=1, color=colour, hatch=hatch, height=0.6)
    axes.annotate(
        f"{each['value']:.3g} {each['unit']}".strip(),
        (max(share, 1), row),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=7,
    )


def _label(each: dict[str, Any]) -> str:
    wanted = f"at least {each['at_least']:g}" if each["at_least"] else f"at most {each['at_most']:g}"
    question = each["question"] if len(each["question"]) < 90 else each["question"][:87] + "..."
    return f"{question}\n{wanted} {each['unit']}".strip()


def _growth(figures: list[dict[str, Any]], where: str) -> Figure | None:
    """Draw seconds and memory of selections over instances, both axes logarithmic."""
    grown = list(_curves(figures))
    if not grown:
        return None
    chart = Figure(figsize=(9, 4), dpi=110, layout="constrained")
    for axes, unit in zip(chart.subplots(1, 2), ("seconds", "MiB"), strict=True):
        for (name, curves), (colour, look) in zip(grown, LOOKS, strict=False):
            points = sorted((int(size), value) for size, value in curves[unit].items())
            axes.loglog(*zip(*points, strict=True), look, color=colour, label=name)
        axes.set_xlabel("instances of one class and level")
        axes.set_ylabel(unit)
        axes.grid(alpha=0.3)
        axes.legend()
    chart.suptitle(f"Choosing prototypes ({where})", fontsize=10)
    return chart


def _curves(figures: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, dict[str, float]]]]:
    for each in figures:
        if {"seconds", "MiB"} <= each["details"].keys() and isinstance(each["details"]["seconds"], dict):
            yield each["question"].removeprefix("growth of the ").partition(" to ")[0], each["details"]


def main() -> None:
    """Draw the charts of the named files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+")
    for path in parser.parse_args().results:
        print(*draw(path), sep="\n")


if __name__ == "__main__":
    main()
