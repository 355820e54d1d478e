"""Random annotations and detections, and those of a data set's truth with errors, for tests of scores."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from gkd_core.config import DataConfig
from gkd_core.data.reading import load
from gkd_core.data.records import ImageRecord
from gkd_core.evaluation.coco import Score, score
from gkd_core.evaluation.voc import Detections

THREE = ("cat", "dog", "emu")


def record(
    image_id: int, boxes: list[list[float]], labels: list[int], crowd: list[bool] | None = None
) -> ImageRecord:
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    sides = array[:, 2:] - array[:, :2]
    return ImageRecord(
        image_id=image_id,
        path=Path(f"{image_id}.jpg"),
        width=200,
        height=100,
        boxes=array,
        labels=np.array(labels, dtype=np.int64),
        crowd=np.array(crowd or [False] * len(labels), dtype=np.bool_),
        area=sides.prod(axis=1),
    )


def drawn(seed: int, *, crowds: float = 0.0) -> tuple[list[ImageRecord], Detections]:
    """Return random pictures of three classes, and detections: exact, moved, doubled, mislabelled, of nothing."""
    random = np.random.default_rng(seed)
    images = [drawn_record(number, random, crowds) for number in range(60)]
    return images, {image.image_id: perturbed(image, random, 3) for image in images if random.random() < 0.95}


def drawn_record(number: int, random: np.random.Generator, crowds: float) -> ImageRecord:
    count = int(random.integers(0, 9))
    boxes = boxes_in(200, 100, count, random)
    labels = random.choice([1, 1, 1, 2], count)  # class 3 has no objects
    return record(number * 7 + 3, boxes.tolist(), labels.tolist(), (random.random(count) < crowds).tolist())


def boxes_in(width: int, height: int, count: int, random: np.random.Generator) -> np.ndarray:
    corners = random.uniform(0, (0.7 * width, 0.7 * height), (count, 2))
    sides = random.uniform(2, (0.3 * width, 0.3 * height), (count, 2))
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def perturbed(image: ImageRecord, random: np.random.Generator, classes: int) -> dict[str, np.ndarray]:
    twice = np.concatenate([image.boxes, image.boxes])
    sides = twice[:, 2:] - twice[:, :2]
    moved = twice + random.normal(0, 0.12, twice.shape) * np.tile(sides, 2)
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    boxes = np.concatenate([moved, boxes_in(image.width, image.height, 5, random)])
    labels = np.concatenate([image.labels, image.labels, random.integers(1, classes + 1, 5)])
    labels = np.where(random.random(len(labels)) < 0.1, random.integers(1, classes + 1, len(labels)), labels)
    kept = random.random(len(labels)) < 0.8
    return {"boxes": boxes[kept], "labels": labels[kept], "scores": random.random(int(kept.sum()))}


def drawn_score(seed: int, *, crowds: float = 0.0) -> Score:
    """Return the scores of `drawn`."""
    images, detections = drawn(seed, crowds=crowds)
    return score(images, THREE, detections)


@cache
def blood_cell_score() -> tuple[Score, tuple[str, ...]]:
    """Return the scores of the truth of BCCD's validation split with errors, and the names of its classes."""
    if "GKD_SHARED" not in os.environ:
        pytest.skip("GKD_SHARED names no folder with sample data")
    data = load(DataConfig(path=str(Path(os.environ["GKD_SHARED"]) / "data" / "bccd")))
    random = np.random.default_rng(0)
    found = {image.image_id: perturbed(image, random, len(data.classes)) for image in data.val.images}
    return score(data.val.images, data.classes, found), tuple(data.classes)
