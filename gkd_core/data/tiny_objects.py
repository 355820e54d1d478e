"""Counts objects that are too small at the image size of a training, without torch, to refuse a job early.

The loader leaves out boxes that are thinner than a pixel once their picture is resized. Which of them ever reach the
network depends on how far the recipe enlarges pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gkd_core.config import AugmentConfig, TrainConfig
from gkd_core.data.augment import MIN_SIDE, MOSAIC_SHRINK
from gkd_core.data.findings import few
from gkd_core.data.records import ImageRecord, Split
from gkd_core.errors import DataError, Problem

MANY = 0.1
"""Share of the objects, of all or of one class, from which vanishing ones are reported."""
STEP, LARGEST = 32, 4096
"""Step and largest value of `train.image_size`."""


class _Objects(NamedTuple):
    """The targets of a split, one entry each."""

    needed: NDArray[np.float64]
    """Smallest image size at which the shorter side is long enough, in pixels."""
    labels: NDArray[np.int64]


def vanishing(train: Split, recipe: TrainConfig) -> list[Problem]:
    """Return a remark on how many objects of the training split vanish at the recipe's image size.

    Args:
        train: the training split.
        recipe: its image size and augmentation are used.

    Returns:
        A remark where they are many, of all or of a class.

    Raises:
        DataError: all of them vanish, however the recipe enlarges the pictures.
    """
    objects = _objects(train.images)
    gone = objects.needed > recipe.image_size
    if not gone.any():
        return []
    loc = ("train", "image_size")
    if (objects.needed > recipe.image_size * most_enlarged(recipe.augment)).all():
        message = f"at train.image_size {recipe.image_size} all {len(gone)} objects of train are thinner than a pixel"
        raise DataError(
            [Problem(loc=loc, message=f"{message}: nothing is left to learn", hint=_hint(objects))]
        )
    counts = _counts(train.classes, objects.labels, gone)
    if gone.mean() < MANY and not counts:
        return []
    of_classes = f" ({few(counts)})" if counts else ""
    message = (
        f"at train.image_size {recipe.image_size} {int(gone.sum())} of {len(gone)} objects of train are thinner than a "
        f"pixel{of_classes}; they are learnt from only where augmentation enlarges them"
    )
    return [Problem(loc=loc, message=message, hint=_hint(objects))]


def most_enlarged(augment: AugmentConfig) -> float:
    """Return the largest factor by which a recipe enlarges a picture over its plain resizing."""
    always_mosaic = augment.mosaic == 1 and augment.mosaic_until == 1
    cut = 1 / augment.crop_least if augment.crop else 1.0
    return augment.scale[1] * cut * (MOSAIC_SHRINK if always_mosaic else 1.0)


def _objects(images: Sequence[ImageRecord]) -> _Objects:
    needed = [_needed(image) for image in images]
    labels = [image.labels[~image.crowd] for image in images]
    return _Objects(np.concatenate(needed), np.concatenate(labels))


def _needed(image: ImageRecord) -> NDArray[np.float64]:
    boxes = image.boxes[~image.crowd].astype(np.float64)
    sides: NDArray[np.float64] = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf)
    return MIN_SIDE * max(image.width, image.height) / sides


def _counts(classes: Sequence[str], labels: NDArray[np.int64], gone: NDArray[np.bool_]) -> list[str]:
    """Return the classes of which many vanish, with the numbers of vanishing and of all objects."""
    counts = np.bincount(labels, minlength=len(classes) + 1)[1:]
    lost = np.bincount(labels[gone], minlength=len(classes) + 1)[1:]
    return [
        f"{name} {lost[at]} of {counts[at]}"
        for at, name in enumerate(classes)
        if lost[at] and lost[at] >= MANY * counts[at]
    ]


def _hint(objects: _Objects) -> str:
    """Return a hint: an image size that keeps nine objects in ten, or what else to do."""
    wanted = STEP * math.ceil(float(np.quantile(objects.needed, 1 - MANY, method="higher")) / STEP)
    if wanted > LARGEST:
        return "Cut the pictures into parts: no image size would do."
    return f"Nine in ten keep a pixel from train.image_size {wanted} on; more is better."
