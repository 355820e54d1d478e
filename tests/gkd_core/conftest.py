"""A tiny drawn data set and tiny detectors, for runs of seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gkd_core.config import DistillRun, TrainRun, run_config
from gkd_core.data.shapes import draw_shapes
from gkd_core.train import train

TINY = {"backbone_width": 0.125, "fpn": {"channels": 16}, "head": {"depth": 1}}
RECIPE = {
    "epochs": 2,
    "batch_size": 4,
    "image_size": 64,
    "workers": 0,
    "schedule": {"warmup_epochs": 0.5},
}

Make = Callable[..., TrainRun | DistillRun]


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    draw_shapes(folder, train=14, val=4, size=64, seed=0)
    return folder


@pytest.fixture(scope="session")
def teacher(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a teacher that was trained by the engine itself."""
    folder = tmp_path_factory.mktemp("teacher")
    list(train(config(shapes, train={**RECIPE, "epochs": 1}), folder))
    return folder / "model.safetensors"


def config(shapes: Path, **changes: Any) -> TrainRun | DistillRun:
    """Return a train run over the drawn pictures, or a distill run when a teacher is given."""
    kind = {"kind": "distill"} if "teacher" in changes else {"kind": "train", "model": TINY}
    spec = {"data": str(shapes), "train": RECIPE, "device": "cpu", **kind, **changes}
    return run_config.validate_python(spec)


@pytest.fixture(scope="session")
def distill(shapes: Path, teacher: Path) -> Make:
    """Return a function that makes a distill run: `distill(epochs=3, distill={...})`.

    Other names belong to the recipe.
    """

    def make(**changes: Any) -> TrainRun | DistillRun:
        parts = {name: changes.pop(name) for name in ("distill", "student") if name in changes}
        spec = {"teacher": {"weights": str(teacher)}, "student": TINY, **parts}
        return config(shapes, train={**RECIPE, **changes}, **spec)

    return make


@pytest.fixture(scope="session")
def plain(shapes: Path) -> Make:
    """Return a function that makes a train run: `plain(epochs=3, model={...})`.

    Other names belong to the recipe.
    """

    def make(**changes: Any) -> TrainRun | DistillRun:
        model = {**TINY, **changes.pop("model", {})}
        return config(shapes, model=model, train={**RECIPE, **changes})

    return make
