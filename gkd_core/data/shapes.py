"""A data set that the project draws itself: coloured shapes in clutter, in COCO format.

For trying things out without pictures of one's own. Only the outline depends on the class: colour, size, angle, blur
and light are random, and strokes and blobs of no class are added. Each picture depends on (seed, split, number) only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("circle", "square", "triangle", "cross")
MIN_VISIBLE = 0.35
"""Share of an object that must be visible; one that later ones cover more than that is not annotated."""
MOST_TURN = 0.4
"""Largest angle in radians to either side. Objects in photographs mostly stand upright, and it helps a detector that
is trained for minutes."""
OVERSAMPLING = 4
"""Factor by which masks are drawn larger and then shrunk, for smooth outlines."""

Rng = np.random.Generator
Pixels = NDArray[np.float32]
"""(S, S, 3), 0 to 255."""
Mask = NDArray[np.float32]
"""(S, S), 0 to 1."""
Point = tuple[float, float]


class _Drawn(NamedTuple):
    """One object on a picture."""

    label: int
    """From 1, as the category id."""
    mask: Mask


def draw_shapes(folder: Path, *, train: int, val: int, size: int, seed: int) -> None:
    """Draw a data set into `folder`: images/{train,val}/*.jpg and annotations/instances_{train,val}.json.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        train: number of pictures of the training split.
        val: number of pictures of the validation split.
        size: side of the square pictures, in pixels, from 64.
        seed: the same seed draws the same pictures.

    Raises:
        ValueError: `size` is under 64, or a split would be empty.
    """
    if size < 64 or train < 1 or val < 1:
        raise ValueError(
            f"size {size} (at least 64), train {train} and val {val} (at least 1 each) make no data set"
        )
    for number, (split, count) in enumerate((("train", train), ("val", val))):
        _draw_split(folder, split, count, size, (seed, number))


def _draw_split(folder: Path, split: str, count: int, size: int, seed: tuple[int, int]) -> None:
    pictures = folder / "images" / split
    pictures.mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for image_id in range(1, count + 1):
        picture, boxes = draw_picture(size, np.random.default_rng([*seed, image_id]))
        name = f"{image_id:05d}.jpg"
        picture.save(pictures / name, quality=92)
        images.append({"id": image_id, "file_name": name, "width": size, "height": size})
        annotations += [_annotation(image_id, label, box) for label, box in boxes]
    numbered = [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)]
    categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": numbered, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _annotation(image_id: int, label: int, box: tuple[int, int, int, int]) -> dict[str, object]:
    x1, y1, x2, y2 = box
    return {
        "image_id": image_id,
        "category_id": label,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
    }


def draw_picture(size: int, rng: Rng) -> tuple[Image.Image, list[tuple[int, tuple[int, int, int, int]]]]:
    """Draw a picture; return it with its (label, box) pairs. Boxes are x1, y1, x2, y2 with exclusive ends."""
    canvas = _background(size, rng)
    for _ in range(int(rng.integers(1, 5))):
        canvas = _paint(canvas, _clutter_mask(size, rng), rng)
    drawn: list[_Drawn] = []
    for _ in range(int(rng.integers(2, 11))):
        shape = _shape(size, rng)
        canvas = _paint(canvas, shape.mask, rng)
        drawn.append(shape)
    return _finish(canvas, rng), _boxes(drawn)


def _boxes(drawn: Sequence[_Drawn]) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Return the tight box of the visible part of each object, first drawn first."""
    boxes = []
    for number, shape in enumerate(drawn):
        covered = np.any([later.mask > 0.5 for later in drawn[number + 1 :]], axis=0)
        visible = (shape.mask > 0.5) & ~covered
        if visible.sum() >= MIN_VISIBLE * (shape.mask > 0.5).sum():
            boxes.append((shape.label, _extent(visible)))
    return boxes


def _extent(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


# ---- outlines: points within the unit circle -----------------------------------------------------------------


def _ring(radii: Sequence[float]) -> list[Point]:
    """Return points at equal angles, at the given distances from the centre."""
    step = math.tau / len(radii)
    return [(r * math.cos(i * step), r * math.sin(i * step)) for i, r in enumerate(radii)]


def _cross(arm: float) -> list[Point]:
    """Return the outline of two bars of length 2 and half-width `arm`."""
    quarter = [(1.0, arm), (arm, arm), (arm, 1.0)]
    turns: list[Callable[[Point], Point]] = [
        lambda p: p,
        lambda p: (-p[1], p[0]),
        lambda p: (-p[0], -p[1]),
        lambda p: (p[1], -p[0]),
    ]
    return [turn(point) for turn in turns for point in quarter]


def _turned(points: Sequence[Point], angle: float) -> list[Point]:
    """Return the points rotated about the centre."""
    cos, sin = math.cos(angle), math.sin(angle)
    return [(u * cos - v * sin, u * sin + v * cos) for u, v in points]


OUTLINES: dict[str, list[Point]] = {
    "circle": _ring([1.0] * 48),
    "square": _turned(_ring([1.0] * 4), math.pi / 4),
    "triangle": _turned(_ring([1.0] * 3), -math.pi / 2),
    "cross": _cross(0.33),
}


def _shape(size: int, rng: Rng) -> _Drawn:
    """Draw an object of a random class, size, angle and place, at least half inside the picture."""
    label = int(rng.integers(1, len(CLASSES) + 1))
    radius = size * math.exp(rng.uniform(math.log(0.06), math.log(0.22)))
    return _Drawn(label, _mask(OUTLINES[CLASSES[label - 1]], size, radius, rng))


def _clutter_mask(size: int, rng: Rng) -> Mask:
    """Draw something that is of no class: a ragged blob, or a stroke."""
    if rng.random() < 0.5:
        radii = rng.uniform(0.3, 1.0, int(rng.integers(6, 11))).tolist()
        return _mask(_ring(radii), size, size * rng.uniform(0.05, 0.15), rng)
    large = Image.new("L", (size * OVERSAMPLING, size * OVERSAMPLING))
    points = [tuple(point) for point in rng.uniform(0, size * OVERSAMPLING, (3, 2)).tolist()]
    ImageDraw.Draw(large).line(points, fill=255, width=int(size * OVERSAMPLING * rng.uniform(0.008, 0.03)))
    return _to_mask(large.reduce(OVERSAMPLING))


def _mask(outline: Sequence[Point], size: int, radius: float, rng: Rng) -> Mask:
    """Return a mask of the outline, rotated, stretched a little and placed at random."""
    x, y = rng.uniform(0.6 * radius, size - 0.6 * radius, 2)
    stretch = rng.uniform(0.8, 1.0)
    turned = _turned(outline, rng.uniform(-MOST_TURN, MOST_TURN))
    points = [(OVERSAMPLING * (x + radius * u), OVERSAMPLING * (y + stretch * radius * v)) for u, v in turned]
    large = Image.new("L", (size * OVERSAMPLING, size * OVERSAMPLING))
    ImageDraw.Draw(large).polygon(points, fill=255)
    return _to_mask(large.reduce(OVERSAMPLING))


def _to_mask(grey: Image.Image) -> Mask:
    return (np.asarray(grey) / 255).astype(np.float32)


# ---- colour and light ------------------------------------------------------------------------------------------


def _background(size: int, rng: Rng) -> Pixels:
    """Draw a gradient of two colours, with soft blotches and sometimes stripes."""
    first, second = rng.uniform(30, 225, (2, 3)).astype(np.float32)
    ramp = _ramp(size, rng)[..., None]
    canvas: Pixels = first * (1 - ramp) + second * ramp
    canvas += _blotches(size, rng)[..., None] * np.float32(rng.uniform(10, 40))
    if rng.random() < 0.4:
        stripes = np.sin(_ramp(size, rng) * np.float32(math.tau * rng.uniform(4, 16)))
        canvas += stripes[..., None] * np.float32(rng.uniform(5, 20))
    return canvas


def _ramp(size: int, rng: Rng) -> Mask:
    """Return a ramp from 0 to 1 across the picture in a random direction."""
    angle = rng.uniform(0, math.tau)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / (size - 1) - 0.5
    along = x * math.cos(angle) + y * math.sin(angle)
    ramp: Mask = (along - along.min()) / (along.max() - along.min())
    return ramp


def _blotches(size: int, rng: Rng) -> Mask:
    """Return smooth noise, -1 to 1."""
    coarse = Image.fromarray(rng.uniform(0, 255, (6, 6)).astype(np.uint8))
    smooth = coarse.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32) / 127.5 - 1


def _paint(canvas: Pixels, mask: Mask, rng: Rng) -> Pixels:
    """Fill a mask with a colour that contrasts with what lies below, shaded, sometimes out of focus."""
    below = canvas[mask > 0.5].mean(axis=0) if (mask > 0.5).any() else canvas.mean(axis=(0, 1))
    fill = _contrasting(below, rng) + (_ramp(len(mask), rng)[..., None] - 0.5) * np.float32(
        rng.uniform(0, 60)
    )
    if rng.random() < 0.3:
        sharp = Image.fromarray((mask * 255).astype(np.uint8))
        mask = _to_mask(sharp.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.5))))
    cover = mask[..., None]
    return (canvas + (fill - canvas) * cover).astype(np.float32)


def _contrasting(below: NDArray[np.float32], rng: Rng) -> NDArray[np.float32]:
    """Return a random colour some way from `below`: of six, the first that is far enough, else the farthest."""
    colours = rng.uniform(20, 235, (6, 3)).astype(np.float32)
    distances = np.linalg.norm(colours - below, axis=1)
    far = np.flatnonzero(distances > 70)
    chosen: NDArray[np.float32] = colours[far[0] if len(far) else distances.argmax()]
    return chosen


def _finish(canvas: Pixels, rng: Rng) -> Image.Image:
    """Add uneven light, sometimes blur, and sensor noise."""
    light = 1 + (_ramp(len(canvas), rng)[..., None] - 0.5) * np.float32(rng.uniform(0, 0.7))
    noise = rng.normal(0, rng.uniform(1, 7), canvas.shape).astype(np.float32)
    picture = Image.fromarray(np.clip(canvas * light, 0, 255).astype(np.uint8))
    soft = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    return Image.fromarray(np.clip(np.asarray(soft, dtype=np.float32) + noise, 0, 255).astype(np.uint8))
