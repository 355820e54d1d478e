"""What `make demo` trains: two job specs for pictures that GKD draws, two for a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client.demo_budget import Plan, every

DRAWING = {"train": 320, "val": 80, "size": 128, "seed": 7}
"""How many pictures `gkd_core.data.shapes` draws, how large (pixels), and from which seed."""

_SHORT = {"augment": {"mosaic": 0, "scale": [0.8, 1.2]}, "ema": 0.99, "optimizer": {"lr": 1e-3}}
"""For a few hundred steps: no mosaic, which needs longer than that to pay, and an average that forgets sooner."""

_OWN = {"batch_size": 4, "precision": "auto"}
"""Few pictures: smaller batches are more steps, which is what a network that starts from scratch needs."""

_RECIPES: dict[str, dict[str, Any]] = {
    "shapes": {
        "model": {"backbone": "resnet18", "fpn": {"channels": 128}, "head": {"depth": 2}},
        "teacher": {"epochs": 8, "image_size": 128, "evaluate_every": 4, **_SHORT},
        "student": {"epochs": 10, "image_size": 128, "evaluate_every": 5, **_SHORT},
        "prototypes": {"every": 5},
    },
    "own": {
        "model": {"backbone": "resnet34", "fpn": {"channels": 128}, "head": {"depth": 2}},
        "teacher": {"epochs": 24, "image_size": 320, "evaluate_every": 4, **_OWN, "optimizer": {"lr": 1e-3}},
        "student": {"epochs": 30, "image_size": 320, "evaluate_every": 6, **_OWN, "optimizer": {"lr": 2e-3}},
        "prototypes": {"every": 6},
    },
}
"""Minutes on two CPU cores for the drawn pictures; for a user's own it depends on how many there are. Evaluations and
passes for prototypes are rarer than by default, because each takes as long as half an epoch here."""

_STUDENT = {
    "architecture": "fcos",
    "backbone": "resnet18",
    "backbone_width": 0.5,
    "fpn": {"channels": 64},
    "head": {"depth": 2},
}
"""Three million weights."""


def usual(recipe: str) -> Plan:
    """The epochs of a recipe where there is time for all of them."""
    chosen = _RECIPES[recipe]
    return Plan(chosen["teacher"]["epochs"], chosen["student"]["epochs"])


def teacher(data: str, recipe: str, epochs: int | None = None) -> dict[str, Any]:
    """The job that makes the teacher; `recipe` is "shapes" or "own", and `epochs` None its own number of them."""
    chosen = _RECIPES[recipe]
    model = {"architecture": "fcos", **chosen["model"]}
    train = _for_epochs(_with_precision(chosen["teacher"]), epochs)
    return {"kind": "train", "name": f"{recipe}-teacher", "data": data, "model": model, "train": train}


def control(data: str, recipe: str) -> dict[str, Any]:
    """A job that trains what the control is; never sent, but steps of it are timed."""
    train = _with_precision(_RECIPES[recipe]["student"])
    return {"kind": "train", "name": f"{recipe}-control", "data": data, "model": _STUDENT, "train": train}


def distillation(data: str, recipe: str, teacher_id: str, epochs: int | None = None) -> dict[str, Any]:
    """The job that distils the teacher that another job makes, with a control."""
    chosen = _RECIPES[recipe]
    train = _for_epochs(_with_precision(chosen["student"]), epochs)
    prototypes = {"every": every(chosen["prototypes"]["every"], train["epochs"])}
    return {
        "kind": "distill",
        "name": f"{recipe}-student",
        "data": data,
        "teacher": {"weights": f"job:{teacher_id}"},
        "student": _STUDENT,
        "distill": {"prototypes": prototypes},
        "train": train,
    }


def _for_epochs(train: dict[str, Any], epochs: int | None) -> dict[str, Any]:
    epochs = epochs or train["epochs"]
    return train | {"epochs": epochs, "evaluate_every": every(train["evaluate_every"], epochs)}


def _with_precision(train: dict[str, Any]) -> dict[str, Any]:
    """The recipe with "auto" decided. Small pictures stay in float32: their bfloat16 gradients are slower."""
    return train | {"precision": precision()} if train.get("precision") == "auto" else train


def precision(cpu_info: Path = Path("/proc/cpuinfo")) -> str:
    """bfloat16 where the processor computes in it, which halves the time; float32 elsewhere."""
    flags = cpu_info.read_text() if cpu_info.exists() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"
