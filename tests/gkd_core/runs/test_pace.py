"""The training speed of a machine, measured by real steps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gkd_core.config import DataConfig, DetectorConfig, TrainConfig, TrainRun
from gkd_core.data.find import find_layout
from gkd_core.runs import pace

TINY = {"backbone_width": 0.125, "fpn": {"channels": 8}, "head": {"depth": 1}}


@pytest.fixture
def run(shapes: Path) -> TrainRun:
    recipe = TrainConfig(epochs=1, image_size=64, batch_size=2, workers=0)
    data = find_layout(DataConfig(path=str(shapes)))
    return TrainRun(data=data, model=DetectorConfig.model_validate(TINY), train=recipe, device="cpu")


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_better_number_of_threads_is_taken(run: TrainRun, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pace, "BEGAN", pace.time.monotonic())
    monkeypatch.setattr(pace, "_time_step", lambda run, data, threads: {1: 0.2, 2: 0.3}[threads])
    found = pace.measure([run, run], [2, 1])
    assert found["threads"] == torch.get_num_threads() == 1
    assert [each["step"] for each in found["runs"]] == [0.2, 0.2]


def test_where_time_is_over_one_step_with_one_setting_has_to_do(
    run: TrainRun, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pace, "BEGAN", pace.time.monotonic() - pace.ALL_SECONDS)
    steps: list[int] = []
    train_step = pace.Training.train_step

    def counted(self: pace.Training, batch: list[pace.Sample]) -> dict[str, torch.Tensor]:
        steps.append(torch.get_num_threads())
        return train_step(self, batch)

    monkeypatch.setattr(pace.Training, "train_step", counted)
    assert pace.measure([run], [2, 1])["threads"] == 2
    assert steps == [2, 2], "one that builds, one that is timed"


def test_the_command_prints_what_was_measured(run: TrainRun):
    given = json.dumps([run.model_dump(mode="json", by_alias=True)] * 2)
    command = [sys.executable, "-P", "-m", "gkd_core.runs.pace", "--threads", "1"]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["threads"] == 1
    assert all(each["step"] > 0 and each["picture"] > 0 for each in found["runs"])
    assert all(each["steps"] == found["pictures"][0] // 2 for each in found["runs"])
