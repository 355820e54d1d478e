"""The specs of `make demo`: two jobs for pictures that GKD draws, two for a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client.demo_budget import Plan, every

DRAWING = {"train": 320, "val": 80, "size": 128, "seed": 7}
"""Number of pictures that `gkd_core.data.shapes` draws, their size in pixels, and the seed."""

_SHORT = {"augment": {"mosaic": 0, "scale": [0.8, 1.2]}, "ema": 0.99, "optimizer": {"lr": 1e-3}}
"""For a few hundred steps: no mosaic, which needs longer than that to help, and an average with a shorter
memory."""

_OWN = {"batch_size": 4, "precision": "auto"}
"""Few pictures: smaller batches mean more steps, which a network trained from scratch needs."""

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
"""Minutes on two CPU cores for the drawn pictures; for a user's own it depends on their number. Evaluations
and passes for prototypes are rarer than by default, because each takes as long as half an epoch here."""

_STUDENT = {
    "architecture": "fcos",
    "backbone": "resnet18",
    "backbone_width": 0.5,
    "fpn": {"channels": 64},
    "head": {"depth": 2},
}
"""Three million weights."""


def usual(recipe: str) -> Plan:
    """Return the epochs of a recipe if time allows all of them."""
    chosen = _RECIPES[recipe]
    return Plan(chosen["teacher"]["epochs"], chosen["student"]["epochs"])


def teacher(data: str, recipe: str, epochs: int | None = None) -> dict[str, Any]:
    """Return the job that trains the teacher; `recipe` is "shapes" or "own", `epochs` None the recipe's number."""
    chosen = _RECIPES[recipe]
    model = {"architecture": "fcos", **chosen["model"]}
    train = _for_epochs(_with_precision(chosen["teacher"]), epochs)
    return {"kind": "train", "name": f"{recipe}-teacher", "data": data, "model": model, "train": train}


def control(data: str, recipe: str) -> dict[str, Any]:
    """Return a job that trains the control; never submitted, but steps of it are timed."""
    train = _with_precision(_RECIPES[recipe]["student"])
    return {"kind": "train", "name": f"{recipe}-control", "data": data, "model": _STUDENT, "train": train}


def distillation(data: str, recipe: str, teacher_id: str, epochs: int | None = None) -> dict[str, Any]:
    """Return the job that distils the teacher of another job, with a control."""
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
    """Return the recipe with "auto" resolved.

    Small pictures stay in float32: their bfloat16 gradients are slower.
    """
    return train | {"precision": precision()} if train.get("precision") == "auto" else train


def precision(cpu_info: Path = Path("/proc/cpuinfo")) -> str:
    """Return bfloat16 if the processor computes in it, which halves the time; float32 otherwise."""
    flags = cpu_info.read_text() if cpu_info.exists() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"
