"""Augmentation moves boxes with their pixels: a coloured box on black is found where the boxes say."""

import colorsys
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gkd_core.config import AugmentConfig, TrainConfig
from gkd_core.data import augment
from gkd_core.data.augment import (
    GREY,
    Picture,
    Pixels,
    clip_boxes,
    jitter,
    maybe_crop,
    maybe_flip,
    maybe_flip_vertical,
    maybe_recolour,
    mosaic,
    resize,
    resized_size,
)
from gkd_core.data.loading import train_batches
from gkd_core.data.records import ImageRecord

NOWHERE = np.zeros((0, 2), np.int64)
BOXES = np.array([[20, 30, 100, 90], [130, 10, 190, 60]], dtype=np.float32)


def white_on_black(width: int = 200, height: int = 120) -> Picture:
    """Return a picture on black whose box 1 is pure red, and box 2 pure green."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(BOXES.astype(int)):
        pixels[y1:y2, x1:x2, channel] = 255
    return Picture(Image.fromarray(pixels), BOXES, np.array([1, 2]), np.array([[7, 0], [7, 2]]))


@pytest.fixture(autouse=True)
def _every_remnant_keeps_its_box(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every clipped box, so that colour without a box is a mistake; dropping has tests of its own."""
    if not {"dropped", "bit"} & set(request.node.name.partition("[")[0].split("_")):
        monkeypatch.setattr(augment, "MIN_VISIBLE", 0.0)


def as_it_is(part: Pixels) -> Pixels:
    return part


def assert_boxes_fit(sample: Pixels) -> None:
    """Check that boxes hold their colour alone, that hardly any lies outside, and that origins match."""
    assert sample.origins.tolist() == [[7, 2 * (label - 1)] for label in sample.labels]
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
    picture = Picture(
        Image.new("RGB", (width, height)), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), NOWHERE
    )
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
    rng = np.random.default_rng(seed)
    sample = mosaic([white_on_black()] * 4, 160, (0.5, 1.5), lambda part: maybe_flip(part, 0.5, rng), rng)
    assert sample.pixels.shape == (160, 160, 3)
    assert set(sample.labels.tolist()) <= {1, 2}
    assert_boxes_fit(sample)


def test_a_mosaic_of_small_pictures_is_grey_around_them() -> None:
    sample = mosaic([white_on_black()] * 4, 160, (0.1, 0.1), as_it_is, np.random.default_rng(0))
    assert (sample.pixels[0] == GREY).all()
    assert len(sample.boxes) == 8


def test_the_pictures_of_a_mosaic_meet_at_one_point() -> None:
    sample = mosaic([white_on_black()] * 4, 160, (0.4, 0.4), as_it_is, np.random.default_rng(0))
    shown = (sample.pixels != GREY).any(axis=2)
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    assert (len(rows), len(columns)) == (2 * 29, 2 * 48)  # 160 x 0.75 x 0.4 = 48 wide, 0.6 x 48 high
    assert shown[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_a_flip_mirrors_pixels_and_boxes() -> None:
    sample = maybe_flip(resize(white_on_black(), 200), 1.0, np.random.default_rng(0))
    assert sample.boxes.tolist() == [[100, 30, 180, 90], [10, 10, 70, 60]]
    assert_boxes_fit(sample)


def test_a_flip_happens_as_often_as_asked() -> None:
    sample, rng = resize(white_on_black(), 20), np.random.default_rng(0)
    flips = sum(maybe_flip(sample, 0.3, rng) is not sample for _ in range(1000))
    assert 250 < flips < 350


def test_a_vertical_flip_stands_pixels_and_boxes_on_their_head() -> None:
    sample = maybe_flip_vertical(resize(white_on_black(), 200), 1.0, np.random.default_rng(0))
    assert sample.boxes.tolist() == [[20, 30, 100, 90], [130, 60, 190, 110]]
    assert_boxes_fit(sample)


# ---- crops -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_crop_holds_the_middle_of_a_box_and_boxes_stay_on_their_pixels(seed: int) -> None:
    part = maybe_crop(white_on_black(), 1.0, 0.3, np.random.default_rng(seed))
    assert all(0.3 * whole <= side <= whole for side, whole in zip(part.image.size, (200, 120), strict=True))
    middles = (part.boxes[:, :2] + part.boxes[:, 2:]) / 2
    assert ((middles >= 0) & (middles <= part.image.size)).all(axis=1).any()
    assert_boxes_fit(resize(part, 160))


def test_crops_differ() -> None:
    rng = np.random.default_rng(0)
    parts = [maybe_crop(white_on_black(), 1.0, 0.3, rng).image.size for _ in range(20)]
    assert len(set(parts)) > 15


@pytest.mark.parametrize(
    "box", [[0, 0, 200, 120], [0, 100, 200, 120], [90, 0, 93, 120], [199, 119, 200, 120]]
)
def test_what_a_crop_was_made_for_is_not_dropped(box: list[int]) -> None:
    picture = Picture(
        white_on_black().image, np.array([box], dtype=np.float32), np.array([1]), np.array([[7, 0]])
    )
    for seed in range(200):
        part = maybe_crop(picture, 1.0, 0.05, np.random.default_rng(seed))
        _, keep = clip_boxes(part.boxes, *part.image.size)
        assert keep.all(), seed


def test_an_object_is_dropped_by_what_crop_and_jitter_leave_of_it_together() -> None:
    boxes = np.array([[-100, 0, 50, 100]], np.float32)
    third = Picture(Image.new("RGB", (50, 100)), boxes, np.array([1]), np.array([[8, 3]]))
    assert len(resize(third, 100).boxes) == 1
    sixth = jitter(third, 50, (2.0, 2.0), np.random.default_rng(0))
    assert sixth.pixels.shape == (50, 50, 3)
    assert len(sixth.boxes) == 0


def test_a_picture_without_boxes_is_cropped_too() -> None:
    empty = Picture(Image.new("RGB", (40, 30)), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), NOWHERE)
    part = maybe_crop(empty, 1.0, 0.3, np.random.default_rng(0))
    assert part.image.size != (40, 30)
    assert part.boxes.shape == (0, 4)


