"""Augmentation of one sample: pictures and boxes in, a canvas and its boxes out; no torch.

Pure functions of a picture, its boxes and a random generator. Pictures are Pillow images, because Pillow cuts and
shrinks in one step, antialiased, without holding Python's lock. Boxes are (N, 4) float32, x1, y1, x2, y2 in
pixels; S is the image size of the recipe, the side that every result keeps within.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Boxes = NDArray[np.float32]
Labels = NDArray[np.int64]

GREY = 114
"""Fill of a mosaic where no picture reaches: near the mean of photographs."""
MIN_VISIBLE = 0.2
"""A box that keeps less of its area in a crop is dropped: what is left is rarely recognisable."""
MIN_SIDE = 1.0
"""Pixels; thinner boxes have no target cell and make the losses unstable."""
MOSAIC_SHRINK = 0.75
"""Extra scale in a mosaic: a quarter is about half as wide as a picture, so that full size would show little of it
and half size would leave only small objects."""
MOSAIC_CENTRE = (0.3, 0.7)
"""Where the four pictures of a mosaic may meet, as a share of S."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture with the boxes that are targets: no crowd."""

    image: Image.Image
    boxes: Boxes
    labels: Labels


@dataclass(frozen=True, eq=False)
class Pixels:
    """A sample ready for the network: (H, W, 3) uint8 and its boxes."""

    pixels: NDArray[np.uint8]
    boxes: Boxes
    labels: Labels


def resized_size(width: int, height: int, longer: float) -> tuple[int, int]:
    """Width and height, at least 1 pixel each, once the longer side has that many pixels."""
    scale = longer / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize(picture: Picture, longer: float) -> Pixels:
    """The whole picture, its longer side brought to that many pixels."""
    width, height = resized_size(*picture.image.size, longer)
    return _window(picture, (width, height), (0, 0, width, height))


def jitter(picture: Picture, size: int, scale: tuple[float, float], rng: np.random.Generator) -> Pixels:
    """The longer side is brought to S x a random scale; what exceeds S is cut away at a random place."""
    width, height = resized_size(*picture.image.size, size * rng.uniform(*scale))
    return _window(picture, (width, height), _random_window((width, height), (size, size), rng))


def mosaic(
    pictures: Sequence[Picture], size: int, scale: tuple[float, float], flip: float, rng: np.random.Generator
) -> Pixels:
    """Four pictures around a random centre on a square of side S, each with its own scale, cut and flip."""
    centre_x, centre_y = (round(size * share) for share in rng.uniform(*MOSAIC_CENTRE, 2))
    canvas = np.full((size, size, 3), GREY, dtype=np.uint8)
    parts = []
    for number, picture in enumerate(pictures):
        right, lower = number % 2 == 1, number >= 2
        room = (size - centre_x if right else centre_x, size - centre_y if lower else centre_y)
        scaled = resized_size(*picture.image.size, size * MOSAIC_SHRINK * rng.uniform(*scale))
        part = maybe_flip(_window(picture, scaled, _random_window(scaled, room, rng)), flip, rng)
        height, width = part.pixels.shape[:2]
        left, top = centre_x if right else centre_x - width, centre_y if lower else centre_y - height
        canvas[top : top + height, left : left + width] = part.pixels
        parts.append((part.boxes + np.array([left, top, left, top], dtype=np.float32), part.labels))
    boxes, labels = zip(*parts, strict=True)
    return Pixels(canvas, np.concatenate(boxes), np.concatenate(labels))


def maybe_flip(sample: Pixels, chance: float, rng: np.random.Generator) -> Pixels:
    """With that chance, the mirror image (left and right exchanged)."""
    if rng.random() >= chance:
        return sample
    boxes = sample.boxes.copy()
    boxes[:, [0, 2]] = sample.pixels.shape[1] - sample.boxes[:, [2, 0]]
    return Pixels(sample.pixels[:, ::-1], boxes, sample.labels)


def _random_window(
    scaled: tuple[int, int], room: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A window of a scaled picture, as large as the room allows."""
    width, height = min(scaled[0], room[0]), min(scaled[1], room[1])
    left, top = (int(rng.integers(scaled[i] - side + 1)) for i, side in enumerate((width, height)))
    return left, top, left + width, top + height


def _window(picture: Picture, scaled: tuple[int, int], window: tuple[int, int, int, int]) -> Pixels:
    """A window of the picture scaled to `scaled`; only what the window shows is computed."""
    width, height = picture.image.size
    scale_x, scale_y = scaled[0] / width, scaled[1] / height
    left, top, right, bottom = window
    source = (left / scale_x, top / scale_y, min(right / scale_x, width), min(bottom / scale_y, height))
    shown = picture.image.resize((right - left, bottom - top), Image.Resampling.BILINEAR, source)
    scales = np.array([scale_x, scale_y, scale_x, scale_y], dtype=np.float32)
    offset = np.array([left, top, left, top], dtype=np.float32)
    boxes, keep = clip_boxes(picture.boxes * scales - offset, right - left, bottom - top)
    return Pixels(np.asarray(shown), boxes[keep], picture.labels[keep])


def clip_boxes(boxes: Boxes, width: int, height: int) -> tuple[Boxes, NDArray[np.bool_]]:
    """Boxes clipped to a picture, and which of them are still worth learning."""
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
    sides = clipped[:, 2:] - clipped[:, :2]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    keep = (sides >= MIN_SIDE).all(axis=1) & (sides.prod(axis=1) >= MIN_VISIBLE * area)
    return clipped, keep
