"""Objects that are thinner than a pixel at the image size of a training: counted as the loader leaves them out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gkd_core.config import AugmentConfig, TrainConfig
from gkd_core.data.augment import Picture, jitter, maybe_crop
from gkd_core.data.check import check
from gkd_core.data.records import ImageRecord, Split
from gkd_core.data.tiny_objects import most_enlarged, vanishing
from gkd_core.errors import DataError

PLAIN = {"scale": (1.0, 1.0), "mosaic": 0.0}


def split(
    *sides: tuple[float, float], labels: tuple[int, ...] = (), crowd: tuple[bool, ...] = (), width: int = 1600
) -> Split:
    """Return one picture of that width with boxes of these sides."""
    boxes = np.array([(10, 20, 10 + w, 20 + h) for w, h in sides], dtype=np.float32).reshape(-1, 4)
    record = ImageRecord(
        image_id=1,
        path=Path("a.jpg"),
        width=width,
        height=1200,
        boxes=boxes,
        labels=np.array(labels or [1] * len(sides), dtype=np.int64),
        crowd=np.array(crowd or [False] * len(sides), dtype=np.bool_),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
    )
    return Split(("square", "disc"), (record,))


def recipe(image_size: int, **augment: Any) -> TrainConfig:
    return TrainConfig.model_validate({"image_size": image_size, "augment": PLAIN | augment})


def test_where_all_vanish_the_field_and_a_size_that_would_do_are_named() -> None:
    with pytest.raises(DataError) as caught:
        vanishing(split(*[(10, 10)] * 15), recipe(64))
    [problem] = caught.value.problems
    assert problem.loc == ("train", "image_size")
    assert "at train.image_size 64 all 15 objects of train are thinner than a pixel" in problem.message
    assert "train.image_size 160 on" in problem.hint
    assert vanishing(split(*[(10, 10)] * 15), recipe(160)) == []


def test_the_shorter_side_decides() -> None:
    with pytest.raises(DataError, match="all 2 objects"):
        vanishing(split((800, 10), (10, 800)), recipe(64))


def test_where_many_vanish_they_are_counted_by_class() -> None:
    some = split((10, 10), (10, 10), (400, 400), (400, 400), labels=(1, 1, 1, 2))
    [told] = vanishing(some, recipe(64))
    assert "2 of 4 objects of train are thinner than a pixel (square 2 of 3)" in told.message
    assert told.loc == ("train", "image_size")


def test_a_class_that_is_lost_is_told_though_few_objects_are() -> None:
    some = split((10, 10), *[(400, 400)] * 99, labels=(2, *[1] * 99))
    [told] = vanishing(some, recipe(64))
    assert "1 of 100 objects of train are thinner than a pixel (disc 1 of 1)" in told.message


def test_a_few_small_ones_and_crowds_need_no_word() -> None:
    assert vanishing(split((10, 10), *[(400, 400)] * 99), recipe(64)) == []
    assert vanishing(split((10, 10), (400, 400), crowd=(True, False)), recipe(64)) == []


@pytest.mark.parametrize("augment", [{"scale": (0.5, 3.0)}, {"crop": 0.1, "crop_least": 0.3}])
def test_what_augmentation_enlarges_is_not_refused_but_told(augment: dict[str, Any]) -> None:
    [told] = vanishing(split((10, 10)), recipe(64, **augment))
    assert "1 of 1 objects" in told.message


def test_where_no_image_size_would_do_it_is_said() -> None:
    with pytest.raises(DataError) as caught:
        vanishing(split((2, 2), width=20_000), recipe(64))
    assert "Cut the pictures into parts" in caught.value.problems[0].hint


@pytest.mark.parametrize(
    ("augment", "factor"),
    [
        ({}, 1.0),
        ({"scale": (0.6, 1.4)}, 1.4),
        ({"crop": 0.5, "crop_least": 0.25}, 4.0),
        ({"crop": 0.5, "crop_least": 0.5, "scale": (1, 2)}, 4.0),
        ({"mosaic": 1.0, "mosaic_until": 1.0}, 0.75),
        ({"mosaic": 1.0, "mosaic_until": 0.5}, 1.0),
    ],
)
def test_how_far_a_recipe_enlarges(augment: dict[str, Any], factor: float) -> None:
    assert most_enlarged(AugmentConfig.model_validate(PLAIN | augment)) == pytest.approx(factor)


@pytest.mark.parametrize("side", [3.0, 3.8, 8.0, 12.0])
def test_the_loader_agrees(side: float) -> None:
    """Compare with the loader's own functions: they never draw what is counted as vanished, and draw the rest."""
    picture = Picture(
        Image.new("RGB", (160, 120)),
        np.array([[70, 50, 70 + side, 50 + side]], dtype=np.float32),
        np.array([1]),
        np.zeros((1, 2), dtype=np.int64),
    )
    config = AugmentConfig.model_validate(PLAIN | {"scale": (0.5, 1.25), "crop": 0.5, "crop_least": 0.5})
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(300):
        part = maybe_crop(picture, config.crop, config.crop_least, rng)
        seen += len(jitter(part, 16, config.scale, rng).boxes)
    possible = side * 16 / 160 * most_enlarged(config) >= 1
    assert bool(seen) == possible


def test_the_check_tells_it_for_a_recipe(coco: Any) -> None:
    for annotation in coco.train["annotations"]:
        annotation["bbox"] = [10, 10, 1, 30]
    with pytest.raises(DataError, match="all 4 objects of train are thinner than a pixel"):
        check(coco.config(), recipe=recipe(64))
    coco.train["annotations"][0]["bbox"] = [10, 10, 30, 30]
    told = [warning.message for warning in check(coco.config(), recipe=recipe(64)).warnings]
    assert any("3 of 4 objects of train are thinner than a pixel" in message for message in told)
    assert not any("thinner" in warning.message for warning in check(coco.config()).warnings)
