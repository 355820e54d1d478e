"""What `make demo` trains: two job specs for pictures that GKD draws, two for a user's own."""

from __future__ import annotations

from typing import Any

DRAWING = {"train": 400, "val": 100, "size": 128, "seed": 7}
"""How many pictures `gkd_core.data.shapes` draws, how large (pixels), and from which seed."""

_RECIPES: dict[str, dict[str, Any]] = {
    "shapes": {
        "teacher": {"epochs": 12, "batch_size": 8, "image_size": 128},
        "student": {"epochs": 8, "batch_size": 8, "image_size": 128},
    },
    "own": {
        "teacher": {"epochs": 30, "batch_size": 8, "image_size": 320},
        "student": {"epochs": 20, "batch_size": 8, "image_size": 320},
    },
}
"""Minutes on two CPU cores for the drawn pictures; for a user's own it depends on how many there are."""

_TEACHER = {"architecture": "fcos", "backbone": "resnet34", "fpn": {"channels": 96}, "head": {"depth": 2}}
_STUDENT = {"architecture": "fcos", "backbone": "resnet18", "fpn": {"channels": 64}, "head": {"depth": 1}}


def teacher(data: str, recipe: str) -> dict[str, Any]:
    """The job that makes the teacher; `recipe` is "shapes" or "own"."""
    train = _RECIPES[recipe]["teacher"]
    return {"kind": "train", "name": f"{recipe}-teacher", "data": data, "model": _TEACHER, "train": train}


def distillation(data: str, recipe: str, teacher_id: str) -> dict[str, Any]:
    """The job that distils the teacher that another job makes, with a control."""
    return {
        "kind": "distill",
        "name": f"{recipe}-student",
        "data": data,
        "teacher": {"weights": f"job:{teacher_id}"},
        "student": _STUDENT,
        "distill": {"prototypes": {"per_class": 10}, "control": True},
        "train": _RECIPES[recipe]["student"],
    }
