"""Helpers of all measurements here: run in turn, take medians, describe the machine, print a table and JSON.

A figure is a ratio against something else of the same run, or a time that is named as such. Runs that are compared
follow each other in turn, so that other load on the machine affects both.
"""

from __future__ import annotations

import ctypes
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RUNS = 5


@dataclass(frozen=True)
class Figure:
    """One measured value and its target."""

    question: str
    value: float
    unit: str = "times"
    at_least: float | None = None
    at_most: float | None = None
    spread: tuple[float, float] | None = None
    """Smallest and largest value of the runs."""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Return whether the value meets its limits; None where it has none."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )


def device() -> torch.device:
    """Return the GPU, where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(run: Callable[[], object]) -> float:
    """Return the wall-clock seconds of one call, including all that it started on a GPU."""
    _wait()
    began = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - began


def in_turn(
    ways: Mapping[str, Callable[[], object]], runs: int = RUNS, warm_up: int = 1
) -> dict[str, list[float]]:
    """Measure the seconds of each way, run by run, in turn.

    Args:
        ways: what to run, by name.
        runs: rounds that are measured.
        warm_up: rounds before them that are not.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm_up + runs):
        for name, run in ways.items():
            taken = seconds(run)
            if turn >= warm_up:
                found[name].append(taken)
    return found


def ratio(question: str, above: list[float], below: list[float], **wanted: Any) -> Figure:
    """Return the median of the ratios of runs that followed each other."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    details = {"seconds": [_rounded(above), _rounded(below)], **wanted.pop("details", {})}
    spread = (min(ratios), max(ratios))
    return Figure(question, statistics.median(ratios), spread=spread, details=details, **wanted)


def timed(question: str, taken: list[float], **wanted: Any) -> Figure:
    """Return the median of seconds."""
    return Figure(question, statistics.median(taken), "s", spread=(min(taken), max(taken)), **wanted)


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the largest memory of a call in bytes, beyond what was in use before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # memory that earlier calls freed would hide what this one needs
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def report(figures: list[Figure]) -> None:
    """Print a table for people to stderr, JSON for programs to stdout."""
    for figure in figures:
        print(_row(figure), file=sys.stderr)
    print(json.dumps({"machine": machine(), "figures": [_plain(figure) for figure in figures]}, indent=1))


def machine() -> dict[str, Any]:
    """Return what the figures were measured on: hardware, versions, load."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {name: version(name) for name in ("torch", "torchvision", "numpy")}
    return {
        "cpu": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        **versions,
        "load_before": round(_load(), 2),
    }


def _row(figure: Figure) -> str:
    wanted = f"at least {figure.at_least:g}" if figure.at_least is not None else ""
    wanted = f"at most {figure.at_most:g}" if figure.at_most is not None else wanted
    verdict = {True: "reached", False: "NOT REACHED", None: ""}[figure.reached]
    spread = f"{figure.spread[0]:.4g} to {figure.spread[1]:.4g}" if figure.spread else ""
    return f"{figure.question:<88} {figure.value:>9.4g} {figure.unit:<6} {spread:<22} {wanted:<15} {verdict}"


def _plain(figure: Figure) -> dict[str, Any]:
    return {**asdict(figure), "reached": figure.reached}


def _rounded(taken: list[float]) -> list[float]:
    return [round(value, 5) for value in taken]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _load() -> float:
    return float(Path("/proc/loadavg").read_text().split()[0])
