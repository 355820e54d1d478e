"""The code in README and the notebook runs as it stands, on drawn pictures."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gkd_core.config import DistillRun
from gkd_core.library import distillation

ROOT = Path(__file__).parents[3]
NOTEBOOK = ROOT / "docs" / "library.ipynb"


def lines_of_readme() -> str:
    section = (ROOT / "README.md").read_text().split("\n## As a library\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return str(block)


def cells() -> list[str]:
    found = json.loads(NOTEBOOK.read_bytes())["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def little_training(monkeypatch: pytest.MonkeyPatch) -> list[DistillRun]:
    """Train one epoch of small pictures whatever is asked for, and record what was asked for."""
    asked: list[DistillRun] = []
    train: Callable[..., Iterator[Any]] = distillation.train

    def little(config: DistillRun, *others: Any) -> Iterator[Any]:
        asked.append(config)
        recipe = config.train.model_copy(update={"epochs": 1, "image_size": 64, "workers": 0})
        return train(config.model_copy(update={"train": recipe}), *others)

    monkeypatch.setattr(distillation, "train", little)
    return asked


def test_the_lines_of_the_readme_run(
    here: Path,
    shapes: Path,
    teacher: Path,
    little_training: list[DistillRun],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(shapes, "cells")
    shutil.copy(teacher, "teacher.safetensors")
    shutil.copy(shapes / "images" / "val" / "00001.jpg", "picture.jpg")
    names: dict[str, Any] = {}
    exec(lines_of_readme(), names)
    assert [(run.train.epochs, run.train.image_size) for run in little_training] == [(30, 320)]
    assert names["result"].student == here / "runs" / "cells" / "student.safetensors"
    assert " AP (95 % interval " in capsys.readouterr().out
    assert names["boxes"].shape[1] == 4


def test_the_notebook_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells():
        exec(compile(cell, str(NOTEBOOK), "exec"), names)
    out = capsys.readouterr().out
    assert "distill_pearson" in out
    assert "Did you mean `backbone_width`?" in out
    assert names["result"].report.gain is not None


def test_the_notebook_is_kept_without_outputs() -> None:
    found = json.loads(NOTEBOOK.read_bytes())
    assert found["nbformat"] == 4
    assert all(
        cell["outputs"] == [] and cell["execution_count"] is None
        for cell in found["cells"]
        if cell["cell_type"] == "code"
    )
    assert len({cell["id"] for cell in found["cells"]}) == len(found["cells"])
