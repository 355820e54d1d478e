"""Curves over training: losses, and scores on the validation split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from gkd_core.figures.history import RunHistory
from gkd_core.figures.style import LOOKS, SERIES, chart_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 240
"""Points of a curve; more are averaged, else noise hides the trend."""
COLUMNS = 3
PANEL = (4.0, 2.9)
"""Size of a panel in inches."""
HEAD = 0.68
"""Inches for title and explanation."""
DPI = 110
LOG_FROM = 20.0
"""Ratio of the largest to the smallest value from which a logarithmic scale is used."""


def draw_losses(history: Mapping[str, RunHistory]) -> Image.Image | None:
    """Draw a panel for the sum and for each named loss; return None where no step was recorded."""
    runs = {role: history[role] for role in LOOKS if role in history and history[role].losses}
    if not runs:
        return None
    names = list(
        dict.fromkeys(name for run in runs.values() for losses in run.losses.values() for name in losses)
    )
    wanted = ["", *names] if len(names) > 1 else names
    with chart_style():
        figure, panels = _grid(len(wanted))
        for axes, name in zip(panels, wanted, strict=True):
            for role, run in runs.items():
                _draw_loss(axes, role, run, name)
            axes.set_title(name or "sum of all")
            _set_loss_scale(axes)
            axes.set_xlabel(_step_label(runs))
            axes.set_ylabel("loss, weighted")
        head(figure, panels, "Losses in training", _average_text(runs))
        return rendered(figure)


def _draw_loss(axes: Axes, role: str, run: RunHistory, name: str) -> None:
    """Draw one curve; a loss that begins late or ends early has gaps."""
    look = LOOKS[role]
    values = [
        sum(losses.values()) if not name else losses.get(name, math.nan) for losses in run.losses.values()
    ]
    if not np.isfinite(values).any():
        return
    steps, means = _thinned(np.array(list(run.losses), dtype=float), np.array(values))
    marker = look.marker if len(steps) <= 30 else ""
    axes.plot(
        steps, means, look.line, color=look.colour, marker=marker, markersize=4, label=role, linewidth=1.6
    )


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `POINTS` points, each the mean of a few consecutive ones."""
    together = _points_per_mean(len(steps))
    starts = range(0, len(steps), together)

    def means(of: np.ndarray) -> np.ndarray:
        return np.array([of[start : start + together].mean() for start in starts])

    return means(steps), means(values)


def _points_per_mean(points: int) -> int:
    """Return how many points are averaged to one."""
    return -(-points // POINTS)


def _set_loss_scale(axes: Axes) -> None:
    """Set the axis from zero, or logarithmic where a linear one would hide one end."""
    from matplotlib.ticker import LogLocator, NullFormatter

    drawn = np.concatenate(
        [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines] or [np.zeros(1)]
    )
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) and drawn.min() > 0 and drawn.max() / drawn.min() >= LOG_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 1.08 * float(drawn.max(initial=0)) or 1)
    axes.set_xlim(left=0)


def _step_label(runs: Mapping[str, RunHistory]) -> str:
    run = next(iter(runs.values()))
    each = f" ({run.steps // run.epochs} per epoch)" if run.epochs else ""
    return f"optimiser step{each}"


def _average_text(runs: Mapping[str, RunHistory]) -> str:
    together = _points_per_mean(max(len(run.losses) for run in runs.values()))
    each = "each point is the mean over the steps since the one before"
    return each if together == 1 else f"each point is the mean of {together} that were told of"


# ---- scores ----------------------------------------------------------------------------------------------


def draw_scores(
    history: Mapping[str, RunHistory], teacher: Mapping[str, float] | None, best_by: str
) -> Image.Image | None:
    """Draw AP, AP50 and the metric that ranks by epoch, and the reconstruction error of the prototypes.

    Args:
        history: of each training, by its name.
        teacher: its scores, drawn as a horizontal line.
        best_by: the metric by which the best epoch is chosen.
    """
    runs = {
        role: history[role]
        for role in LOOKS
        if role in history and role != "teacher" and history[role].evaluations
    }
    if not runs:
        return None
    metrics = list(dict.fromkeys(["AP", "AP50", best_by]))
    errors = next((run.errors for run in runs.values() if run.errors), {})
    with chart_style():
        figure, panels = _grid(len(metrics) + bool(errors))
        for axes, metric in zip(panels, metrics, strict=False):
            _draw_metric(axes, runs, metric, teacher, starred=metric == best_by)
        if errors:
            _draw_errors(panels[-1], errors)
        for axes in panels:
            _set_epochs(axes, max(run.epochs for run in runs.values()))
        said = f"star: the epoch that is published, the best by {best_by}"
        head(figure, panels[: len(metrics)], "Reached on the validation split", said)
        return rendered(figure)


