"""Augmentation moves boxes with their pixels: a white box on black is found where the boxes say."""

import numpy as np
import pytest
from PIL import Image

from gkd_core.data import augment
from gkd_core.data.augment import (
    GREY,
    Picture,
    Pixels,
    clip_boxes,
    jitter,
    maybe_flip,
    mosaic,
    resize,
    resized_size,
)

BOXES = np.array([[20, 30, 100, 90], [130, 10, 190, 60]], dtype=np.float32)


def white_on_black(width: int = 200, height: int = 120) -> Picture:
    """Box 1 is pure red, box 2 pure green."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(BOXES.astype(int)):
        pixels[y1:y2, x1:x2, channel] = 255
    return Picture(Image.fromarray(pixels), BOXES, np.array([1, 2]))


@pytest.fixture(autouse=True)
def _every_remnant_keeps_its_box(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that colour without a box is a mistake; the dropping has a test of its own."""
    if "dropped" not in request.node.name:
        monkeypatch.setattr(augment, "MIN_VISIBLE", 0.0)


def assert_boxes_fit(sample: Pixels) -> None:
    """Boxes hold nothing but their colour, and hardly any of a colour lies outside its boxes."""
    for label in (1, 2):
        colour = sample.pixels[..., label - 1].astype(int) - sample.pixels[..., 2 - label] > 127
        covered = np.zeros_like(colour)
        for x1, y1, x2, y2 in np.rint(sample.boxes[sample.labels == label]).astype(int):
            assert colour[y1:y2, x1:x2].mean() > 0.85
            covered[max(0, y1 - 1) : y2 + 1, max(0, x1 - 1) : x2 + 1] = True
        assert (colour & ~covered).sum() <= 0.02 * colour.sum()


@pytest.mark.parametrize("longer", [50, 100, 320])
def test_resizing_brings_the_longer_side_to_size(longer: int) -> None:
    sample = resize(white_on_black(), longer)
    assert sample.pixels.shape == (round(longer * 0.6), longer, 3)
    assert sample.boxes == pytest.approx(BOXES * longer / 200, abs=0.01)
    assert_boxes_fit(sample)


@pytest.mark.parametrize(("width", "height"), [(2000, 1), (1, 2000), (1, 1)])
def test_a_strip_keeps_at_least_a_pixel(width: int, height: int) -> None:
    assert min(resized_size(width, height, 64)) >= 1
    picture = Picture(Image.new("RGB", (width, height)), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    for seed in range(5):
        sample = jitter(picture, 64, (0.5, 1.5), np.random.default_rng(seed))
        assert max(sample.pixels.shape[:2]) <= 64
        assert min(sample.pixels.shape[:2]) >= 1


@pytest.mark.parametrize("seed", range(20))
def test_jitter_keeps_within_the_image_size_and_boxes_on_their_pixels(seed: int) -> None:
    sample = jitter(white_on_black(), 160, (0.5, 2.0), np.random.default_rng(seed))
    assert max(sample.pixels.shape[:2]) <= 160
    assert_boxes_fit(sample)


@pytest.mark.parametrize("seed", range(20))
def test_a_mosaic_fills_the_square_and_keeps_boxes_on_their_pixels(seed: int) -> None:
    sample = mosaic([white_on_black()] * 4, 160, (0.5, 1.5), 0.5, np.random.default_rng(seed))
    assert sample.pixels.shape == (160, 160, 3)
    assert set(sample.labels.tolist()) <= {1, 2}
    assert_boxes_fit(sample)


def test_a_mosaic_of_small_pictures_is_grey_around_them() -> None:
    sample = mosaic([white_on_black()] * 4, 160, (0.1, 0.1), 0.0, np.random.default_rng(0))
    assert (sample.pixels[0] == GREY).all()
    assert len(sample.boxes) == 8


def test_the_pictures_of_a_mosaic_meet_at_one_point() -> None:
    sample = mosaic([white_on_black()] * 4, 160, (0.4, 0.4), 0.0, np.random.default_rng(0))
    shown = (sample.pixels != GREY).any(axis=2)
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    assert (len(rows), len(columns)) == (2 * 29, 2 * 48)  # 160 x 0.75 x 0.4 = 48 wide, 0.6 of that high
    assert shown[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_a_flip_mirrors_pixels_and_boxes() -> None:
    sample = maybe_flip(resize(white_on_black(), 200), 1.0, np.random.default_rng(0))
    assert sample.boxes.tolist() == [[100, 30, 180, 90], [10, 10, 70, 60]]
    assert_boxes_fit(sample)


def test_a_flip_happens_as_often_as_asked() -> None:
    sample, rng = resize(white_on_black(), 20), np.random.default_rng(0)
    flips = sum(maybe_flip(sample, 0.3, rng) is not sample for _ in range(1000))
    assert 250 < flips < 350


def test_boxes_that_keep_too_little_are_dropped() -> None:
    boxes = np.array([[-90, 0, 10, 10], [-30, 0, 10, 10], [5, 5, 5.5, 20]], dtype=np.float32)
    clipped, keep = clip_boxes(boxes, 100, 100)
    assert keep.tolist() == [False, True, False]
    assert clipped[1].tolist() == [0, 0, 10, 10]
