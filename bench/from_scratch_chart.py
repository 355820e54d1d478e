"""Draws curves of `from_scratch.py` in one chart, beside points from elsewhere.

python bench/from_scratch_chart.py CURVE.json ... --out CHART.png [--beside NAME:MINUTES:AP ...]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

LOOKS = (("#0072B2", "o-"), ("#56B4E9", "o--"), ("#D55E00", "s-"), ("#009E73", "^-"), ("#CC79A7", "D-"))
"""Colours of Okabe and Ito; markers and lines differ too."""


def main() -> None:
    """Draw the chart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curves", type=Path, nargs="*")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--beside", action="append", default=[])
    options = parser.parse_args()
    if not options.curves or not options.out:
        print("nothing to do: name curves and --out", file=sys.stderr)
        return
    _draw([json.loads(path.read_text()) for path in options.curves], options.beside, options.out)


def _draw(curves: list[dict], beside: list[str], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for found, (colour, look) in zip(curves, LOOKS, strict=False):
        points = found["curve"]
        name = f"{found['architecture']}, seed {found['seed']}, {found['epochs']} epochs"
        axes.plot([p["minutes"] for p in points], [p["AP"] for p in points], look, color=colour, label=name)
    for point in beside:
        name, minutes, ap = point.rsplit(":", 2)
        axes.plot(float(minutes), float(ap), "k*", markersize=12)
        axes.annotate(
            name, (float(minutes), float(ap)), xytext=(0, 9), textcoords="offset points", ha="center"
        )
    axes.set_xlabel("minutes of training (processor time of one thread; stars: wall clock of two cores)")
    axes.set_ylabel("AP on the validation split")
    axes.set_title("From scratch: 3 to 4 million parameters, 320 px")
    axes.set_xlim(0, 1.1 * axes.get_xlim()[1])
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(out)


if __name__ == "__main__":
    main()
