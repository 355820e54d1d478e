"""The first two specs for a folder of pictures: a teacher to train, and a student to distil from it, with reasons.

Everything is decided from counts and sizes that the data check found; each choice comes with a sentence.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gkd_core.errors import DataError, Problem

if TYPE_CHECKING:  # the check needs numpy, `gkd --help` does not
    from gkd_core.data.examine import Examination, SplitExamination

CANDIDATES = (320, 640, 1280)
"""Image sizes to choose from, in pixels of the longer side, each with twice the side of the one before."""
LARGE_ENOUGH = 0.9
"""Share of the objects that must cover a cell of the finest feature level."""
CELL = 8
"""Pixels of a cell of the finest feature level."""
FEW_PICTURES, MANY_PICTURES = 500, 20_000
FEW_CLASSES = 20
FEWEST_SEEN = 6_000
"""Pictures that a training from scratch should see, over all epochs; BCCD's 205 pictures need 30 epochs."""
VAL_SHARE = 0.2
NAME_LENGTH = 80
"""Limit of a job's name less that of its ending."""


class FirstSpecs(NamedTuple):
    """Two specs, and why they are so: a sentence by choice."""

    teacher: dict[str, Any]
    student: dict[str, Any]
    reasons: dict[str, str]


def first_specs(folder: Path, gpus: int = 0) -> FirstSpecs:
    """Return the specs for a data set.

    Args:
        folder: Folder of the data set, or the data.yaml of a YOLO one.
        gpus: GPUs of each job; 0: it runs on the CPU.

    Raises:
        DataError: the data cannot be trained on.
    """
    from gkd_core.config import DataConfig
    from gkd_core.data.examine import examine, needed_to_keep

    config = DataConfig(path=str(folder.absolute()))
    found = examine(config, needs=needed_to_keep(config), image_size=CANDIDATES[-1], quick=True)
    return specs_of(found, folder, gpus)


def specs_of(found: Examination, folder: Path, gpus: int) -> FirstSpecs:
    """Return the specs for an examined data set, whose boxes were also measured at the largest candidate.

    Raises:
        DataError: it has no training split.
    """
    if found.train is None:
        hint = "Name a folder with pictures to train on; `gkd data check` says what is in one."
        message = f"{folder} has no train split"
        raise DataError([Problem(loc=("data", "train"), message=message, hint=hint)])
    data, reasons = _data(found, folder)
    image_size, reasons["image_size"] = _image_size(found.train)
    teacher, reasons["teacher"] = _teacher(found, gpus)
    student, reasons["student"] = _student(found)
    recipe, reasons["epochs"] = _recipe(found.train.images)
    train = {**recipe, "image_size": image_size, **({"precision": "bfloat16"} if gpus else {})}
    shared = {"data": data, "train": train, **({"resources": {"gpus": gpus}} if gpus else {})}
    name = _name(folder)
    return FirstSpecs(
        {"kind": "train", "name": f"{name}-teacher", "model": teacher, **shared},
        {
            "kind": "distill",
            "name": f"{name}-student",
            "teacher": {"weights": f"job:{name}-teacher"},
            "student": student,
            **shared,
        },
        reasons,
    )


def _data(found: Examination, folder: Path) -> tuple[Any, dict[str, str]]:
    path = str(folder.absolute())
    if found.val is not None:
        return path, {}
    told = (
        f"there is no val split, so {VAL_SHARE:.0%} of the pictures of train are set aside to choose the best epoch "
        "and to measure the gain"
    )
    return {"path": path, "val_share": VAL_SHARE}, {"val_share": told}


def _image_size(train: SplitExamination) -> tuple[int, str]:
    """Return the smallest candidate at which objects are large enough, but none beyond the pictures' own size."""
    shares = {size: _share_of_cells(train, size) for size in CANDIDATES}
    size = next((size for size, share in shares.items() if share >= LARGE_ENOUGH), CANDIDATES[-1])
    own = max(64, 32 * math.ceil(max(train.pictures.median) / 32))
    if own < size:
        return own, f"{own}: the pictures have no more pixels, and enlarging them would add none"
    large = f"{math.floor(100 * shares[size])} % of the objects"
    told = f"{size}: {large} are {CELL} pixels or more there, a cell of the finest level"
    if shares[size] < LARGE_ENOUGH:
        return size, f"{told}; for the others cut the pictures into parts"
    return size, f"{told}; twice the size takes four times as long"


def _share_of_cells(train: SplitExamination, size: int) -> float:
    """Return the share of boxes whose sides are `CELL` pixels in the geometric mean at an image size.

    Boxes were counted at the largest candidate, in bins whose lower ends include `CELL` times the factor to
    every other candidate.
    """
    assert train.resized is not None  # asked for by `first_specs`
    sides = train.resized.sides
    least = CELL * train.resized.image_size // size
    large = sum(count for low, count in zip(sides.from_pixels, sides.boxes, strict=True) if low >= least)
    return large / max(1, train.boxes)


def _teacher(found: Examination, gpus: int) -> tuple[dict[str, Any], str]:
    """Return the detector of the teacher: large for its device, of the student's architecture."""
    backbone = "resnet50" if gpus else "resnet34"
    weights = f"ResNet{backbone.removeprefix('resnet')}_Weights.IMAGENET1K_V1"
    device = "a GPU" if gpus else "a CPU"
    told = (
        f"FCOS on {backbone}, as large as trains in reasonable time on {device}, without anchors to fit; where workers "
        f'reach the network, "weights": "{weights}" makes a better one of few pictures'
    )
    return {
        "architecture": "fcos",
        "backbone": backbone,
        "fpn": {"channels": _channels(found)},
        "head": {"depth": 2},
    }, told


def _student(found: Examination) -> tuple[dict[str, Any], str]:
    """Return the detector of the student: full or half width, by what there is to tell apart."""
    many = len(found.classes) > FEW_CLASSES
    width = 1.0 if many else 0.5
    told = (
        f"FCOS, as the teacher, so that every loss applies, on a resnet18 of {'full' if many else 'half'} width, for "
        f"{len(found.classes)} {'class' if len(found.classes) == 1 else 'classes'}"
    )
    return {
        "architecture": "fcos",
        "backbone": "resnet18",
        "backbone_width": width,
        "fpn": {"channels": _channels(found) // (1 if many else 2)},
        "head": {"depth": 2},
    }, told


def _channels(found: Examination) -> int:
    """Return the channels of the teacher's pyramid."""
    return 256 if len(found.classes) > FEW_CLASSES else 128


def _recipe(pictures: int) -> tuple[dict[str, int], str]:
    """Return epochs and batch size, by the number of training pictures."""
    least = 12 if pictures >= MANY_PICTURES else 24
    epochs = min(60, max(least, math.ceil(FEWEST_SEEN / pictures)))
    batch_size = min(pictures, 4 if pictures < FEW_PICTURES else 8)
    steps = math.ceil(pictures / batch_size) * epochs
    told = f"{epochs} with batches of {batch_size}, which are {steps} steps for {pictures} pictures"
    if epochs * pictures < FEWEST_SEEN:
        return {"epochs": epochs, "batch_size": batch_size}, f"{told}; so few pictures will not teach much"
    return {"epochs": epochs, "batch_size": batch_size}, f"{told}, about what a training from scratch needs"


def _name(folder: Path) -> str:
    """Return a name for the jobs, which other specs and commands can write without quotes."""
    source = folder.absolute()
    text = source.parent.name if source.suffix in (".yaml", ".yml") else source.name
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text).strip("-.")
    return plain[:NAME_LENGTH] or "pictures"
