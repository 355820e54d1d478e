"""Engines killed at the worst moments, again and again, end with the same bits as an undisturbed one.

`GKD_KILLS` sets how often, 12 by default; docs/decisions/0060 says why it is forks that are killed.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gkd_core.config import DistillRun, TrainRun
from gkd_core.detectors.checkpoint import sha256_of
from gkd_core.run_dir import RunDir

KILLS = int(os.environ.get("GKD_KILLS", "8"))
ENGINE = Path(__file__).with_name("forked_engine.py")
FEW = 4
"""Kills in the case with other state: one at each moment."""
STEPS = 2
"""Optimiser steps of an epoch."""


class Engines:
    """Starts engine processes, one at a time, and kills them."""

    def __init__(self) -> None:
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._forks = subprocess.Popen(
            [sys.executable, ENGINE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, **one_thread},
        )
        self._running = 0

    def start(self, folder: Path) -> int:
        """Start an engine and return its process id."""
        self._forks.stdin.write(f"{folder}\n")
        self._running = self._answer()
        return self._running

    def wait(self) -> int:
        """Wait for the engine and return its exit status."""
        status = self._answer()
        self._running = 0
        return status

    def run(self, folder: Path) -> int:
        self.start(folder)
        return self.wait()

    def _answer(self) -> int:
        return int(self._forks.stdout.readline())

    def close(self) -> None:
        if self._running:
            os.kill(self._running, signal.SIGKILL)
        self._forks.kill()
        self._forks.wait()
        self._forks.stdin.close()
        self._forks.stdout.close()


@pytest.fixture
def engines() -> Iterator[Engines]:
    engines = Engines()
    yield engines
    engines.close()


# ---- moments, seen from outside --------------------------------------------------------------------------


class Run:
    """A run directory, and the events since the last call of `news`."""

    def __init__(self, folder: Path, config: TrainRun | DistillRun) -> None:
        self.folder = folder
        self.states = folder / "checkpoints"
        self._events = folder / "events.jsonl"
        RunDir(folder).prepare(config, attempt=1)
        self.remember()

    def remember(self) -> None:
        self._seen = self._events.stat().st_size if self._events.exists() else 0
        self._states_seen = {path.name for path in self.states.glob("student-*.pt")}

    def news(self) -> list[dict]:
        if not self._events.exists():
            return []
        *whole, _ = self._events.read_bytes()[self._seen :].split(b"\n")
        return [json.loads(line) for line in whole]

    def in_selection(self) -> bool:
        """Return whether an epoch was saved and prototypes are renewed at the start of the next."""
        told = [event for event in self.news() if event["kind"] in ("progress", "prototypes")]
        return bool(told) and told[-1].get("saved", False)

    def in_evaluation(self) -> bool:
        """Return whether the epoch's last step is saved, and its evaluation is not reported."""
        new = {path.name for path in self.states.glob("student-*.pt")} - self._states_seen
        steps = [int(name[len("student-") : -len(".pt")]) for name in new]
        evaluated = [event["epoch"] for event in self.news() if event["kind"] == "evaluation"]
        return bool(steps) and max(steps) // STEPS > max(evaluated, default=0)

    def is_writing(self) -> bool:
        """Return whether a checkpoint is being written."""
        return any(self.states.glob(".*.tmp"))

    @property
    def torn(self) -> int:
        """Return how often an engine reported that its newest state is damaged."""
        return self._events.read_text().count("cannot be read")

    def tear_newest(self) -> None:
        newest = max(self.states.glob("student-*.pt"))
        os.truncate(newest, newest.stat().st_size // 2)


def kill_when(moment: Callable[[], bool], engines: Engines, process: int) -> bool:
    """Kill the process while `moment` holds, stopped first to make sure; return False if it ended before."""
    while not ended(process):
        if not moment():
            time.sleep(0.0005)
            continue
        os.kill(process, signal.SIGSTOP)
        while state_of(process) not in "TZ":
            pass
        if moment():
            os.kill(process, signal.SIGKILL)
            return engines.wait() == -signal.SIGKILL
        os.kill(process, signal.SIGCONT)
    return False


def state_of(process: int) -> str:
    """Return `R`, `S`, `T` (stopped) or `Z` (ended); `Z` also once the process is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def ended(process: int) -> bool:
    return state_of(process) == "Z"


# ---- the claim -------------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(
    distill: Callable[..., DistillRun], tmp_path: Path, engines: Engines
) -> None:
    parts = {"control": False, "prototypes": {"per_class": 2}}
    config = distill(epochs=KILLS + 8, batch_size=14 // STEPS, distill=parts)
    assert_killing_changes_no_bit(config, KILLS, tmp_path, engines)


@pytest.mark.timeout(600)
def test_neither_do_kills_change_a_bank_or_what_a_backbone_draws(
    distill: Callable[..., DistillRun], tmp_path: Path, engines: Engines
) -> None:
    student = {"backbone": "efficientnet_b0", "fpn": {"channels": 16}, "head": {"depth": 1}}
    prototypes = {"per_class": 2, "source": "bank", "selection": "kmeans"}
    config = distill(
        epochs=FEW + 4,
        batch_size=14 // STEPS,
        student=student | {"backbone_width": 0.125},
        distill={"control": False, "prototypes": prototypes},
    )
    assert_killing_changes_no_bit(config, FEW, tmp_path, engines)


def assert_killing_changes_no_bit(config: DistillRun, kills: int, folder: Path, engines: Engines) -> None:
    undisturbed, killed = Run(folder / "undisturbed", config), Run(folder / "killed", config)
    began = time.monotonic()
    assert engines.run(undisturbed.folder) == 0
    an_epoch = (time.monotonic() - began) / config.train.epochs

    draw = random.Random(0)
    for kill in range(kills):
        killed.remember()
        process = engines.start(killed.folder)
        soon = within(draw.uniform(0, an_epoch), killed)
        moment = (killed.in_selection, killed.in_evaluation, killed.is_writing, soon)[kill % 4]
        assert kill_when(moment, engines, process), f"the run ended before kill {kill + 1}"
        if kill % 5 == 3:
            killed.tear_newest()
    killed.remember()
    assert engines.run(killed.folder) == 0
    # more often where an engine was killed before it had reported it
    assert killed.torn >= len(range(3, kills, 5)) > 0
    assert published(killed) == published(undisturbed)


def within(seconds: float, run: Run) -> Callable[[], bool]:
    """Return a condition that holds so many seconds after the first event."""
    first: list[float] = []

    def due() -> bool:
        if not first and run.news():
            first.append(time.monotonic())
        return bool(first) and time.monotonic() - first[0] >= seconds

    return due


def published(run: Run) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in run.folder.glob("*.safetensors")}
