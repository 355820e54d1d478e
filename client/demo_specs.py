"""What `make demo` trains: two job specs for pictures that GKD draws, two for a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DRAWING = {"train": 400, "val": 100, "size": 128, "seed": 7}
"""How many pictures `gkd_core.data.shapes` draws, how large (pixels), and from which seed."""

_RECIPES: dict[str, dict[str, Any]] = {
    "shapes": {
        "teacher": {"epochs": 10, "batch_size": 8, "image_size": 128, "evaluate_every": 5},
        "student": {"epochs": 8, "batch_size": 8, "image_size": 128, "evaluate_every": 4},
        "prototypes": {"every": 4},
    },
    "own": {
        "teacher": {"epochs": 24, "batch_size": 8, "image_size": 320, "evaluate_every": 4},
        "student": {"epochs": 24, "batch_size": 8, "image_size": 320, "evaluate_every": 4},
        "prototypes": {"every": 6},
    },
}
"""Minutes on two CPU cores for the drawn pictures; for a user's own it depends on how many there are. Evaluations and
passes for prototypes are rarer than by default, because each takes as long as half an epoch here."""

_TEACHER = {"architecture": "fcos", "backbone": "resnet34", "fpn": {"channels": 128}, "head": {"depth": 2}}
_STUDENT = {"architecture": "fcos", "backbone": "resnet18", "fpn": {"channels": 64}, "head": {"depth": 2}}


def teacher(data: str, recipe: str) -> dict[str, Any]:
    """The job that makes the teacher; `recipe` is "shapes" or "own"."""
    train = _RECIPES[recipe]["teacher"] | {"precision": precision()}
    return {"kind": "train", "name": f"{recipe}-teacher", "data": data, "model": _TEACHER, "train": train}


def distillation(data: str, recipe: str, teacher_id: str) -> dict[str, Any]:
    """The job that distils the teacher that another job makes, with a control."""
    return {
        "kind": "distill",
        "name": f"{recipe}-student",
        "data": data,
        "teacher": {"weights": f"job:{teacher_id}"},
        "student": _STUDENT,
        "distill": {"prototypes": _RECIPES[recipe]["prototypes"]},
        "train": _RECIPES[recipe]["student"] | {"precision": precision()},
    }


def precision(cpu_info: Path = Path("/proc/cpuinfo")) -> str:
    """bfloat16 where the processor computes in it, which halves the time; float32 elsewhere."""
    flags = cpu_info.read_text() if cpu_info.exists() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"
