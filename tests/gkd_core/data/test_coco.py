"""Reading COCO: labels by category id, a flawed box is left out alone, ambiguity stops the reading."""

import itertools
import json
from typing import Any

import numpy as np
import pytest

from gkd_core.data.reading import load
from gkd_core.errors import DataError


def test_boxes_become_corners_and_labels_count_from_one(coco: Any) -> None:
    data = load(coco.config())
    record = data.train.images[0]
    assert data.classes == ("square", "disc")
    assert (record.boxes == np.array([[10, 12, 34, 40], [50, 20, 82, 52]], dtype=np.float32)).all()
    assert record.labels.tolist() == [1, 2]
    assert record.area.tolist() == [672, 1024]
    assert data.warnings == ()


def test_records_cannot_be_written_to(coco: Any) -> None:
    record = load(coco.config()).train.images[0]
    with pytest.raises(ValueError, match="read-only"):
        record.boxes[0] = 0


def test_labels_follow_category_ids_and_not_positions(coco: Any) -> None:
    for split in (coco.train, coco.val):
        split["categories"] = [{"id": 90, "name": "disc"}, {"id": 7, "name": "square"}]
        for annotation in split["annotations"]:
            annotation["category_id"] = {1: 7, 2: 90}[annotation["category_id"]]
    data = load(coco.config())
    assert data.classes == ("square", "disc")
    assert data.train.images[0].labels.tolist() == [1, 2]


def test_the_order_of_the_given_classes_counts(coco: Any) -> None:
    data = load(coco.config(classes=("disc", "square")))
    assert data.train.images[0].labels.tolist() == [2, 1]
    assert data.val.images[0].labels.tolist() == [2, 1]


@pytest.mark.parametrize(
    "flaw",
    [
        {"bbox": [10, 12, 0, 28]},
        {"bbox": [10, 12, -5, 28]},
        {"bbox": [10, 12, float("nan"), 28]},
        {"bbox": [10, 12, float("inf"), 28]},
        {"bbox": [10, 12, 10**400, 28]},
        {"bbox": [200, 12, 10, 10]},
        {"bbox": None},
        {"bbox": [1, 2, 3]},
        {"bbox": ["1", "2", "3", "4"]},
        {"bbox": [True, 1, 2, 3]},
        {"image_id": 999},
        {"image_id": [1]},
    ],
)
def test_a_flawed_box_is_left_out_and_named(coco: Any, flaw: dict[str, Any]) -> None:
    coco.train["annotations"][0].update(flaw)
    data = load(coco.config())
    assert [len(record.boxes) for record in data.train.images] == [1, 2]
    assert [problem.loc for problem in data.warnings] == [("data", "train", "annotations")]
    assert "box left out" in data.warnings[0].message
    assert "annotation 1" in data.warnings[0].message


def test_a_box_that_sticks_out_is_clipped_and_said(coco: Any) -> None:
    coco.train["annotations"][0]["bbox"] = [-6, 12, 40, 1e30]
    data = load(coco.config())
    assert data.train.images[0].boxes[0].tolist() == [0, 12, 34, 64]
    assert "clipped" in data.warnings[0].message


def test_annotations_that_share_an_id_both_count(coco: Any) -> None:
    for annotation in coco.train["annotations"]:
        annotation["id"] = 1
    assert sum(len(record.boxes) for record in load(coco.config()).train.images) == 4


def test_crowd_is_kept_apart_and_keeps_its_area(coco: Any) -> None:
    coco.train["annotations"][0].update(iscrowd=1, area=17.5)
    record = load(coco.config()).train.images[0]
    assert record.crowd.tolist() == [True, False]
    assert record.area.tolist() == [17.5, 1024]