# ---- colours ---------------------------------------------------------------------------------------------


def test_colours_change_and_boxes_do_not() -> None:
    before = resize(white_on_black(), 200)
    after = maybe_recolour(before, 1.0, np.random.default_rng(0))
    assert (after.pixels != before.pixels).mean() > 0.1
    assert after.pixels.dtype == np.uint8
    assert after.boxes is before.boxes


@pytest.mark.parametrize("number", range(4))
def test_no_amount_of_colour_changes_nothing(number: int) -> None:
    assert augment._RECOLOURS[number](0.0, 100.0) == pytest.approx(np.eye(4), abs=1e-12)


def shown(number: int, amount: float, colour: tuple[float, float, float], grey: float) -> list[float]:
    return (augment._RECOLOURS[number](amount, grey) @ [*colour, 1])[:3].tolist()


def test_brightness_scales_and_contrast_moves_away_from_the_mean_grey() -> None:
    assert shown(0, 1.0, (100, 60, 20), 80) == pytest.approx([150, 90, 30])
    assert shown(1, 1.0, (100, 80, 20), 80) == pytest.approx([110, 80, -10])
    assert shown(1, -1.0, (100, 80, 20), 80) == pytest.approx([90, 80, 50])


def test_saturation_leaves_greys_and_luma_alone() -> None:
    assert shown(2, 0.7, (90, 90, 90), 10) == pytest.approx([90, 90, 90])
    assert shown(2, -1.0, (255, 0, 0), 10) == pytest.approx([127.5 + 38.1, 38.1, 38.1], abs=0.1)


def test_hue_turns_by_a_share_of_the_colour_circle_and_leaves_greys_alone() -> None:
    assert shown(3, 1.0, (90, 90, 90), 10) == pytest.approx([90, 90, 90], abs=1e-9)
    turned = shown(3, 1.0, (150, 100, 100), 10)
    assert np.dot(turned, augment.LUMA) == pytest.approx(np.dot((150, 100, 100), augment.LUMA))
    hue = colorsys.rgb_to_hsv(*turned)[0]
    assert min(hue, 1 - hue) == pytest.approx(augment.COLOUR_TURN, abs=0.03)


# ---- what was there before -------------------------------------------------------------------------------


def test_options_that_are_off_leave_every_bit_of_a_recipe_as_it_was(tmp_path: Path) -> None:
    draw, records, seen = np.random.default_rng(0), [], hashlib.sha256()
    for number, (width, height) in enumerate([(80, 60), (50, 90), (64, 64), (120, 40), (33, 77), (90, 90)]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        corners, sides = draw.uniform(0, 0.5, (3, 2)), draw.uniform(0.1, 0.5, (3, 2))
        boxes = np.concatenate([corners, corners + sides], 1) * ([width, height] * 2)
        labels, crowd = np.array([1, 2, 3]), np.zeros(3, np.bool_)
        area = np.ones(3, np.float32)
        records.append(
            ImageRecord(number, path, width, height, boxes.astype(np.float32), labels, crowd, area)
        )
    augmented = AugmentConfig(flip=0.5, scale=(0.6, 1.4), mosaic=0.5, mosaic_until=0.8)
    recipe = TrainConfig(batch_size=3, image_size=64, epochs=10, workers=0, augment=augmented)
    for epoch in range(10):
        for sample in (sample for batch in train_batches(records, recipe, epoch) for sample in batch):
            for tensor in (sample.image, sample.target["boxes"], sample.target["labels"]):
                seen.update(tensor.numpy().tobytes())
    # hashes of version 0.1, before crops, colours and vertical flips: a resumed run must keep its pictures
    assert seen.hexdigest() == "4938388cd864a3dc8372b2d85560a5cd6312036f2273d40b4c83b822d56e89b3"


def test_boxes_that_keep_too_little_are_dropped() -> None:
    boxes = np.array([[-90, 0, 10, 10], [-30, 0, 10, 10], [5, 5, 5.5, 20]], dtype=np.float32)
    clipped, keep = clip_boxes(boxes, 100, 100)
    assert keep.tolist() == [False, True, False]
    assert clipped[1].tolist() == [0, 0, 10, 10]
