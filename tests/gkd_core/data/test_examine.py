"""The full report of a data set: sizes, every oddity by name, and pictures that are in both splits."""

import shutil
import subprocess
import sys
from typing import Any

import pytest

from gkd_core.config import DataConfig
from gkd_core.data.examine import BINS, examine
from gkd_core.errors import DataError


def test_it_says_all_that_the_check_says_and_more(coco: Any) -> None:
    found = examine(coco.config())
    assert (found.format, found.classes) == ("coco", ("square", "disc"))
    assert (found.train.images, found.train.boxes_per_class) == (2, {"square": 2, "disc": 2})
    assert found.usable
    assert found.decoded
    assert examine(found.resolved) == found


def test_pictures_are_told_by_size(coco: Any, picture: Any) -> None:
    for number, size in enumerate([(200, 50), (40, 40), (40, 40), (40, 40)], start=3):
        picture(coco.images / f"t{number}.png", *size, seed=number)
        coco.train["images"].append({"id": number, "file_name": f"t{number}.png"})
    sizes = examine(coco.config()).train.pictures
    assert (sizes.smallest, sizes.largest, sizes.median) == ((40, 40), (200, 50), (68, 45))
    assert sizes.most_common == ((40, 40, 3), (96, 64, 2), (200, 50, 1))


def test_boxes_are_told_by_side_in_the_file_and_resized(coco: Any) -> None:
    coco.train["annotations"][0]["bbox"] = [10, 12, 60, 6]  # of area 18.97 squared, and 4 high at 64
    coco.train["annotations"][1]["iscrowd"] = 1
    split = examine(coco.config(), image_size=64).train
    assert split.sides.from_pixels == BINS
    assert dict(zip(BINS, split.sides.boxes, strict=True)) == dict.fromkeys(BINS, 0) | {16: 2, 32: 1}
    assert split.resized is not None
    assert dict(zip(BINS, split.resized.sides.boxes, strict=True)) == dict.fromkeys(BINS, 0) | {8: 1, 16: 2}
    assert (split.resized.under_8, split.resized.under_8_per_class) == (1, {"square": 1, "disc": 0})


def test_every_item_of_an_oddity_is_named(coco: Any) -> None:
    coco.train["annotations"] += [
        {"id": 100 + n, "image_id": 1, "category_id": 1, "bbox": [1, 1, 0, 5]} for n in range(12)
    ]
    [oddity] = examine(coco.config()).oddities
    assert (oddity.split, oddity.count) == ("train", 12)
    assert oddity.items == tuple(f"annotation {100 + n}" for n in range(12))
    assert "width or height" in oddity.message


def test_what_both_splits_share_is_found(coco: Any, picture: Any) -> None:
    for name, seed in (("t1", 1), ("t2", 2), ("v1", 3)):
        picture(coco.images / f"{name}.png", 96, 64, seed=seed)
    shutil.copy(coco.images / "t2.png", coco.images / "v2.png")
    coco.val["images"].append({"id": 3, "file_name": "t1.png"})
    found = examine(coco.config())
    assert found.shared_count == {"same file": 1, "same bytes": 1}
    assert [(pair.how, pair.train[-6:], pair.val[-6:]) for pair in found.shared] == [
        ("same file", "t1.png", "t1.png"),
        ("same bytes", "t2.png", "v2.png"),
    ]


def test_copies_within_a_split_are_found(coco: Any) -> None:
    found = examine(coco.config())  # both pictures of each split hold the same noise
    assert [[file[-6:] for file in group] for group in found.train.copies] == [["t1.png", "t2.png"]]


def test_quick_decodes_and_compares_nothing(coco: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gkd_core.data.near_duplicates.read_image", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr("gkd_core.data.picture_inspection.look_into", lambda *_: pytest.fail("decoded"))
    found = examine(coco.config(), quick=True)
    assert not found.decoded
    assert (found.shared, found.train.copies) == ((), ())
    coco.val = coco.train
    assert examine(coco.config(), quick=True).shared_count == {"same file": 2}


def test_a_broken_picture_shows_only_when_decoded(coco: Any) -> None:
    file = coco.images / "t1.png"
    file.write_bytes(file.read_bytes()[:-2000])
    assert examine(coco.config(), quick=True).oddities == ()
    [oddity] = examine(coco.config()).oddities
    assert "cannot be decoded" in oddity.message
    assert "t1.png" in oddity.items[0]


def test_what_cannot_be_used_is_an_error(coco: Any) -> None:
    coco.train["annotations"].clear()
    with pytest.raises(DataError, match="not one usable box"):
        examine(coco.config())


def test_examining_does_not_load_torch() -> None:
    code = "import gkd_core.data.examine, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_blood_cells_are_as_their_readme_says(shared_data: Any) -> None:
    found = examine(DataConfig(path=str(shared_data / "bccd")))
    assert found.shared_count == {"looks the same": 1}
    assert found.train.pictures.most_common == ((640, 480, 205),)
    assert sum(found.train.sides.boxes) == found.train.boxes == 2804
    assert found.train.sides.boxes[:3] == (0, 0, 23)