def test_the_pictures_size_wins_over_the_declared_one(coco: Any) -> None:
    coco.train["images"][0].update(width=960, height=640)
    del coco.train["images"][1]["width"], coco.train["images"][1]["height"]
    data = load(coco.config())
    assert [(record.width, record.height) for record in data.train.images] == [(96, 64)] * 2
    assert data.train.images[0].boxes[0].tolist() == [10, 12, 34, 40]
    assert "t1.png declares 960 x 640" in data.warnings[0].message


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.pop("categories"), "no list `categories`"),
        (lambda c: c["categories"].clear(), "no categories"),
        (lambda c: c["categories"].append({"id": 1, "name": "star"}), "category id 1 is given twice"),
        (lambda c: c["categories"].append({"id": "3", "name": "star"}), r"categories\[2\]"),
        (lambda c: c["annotations"][0].update(category_id=77), "annotation 1 has category_id 77"),
        (lambda c: c["annotations"][0].update(category_id="1"), "annotation 1: category_id is the text '1'"),
        (lambda c: c["images"].clear(), "lists no images"),
        (lambda c: c["images"][1].update(id=1), "image id 1 is given twice"),
        (lambda c: c["images"][1].update(id=2**63), "whole number of 64 bits"),
        (lambda c: c["images"][1].update(file_name=None), "needed: the name of a file"),
        (lambda c: c["images"][1].update(file_name="\ud800.jpg"), "needed: the name of a file"),
        (lambda c: c["categories"][0].update(name="\ud800"), "and a `name`"),
        (lambda c: c["categories"][0].update(name="a\0"), "and a `name`"),
        (lambda c: c["images"][1].update(file_name="../x.png"), "leads out of"),
        (lambda c: c["images"][1].update(file_name="/etc/passwd"), "leads out of"),
        (lambda c: c["annotations"].append(5), r"annotations\[4\]"),
        (lambda c: c["annotations"].clear(), "not one usable box"),
    ],
)
def test_what_is_ambiguous_or_missing_stops_the_reading(coco: Any, spoil: Any, message: str) -> None:
    spoil(coco.train)
    with pytest.raises(DataError, match=message) as caught:
        load(coco.config())
    assert {problem.loc for problem in caught.value.problems} == {("data", "train", "annotations")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello", "is not JSON"),
        (b"[]", "its root is a list"),
        (b"null", "its root is null"),
        (b'{"a": "\xe9"}', "not UTF-8 at byte 7"),
        (b"[" * 200_000, "not sensible JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not sensible JSON"),
    ],
)
def test_a_broken_file_is_said_to_be_broken(coco: Any, content: bytes, message: str) -> None:
    config = coco.config()
    (coco.folder / "val.json").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load(config)
    assert caught.value.problems[0].loc == ("data", "val", "annotations")


def test_flaws_of_both_splits_are_told_together(coco: Any) -> None:
    del coco.train["categories"], coco.val["images"]
    with pytest.raises(DataError) as caught:
        load(coco.config())
    assert [problem.loc[1] for problem in caught.value.problems] == ["train", "val"]


IDS: list[list[int | str]] = [
    ["first", 2],
    ["first", 2**63 - 1],
    [2**53, 2**53 + 1],
    [20261130113930001, "20261130113930000"],
    [-5, 0],
    [2**63 - 1, 2**63 - 2],
]


def rename_images(content: dict[str, Any], ids: list[int | str]) -> None:
    """Give the two pictures other ids."""
    for image in content["images"]:
        image["id"] = ids[image["id"] - 1]
    for annotation in content["annotations"]:
        annotation["image_id"] = ids[annotation["image_id"] - 1]


@pytest.mark.parametrize("ids", IDS)
def test_pictures_are_numbered_whatever_their_ids(coco: Any, ids: list[int | str]) -> None:
    rename_images(coco.train, ids)
    data = load(coco.config())
    assert [record.image_id for record in data.train.images] == [1, 2]
    assert [record.told_id for record in data.train.images] == ids
    assert [len(record.boxes) for record in data.train.images] == [2, 2]
    told = any("image id is text" in warning.message for warning in data.warnings)
    assert told == any(isinstance(key, str) for key in ids)


ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    float("nan"),
    "",
    "x",
    "\0",
    "../..",
    [],
    [None],
    {},
    {"id": 1},
]


def _slots(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in a JSON value that can be overwritten."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else range(len(value))
    return [slot for key in keys for slot in [(value, key), *_slots(value[key])]]


def test_any_value_may_be_odd_without_a_traceback(coco: Any) -> None:
    places = range(len(_slots(coco.train)))
    sound = json.dumps(coco.train)
    for number, odd in itertools.product(places, ODD):
        coco.train = json.loads(sound)
        container, key = _slots(coco.train)[number]
        container[key] = odd
        try:
            data = load(coco.config())
        except DataError as error:
            assert error.problems  # noqa: PT017
        else:
            assert all(np.isfinite(record.boxes).all() for record in data.train.images)
