"""Augmentation of one sample, without torch: takes pictures and boxes, returns a canvas and its boxes.

Pure functions of a picture, its boxes and a random generator. Pictures are Pillow images, because Pillow cuts and
shrinks in one step, antialiased, without holding Python's lock. Boxes are (N, 4) float32, x1, y1, x2, y2 in
pixels; S is the image size of the recipe: no side of a result is longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Boxes = NDArray[np.float32]
Labels = NDArray[np.int64]
Origins = NDArray[np.int64]
"""(N, 2) source of each box: image id, and row among all boxes of that picture's record."""
Colours = NDArray[np.float64]

GREY = 114
"""Fill value of a mosaic outside its pictures: near the mean of photographs."""
MIN_VISIBLE = 0.2
"""Smallest share of its area that a box must keep in a crop; others are dropped, being rarely recognisable."""
MIN_SIDE = 1.0
"""Pixels; thinner boxes have no target cell and make the losses unstable."""
MOSAIC_SHRINK = 0.75
"""Extra scale factor in a mosaic. A quarter is about half as wide as a picture: full size would show little of it,
half size would leave only small objects."""
MOSAIC_CENTRE = (0.3, 0.7)
"""Range of the point where the four pictures of a mosaic meet, as a share of S."""
COLOUR_FACTOR = 0.5
"""At full strength, brightness, contrast and saturation are multiplied by a factor from 1 - this to 1 + this."""
COLOUR_TURN = 0.05
"""At full strength, hues are shifted by at most this share of the colour circle, as in SSD."""
YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""Matrix from RGB to luma and the two chroma axes (NTSC's YIQ)."""
LUMA = YIQ[0]


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture with the boxes that are targets (no crowd regions). Boxes may cross its border, or lie outside it."""

    image: Image.Image
    boxes: Boxes
    labels: Labels
    origins: Origins


@dataclass(frozen=True, eq=False)
class Pixels:
    """A sample ready for the network: (H, W, 3) uint8 and its boxes."""

    pixels: NDArray[np.uint8]
    boxes: Boxes
    labels: Labels
    origins: Origins
    zoomed: NDArray[np.uint8] | None = None
    """(zoom x H, zoom x W, 3) the same part of the picture with more pixels, for a teacher that sees more; None: of no
    use."""


def resized_size(width: int, height: int, longer: float) -> tuple[int, int]:
    """Return the width and height, at least 1 pixel each, that bring the longer side to that many pixels."""
    scale = longer / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize(picture: Picture, longer: float, zoom: int = 1) -> Pixels:
    """Return the whole picture, its longer side resized to that many pixels."""
    width, height = resized_size(*picture.image.size, longer)
    return _window(picture, (width, height), (0, 0, width, height), zoom)


def jitter(
    picture: Picture, size: int, scale: tuple[float, float], rng: np.random.Generator, zoom: int = 1
) -> Pixels:
    """Resize the longer side to S x a random scale; cut what exceeds S, at a random place."""
    width, height = resized_size(*picture.image.size, size * rng.uniform(*scale))
    return _window(picture, (width, height), _random_window((width, height), (size, size), rng), zoom)


def mosaic(
    pictures: Sequence[Picture],
    size: int,
    scale: tuple[float, float],
    turn: Callable[[Pixels], Pixels],
    rng: np.random.Generator,
    zoom: int = 1,
) -> Pixels:
    """Place four pictures around a random centre on a square of side S, each with its own scale, crop and flip.

    Args:
        pictures: four of them.
        size: S, in pixels.
        scale: range of the scale jitter.
        turn: applied to each part before it is placed, e.g. flips. Must keep its size.
        rng: draws the centre, scales and crops.
        zoom: how many times as large the zoomed picture is; 1: there is none.
    """
    centre_x, centre_y = (round(size * share) for share in rng.uniform(*MOSAIC_CENTRE, 2))
    canvas, zoomed = _canvas(size), _canvas(size * zoom) if zoom > 1 else None
    parts = []
    for number, picture in enumerate(pictures):
        right, lower = number % 2 == 1, number >= 2
        room = (size - centre_x if right else centre_x, size - centre_y if lower else centre_y)
        scaled = resized_size(*picture.image.size, size * MOSAIC_SHRINK * rng.uniform(*scale))
        part = turn(_window(picture, scaled, _random_window(scaled, room, rng), zoom))
        height, width = part.pixels.shape[:2]
        left, top = centre_x if right else centre_x - width, centre_y if lower else centre_y - height
        _paste(canvas, part.pixels, left, top)
        if zoomed is not None and part.zoomed is not None:
            _paste(zoomed, part.zoomed, zoom * left, zoom * top)
        boxes = part.boxes + np.array([left, top, left, top], dtype=np.float32)
        parts.append((boxes, part.labels, part.origins))
    boxes, labels, origins = map(np.concatenate, zip(*parts, strict=True))
    return Pixels(canvas, boxes, labels, origins, zoomed)


def _canvas(size: int) -> NDArray[np.uint8]:
    return np.full((size, size, 3), GREY, dtype=np.uint8)


def _paste(canvas: NDArray[np.uint8], part: NDArray[np.uint8], left: int, top: int) -> None:
    height, width = part.shape[:2]
    canvas[top : top + height, left : left + width] = part


# ---- random steps ------------------------------------------------------------------------------------------
# A step that is switched off draws no random number, so that it does not change the results of other steps.


def maybe_flip(sample: Pixels, chance: float, rng: np.random.Generator) -> Pixels:
    """Return the mirror image (left and right exchanged) with that probability."""
    if rng.random() >= chance:
        return sample
    boxes = sample.boxes.copy()
    boxes[:, [0, 2]] = sample.pixels.shape[1] - sample.boxes[:, [2, 0]]
    return _redrawn(replace(sample, boxes=boxes), lambda pixels: pixels[:, ::-1])


def maybe_flip_vertical(sample: Pixels, chance: float, rng: np.random.Generator) -> Pixels:
    """Turn the picture upside down with that probability."""
    if not chance or rng.random() >= chance:
        return sample
    boxes = sample.boxes.copy()
    boxes[:, [1, 3]] = sample.pixels.shape[0] - sample.boxes[:, [3, 1]]
    return _redrawn(replace(sample, boxes=boxes), lambda pixels: pixels[::-1])


def maybe_crop(picture: Picture, chance: float, least: float, rng: np.random.Generator) -> Picture:
    """Return a random part of the picture, at least `least` of each side, with that probability.

    The part holds the centre of a box drawn at random, and enough of that box for it to be kept. Boxes are shifted and
    not clipped: the next step clips them once, and compares with the area of the whole object.
    """
    if not chance or rng.random() >= chance:
        return picture
    left, top, right, bottom = _crop_corners(picture, least, rng)
    shown = picture.image.crop((left, top, right, bottom))
    return replace(picture, image=shown, boxes=picture.boxes - np.array([left, top] * 2, dtype=np.float32))


def _crop_corners(picture: Picture, least: float, rng: np.random.Generator) -> list[int]:
    """Return left, top, right and bottom of the part that `maybe_crop` keeps."""
    size = np.array(picture.image.size)
    sides = size * rng.uniform(least, 1, 2)
    if len(picture.boxes):
        box = picture.boxes[rng.integers(len(picture.boxes))]
        sides = np.maximum(sides, math.sqrt(MIN_VISIBLE) * (box[2:] - box[:2]))
        middle = (box[:2] + box[2:]) / 2
    else:
        middle = rng.uniform(0, size)
    sides = np.minimum(np.ceil(sides), size)
    first = np.maximum(0, np.ceil(middle - sides))
    last = np.maximum(first, np.minimum(size - sides, np.floor(middle)))
    corner = np.rint(rng.uniform(first, last))
    corners: list[int] = np.concatenate([corner, corner + sides]).astype(int).tolist()
    return corners


def maybe_recolour(sample: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Change brightness, contrast, saturation and hue at random, in a random order; boxes stay.

    Args:
        sample: as it goes to the network.
        strength: 0 leaves the colours alone, 1 changes them by up to `COLOUR_FACTOR` and `COLOUR_TURN`.
        rng: draws the amounts and the order.
    """
    if not strength:
        return sample
    order, amounts = rng.permutation(len(_RECOLOURS)), rng.uniform(-strength, strength, len(_RECOLOURS))
    grey = float(sample.pixels[::4, ::4].mean(axis=(0, 1)) @ LUMA)
    colours = np.eye(4)
    for number in order:
        colours = _RECOLOURS[number](float(amounts[number]), grey) @ colours
    matrix = tuple(colours[:3].ravel())
    return _redrawn(sample, lambda pixels: np.asarray(Image.fromarray(pixels).convert("RGB", matrix)))


def _redrawn(sample: Pixels, draw: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Pixels:
    """Return the sample with its picture drawn anew, and the zoomed one alike."""
    zoomed = None if sample.zoomed is None else draw(sample.zoomed)
    return replace(sample, pixels=draw(sample.pixels), zoomed=zoomed)


# Changes of a colour (r, g, b, 1), as 4 x 4 matrices: the four are multiplied and applied at once, which
# takes a tenth of the time of four passes, one of them through HSV. Clipped to 0..255 at the end.


def _brightness(amount: float, grey: float) -> Colours:
    factor = 1 + COLOUR_FACTOR * amount
    return np.diag([factor] * 3 + [1.0])


def _contrast(amount: float, grey: float) -> Colours:
    """Return the matrix that moves colours away from the picture's mean grey, or towards it."""
    factor = 1 + COLOUR_FACTOR * amount
    colours = np.diag([factor] * 3 + [1.0])
    colours[:3, 3] = (1 - factor) * grey
    return colours


def _saturation(amount: float, grey: float) -> Colours:
    """Return the matrix that moves colours away from the grey of the same luma, or towards it."""
    factor = 1 + COLOUR_FACTOR * amount
    colours = np.eye(4)
    colours[:3, :3] = factor * np.eye(3) + (1 - factor) * LUMA
    return colours


def _hue(amount: float, grey: float) -> Colours:
    """Return the matrix that rotates the plane of colours of one luma, which leaves greys as they are."""
    angle = 2 * math.pi * COLOUR_TURN * amount
    turn = np.eye(3)
    turn[1:, 1:] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    colours = np.eye(4)
    colours[:3, :3] = np.linalg.inv(YIQ) @ turn @ YIQ
    return colours


_RECOLOURS: tuple[Callable[[float, float], Colours], ...] = (_brightness, _contrast, _saturation, _hue)
"""Each takes the strength, -1..1, and the mean grey of the picture, 0..255."""


# ---- windows -----------------------------------------------------------------------------------------------


def _random_window(
    scaled: tuple[int, int], room: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Return a random window of a scaled picture, as large as the room allows."""
    width, height = min(scaled[0], room[0]), min(scaled[1], room[1])
    left, top = (int(rng.integers(scaled[i] - side + 1)) for i, side in enumerate((width, height)))
    return left, top, left + width, top + height


def _window(
    picture: Picture, scaled: tuple[int, int], window: tuple[int, int, int, int], zoom: int
) -> Pixels:
    """Return a window of the picture scaled to `scaled`; only the pixels of the window are computed.

    The zoomed window is resampled from the same part of the original, not from the window.
    """
    width, height = picture.image.size
    scale_x, scale_y = scaled[0] / width, scaled[1] / height
    left, top, right, bottom = window
    source = (left / scale_x, top / scale_y, min(right / scale_x, width), min(bottom / scale_y, height))
    size = (right - left, bottom - top)
    shown, zoomed = _resampled(picture, size, source), None
    if zoom > 1:
        zoomed = _resampled(picture, (zoom * size[0], zoom * size[1]), source)
    scales = np.array([scale_x, scale_y, scale_x, scale_y], dtype=np.float32)
    offset = np.array([left, top, left, top], dtype=np.float32)
    boxes, keep = clip_boxes(picture.boxes * scales - offset, right - left, bottom - top)
    return Pixels(shown, boxes[keep], picture.labels[keep], picture.origins[keep], zoomed)


def _resampled(
    picture: Picture, size: tuple[int, int], source: tuple[float, float, float, float]
) -> NDArray[np.uint8]:
    return np.asarray(picture.image.resize(size, Image.Resampling.BILINEAR, source))


def clip_boxes(boxes: Boxes, width: int, height: int) -> tuple[Boxes, NDArray[np.bool_]]:
    """Return the boxes clipped to a picture, and a mask of those that are still large enough to learn from."""
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
    sides = clipped[:, 2:] - clipped[:, :2]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    keep = (sides >= MIN_SIDE).all(axis=1) & (sides.prod(axis=1) >= MIN_VISIBLE * area)
    return clipped, keep