def _draw_metric(
    axes: Axes,
    runs: Mapping[str, RunHistory],
    metric: str,
    teacher: Mapping[str, float] | None,
    *,
    starred: bool,
) -> None:
    level = teacher.get(metric, -1) if teacher else -1
    if level >= 0:
        look = LOOKS["teacher"]
        axes.axhline(level, color=look.colour, linestyle=look.line, label="teacher", linewidth=1.6)
    for role, run in runs.items():
        known = {
            epoch: numbers[metric]
            for epoch, numbers in run.evaluations.items()
            if numbers.get(metric, -1) >= 0
        }
        look = LOOKS[role]
        marker = look.marker if len(known) <= 40 else ""
        axes.plot(
            list(known),
            list(known.values()),
            look.line,
            color=look.colour,
            marker=marker,
            markersize=4,
            label=role,
        )
        if starred and run.best in known:
            axes.plot(
                run.best, known[run.best], "*", color=look.colour, markersize=14, markeredgecolor="white"
            )
    axes.set_title(
        {"AP": "AP (mean over overlaps 0.50 to 0.95)", "AP50": "AP50 (overlap 0.50)"}.get(metric, metric)
    )
    axes.set_ylabel(f"{metric}, 0 to 1")
    axes.set_ylim(0, min(1.0, 1.1 * axes.get_ylim()[1]) or 1)


def _draw_errors(axes: Axes, errors: Mapping[int, Mapping[str, float]]) -> None:
    """Draw the reconstruction error of the prototypes, level by level."""
    levels = list(dict.fromkeys(level for found in errors.values() for level in found))
    for position, level in enumerate(levels):
        colour, line, marker = SERIES[position % len(SERIES)]
        marker = marker if len(errors) <= 40 else ""
        values = [found.get(level, math.nan) for found in errors.values()]
        label = f"stride {level}"
        axes.plot(list(errors), values, line, color=colour, marker=marker, markersize=4, label=label)
    axes.set_title("Prototypes: what they do not explain")
    axes.set_ylabel("error per object, 0 to 2")
    axes.set_ylim(0, 1.4 * max(value for found in errors.values() for value in found.values()) or 1)
    axes.legend(fontsize=8.5, ncols=3, loc="upper center", handlelength=2.2, columnspacing=1.0)


def _set_epochs(axes: Axes, epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epochs of training")
    axes.set_xlim(-0.04 * epochs, 1.04 * epochs)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


# ---- the sheet -------------------------------------------------------------------------------------------


def _grid(count: int) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with `count` panels; without pyplot, whose figures belong to the whole process."""
    from matplotlib.figure import Figure

    columns = min(COLUMNS, count) if count != 4 else 2
    rows = -(-count // columns)
    size = (max(PANEL[0] * columns, 5.0), PANEL[1] * rows + HEAD + 0.3)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = [figure.add_subplot(rows, columns, position + 1) for position in range(count)]
    return figure, panels


def head(figure: Figure, panels: Sequence[Axes], title: str, said: str) -> None:
    """Write title and explanation, and one legend for the panels."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    height = figure.get_figheight()
    figure.text(
        0.1 / figure.get_figwidth(), 1 - 0.1 / height, title, va="top", fontsize=14, fontweight="bold"
    )
    figure.text(0.1 / figure.get_figwidth(), 1 - 0.38 / height, said, va="top", fontsize=9.5)
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, 0, 1, 1 - HEAD / height), w_pad=0.1, h_pad=0.06)
    columns = max(1, len(handles))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=columns, handlelength=3.2
    )


def rendered(figure: Figure) -> Image.Image:
    """Render a figure to an image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
