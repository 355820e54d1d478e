"""What every measurement here does alike: take turns, take medians, name the machine, print a table and JSON.

A figure is a ratio against something else of the same run, or a time that is named as such. Runs of what is compared
follow each other in turn, so that whatever else the machine does meets both.
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
    """One answer."""

    question: str
    value: float
    unit: str = "times"
    at_least: float | None = None
    at_most: float | None = None
    spread: tuple[float, float] | None = None
    """Least and greatest of the runs."""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether it is what it should be; None where nothing is asked."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )


def device() -> torch.device:
    """The GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock seconds of one call, with all that it started on a GPU."""
    _wait()
    began = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - began


def in_turn(
    ways: Mapping[str, Callable[[], object]], runs: int = RUNS, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each way, run by run, one after the other in turn.

    Args:
        ways: what to run, by name.
        runs: that count.
        warm_up: rounds before them that do not.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm_up + runs):
        for name, run in ways.items():
            taken = seconds(run)
            if turn >= warm_up:
                found[name].append(taken)
    return found


def ratio(question: str, above: list[float], below: list[float], **wanted: Any) -> Figure:
    """Median of the ratios of runs that followed each other."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    details = {"seconds": [_shown(above), _shown(below)], **wanted.pop("details", {})}
    spread = (min(ratios), max(ratios))
    return Figure(question, statistics.median(ratios), spread=spread, details=details, **wanted)


def timed(question: str, taken: list[float], **wanted: Any) -> Figure:
    """Median of seconds."""
    return Figure(question, statistics.median(taken), "s", spread=(min(taken), max(taken)), **wanted)


def peak_bytes(run: Callable[[], object]) -> int:
    """Bytes that a call had in memory at most, beyond what was there before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # memory that earlier calls left behind would hide what this one needs
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def report(figures: list[Figure]) -> None:
    """A table for people on stderr, JSON for programs on stdout."""
    for figure in figures:
        print(_row(figure), file=sys.stderr)
    print(json.dumps({"machine": machine(), "figures": [_plain(figure) for figure in figures]}, indent=1))


def machine() -> dict[str, Any]:
    """Where and with what it was measured."""
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


def _shown(taken: list[float]) -> list[float]:
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
