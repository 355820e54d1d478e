"""Annotations against pictures: all missing and broken files are named at once, and boxes follow EXIF."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gkd_core.data.pictures import ORIENTATION_TAG, TURNS
from gkd_core.data.reading import load
from gkd_core.data.validate import turned
from gkd_core.errors import DataError


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_turn_as_the_pixels_do(orientation: int) -> None:
    stored = np.zeros((40, 60), dtype=np.uint8)
    stored[5:15, 20:50] = 255
    shown = np.asarray(Image.fromarray(stored).transpose(TURNS[orientation]))
    (x1, y1, x2, y2), *_ = turned(np.array([[20.0, 5, 50, 15]]), orientation, (40, 60)).astype(int)
    assert shown[y1:y2, x1:x2].min() == 255
    assert shown.sum() == shown[y1:y2, x1:x2].sum()


def test_annotations_made_before_exif_rotation_are_turned_along_and_said(
    coco: Any, picture: Callable[..., None]
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    picture(coco.images / "t1.png", 96, 64, exif=exif)  # as declared when stored, 64 x 96 when shown
    data = load(coco.config())
    record = data.train.images[0]
    assert (record.width, record.height) == (64, 96)
    assert record.boxes[0].tolist() == [24, 10, 52, 34]
    assert "EXIF" in data.warnings[0].message


FRAME = "nothing tells in which frame their boxes were drawn"


@pytest.mark.parametrize(
    ("orientation", "size", "declared", "told"),
    [
        (6, (96, 64), None, True),  # nothing declared, as in YOLO
        (8, (96, 64), None, True),
        (3, (96, 64), None, True),  # upside down
        (3, (96, 64), (96, 64), False),  # both frames have the declared size
        (6, (64, 64), (64, 64), True),  # a square
        (6, (96, 64), (50, 50), True),  # the size of neither frame
        (6, (96, 64), (96, 64), False),  # the stored frame
        (6, (96, 64), (64, 96), False),  # the rotated frame
        (1, (96, 64), None, False),
    ],
)
def test_where_no_size_tells_the_frame_of_a_turned_picture_it_is_said(
    coco: Any,
    picture: Callable[..., None],
    orientation: int,
    size: tuple[int, int],
    declared: tuple[int, int] | None,
    told: bool,
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    picture(coco.images / "t1.png", *size, exif=exif)
    image = coco.train["images"][0]
    del image["width"], image["height"]
    image |= dict(zip(("width", "height"), declared or (), strict=False))
    messages = [warning.message for warning in load(coco.config()).warnings]
    assert any(FRAME in message and "(1: t1.png)" in message for message in messages) == told


def test_a_turned_picture_without_boxes_needs_no_remark(coco: Any, picture: Callable[..., None]) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 3
    picture(coco.images / "t1.png", 96, 64, exif=exif)
    coco.train["annotations"] = coco.train["annotations"][2:]
    del coco.train["images"][0]["width"], coco.train["images"][0]["height"]
    assert not any(FRAME in warning.message for warning in load(coco.config()).warnings)


def test_all_missing_pictures_are_counted_and_the_first_ones_named(coco: Any) -> None:
    for name in ("t1.png", "t2.png", "v1.png"):
        (coco.images / name).unlink()
    with pytest.raises(DataError) as caught:
        load(coco.config())
    train, val = caught.value.problems
    assert train.loc == ("data", "train", "images")
    assert "2 of 2 pictures (t1.png, t2.png)" in train.message
    assert "1 of 2 pictures (v1.png)" in val.message


def test_a_name_that_is_nearly_right_gets_a_hint(coco: Any) -> None:
    coco.train["images"][0]["file_name"] = "T1.PNG"
    with pytest.raises(DataError) as caught:
        load(coco.config())
    assert "'T1.PNG' may be 't1.png'" in caught.value.hint


def test_a_missing_folder_of_pictures_is_told_once(coco: Any) -> None:
    coco.images.rename(coco.folder / "elsewhere")
    with pytest.raises(DataError) as caught:
        load(coco.config())
    assert all("no such folder of pictures" in problem.message for problem in caught.value.problems)


def test_all_unreadable_headers_are_named(coco: Any) -> None:
    (coco.images / "t1.png").write_bytes(b"")
    (coco.images / "t2.png").write_text("<html>")
    with pytest.raises(DataError, match=r"(?s)\(2\): .*t1\.png.*empty.*t2\.png.*not a picture"):
        load(coco.config())


def test_a_picture_cut_short_is_left_out_when_everything_is_decoded(coco: Any) -> None:
    file = coco.images / "t1.png"
    file.write_bytes(file.read_bytes()[:-2000])
    assert len(load(coco.config()).train.images) == 2
    data = load(coco.config(), decode=True)
    assert [record.path.name for record in data.train.images] == ["t2.png"]
    assert "t1.png" in data.warnings[0].message


def test_only_so_many_headers_are_read_as_asked(coco: Any) -> None:
    for image in coco.train["images"]:
        image["width"] = 95
    assert [record.width for record in load(coco.config(), headers=1).train.images] == [96, 95]
    del coco.train["images"][1]["width"], coco.train["images"][1]["height"]
    assert [record.width for record in load(coco.config(), headers=1).train.images] == [96, 96]


def test_boxes_under_a_pixel_are_kept_and_said(coco: Any) -> None:
    coco.train["annotations"][0]["bbox"] = [0.1, 0.2, 0.3, 0.4]
    data = load(coco.config())
    assert len(data.train.images[0].boxes) == 2
    assert "under one pixel" in data.warnings[0].message


def test_a_repeated_box_counts_once_unless_its_class_differs(coco: Any) -> None:
    first = coco.train["annotations"][0]
    coco.train["annotations"] += [{**first, "id": 10}, {**first, "id": 11, "category_id": 2}]
    data = load(coco.config())
    assert data.train.images[0].labels.tolist() == [1, 2, 2]
    assert any("exactly on another one of another class" in problem.message for problem in data.warnings)


def test_more_boxes_than_coco_counts_are_said(coco: Any) -> None:
    coco.train["annotations"] += [
        {"id": 100 + i, "image_id": 1, "category_id": 1, "bbox": [i % 50, i // 50, 9, 9]} for i in range(150)
    ]
    assert any("more than 100 boxes" in problem.message for problem in load(coco.config()).warnings)


def test_what_is_wrong_with_a_file_never_shows_as_a_traceback_of_pillow(coco: Any, tmp_path: Path) -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        content = bytearray((coco.images / "t2.png").read_bytes())
        for position in rng.integers(0, 200, 6):
            content[position] = rng.integers(256)
        (coco.images / "t1.png").write_bytes(content)
        try:
            load(coco.config(), decode=True)
        except DataError as error:
            assert "t1.png" in error.message  # noqa: PT017
