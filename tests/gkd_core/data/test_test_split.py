"""A test split: read and checked like the others, and left out with a remark where it cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest

from gkd_core.config import DataConfig
from gkd_core.data.check import check
from gkd_core.data.examine import examine
from gkd_core.data.reading import load
from gkd_core.errors import DataError


def by_layout(coco: Any) -> DataConfig:
    """Return the config of the same folder, its splits found by their names."""
    coco.config()
    return DataConfig(path=str(coco.folder))


def remark_on_test(coco: Any) -> str:
    """Return the remark on a test split that is left out of an otherwise sound data set."""
    report = check(by_layout(coco))
    assert report.test is None
    assert report.resolved.test is None
    assert report.train is not None
    [remark] = report.warnings
    assert remark.loc == ("data", "test")
    assert remark.message.startswith("the test split is left out: ")
    return remark.message


def test_it_is_counted_like_the_others(coco: Any) -> None:
    coco.draw_test()["annotations"].pop()
    report = check(by_layout(coco))
    assert report.test is not None
    assert (report.test.images, report.test.boxes_per_class) == (2, {"square": 2, "disc": 1})
    assert list(report.splits) == ["train", "val", "test"]
    assert report.warnings == ()
    assert check(report.resolved) == report


def test_without_one_nothing_is_said(coco: Any) -> None:
    report = check(by_layout(coco))
    assert (report.test, report.resolved.test, report.warnings) == (None, None, ())


def test_pictures_alone_are_no_test_split(coco: Any) -> None:
    del coco.draw_test()["annotations"]
    assert "no list `annotations`" in remark_on_test(coco)


def test_cocos_own_list_of_test_pictures_is_left_out_even_without_its_pictures(coco: Any) -> None:
    content = coco._split("h")
    del content["annotations"]
    coco.config()
    (coco.folder / "image_info_test2017.json").write_text(json.dumps(content))
    for picture in coco.images.glob("h*.png"):
        picture.unlink()
    report = check(DataConfig(path=str(coco.folder)))
    assert report.test is None
    assert "image_info_test2017.json" in report.warnings[0].message


def test_pictures_without_labels_are_no_test_split_of_yolo(tmp_path: Path, picture: Any) -> None:
    for split in ("train", "val", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        picture(tmp_path / "images" / split / "a.png", 32, 32, seed=len(split))
        if split != "test":
            (tmp_path / "labels" / split).mkdir(parents=True)
            (tmp_path / "labels" / split / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text(
        "train: images/train\nval: images/val\ntest: images/test\nnames: [cat]"
    )
    report = check(DataConfig(path=str(tmp_path)))
    assert report.test is None
    assert "left out: " in report.warnings[-1].message
    assert "no file of labels" in report.warnings[-1].message


@pytest.mark.parametrize("flaw", ["picture", "class", "boxes"])
def test_one_that_was_only_found_costs_a_remark_and_one_that_was_asked_for_is_an_error(
    coco: Any, flaw: str
) -> None:
    content = coco.draw_test()
    if flaw == "picture":
        (coco.images / "h1.png").unlink()
    elif flaw == "class":
        content["categories"][1]["name"] = "disk"
    else:
        content["annotations"].clear()
    message = remark_on_test(coco)
    with pytest.raises(DataError) as caught:
        check(coco.config())
    assert caught.value.problems[0].loc[:2] == ("data", "test")
    assert caught.value.problems[0].message in message


def test_pictures_that_two_splits_have_in_common_are_remarked_on_for_every_pair(coco: Any) -> None:
    coco.draw_test()["images"] = [coco.train["images"][0], coco.val["images"][1]]
    coco.test["annotations"] = [
        {"id": n, "image_id": n, "category_id": n, "bbox": [1, 1, 9, 9]} for n in (1, 2)
    ]
    told = [problem.message for problem in check(coco.config()).warnings]
    assert told == [
        "1 of 2 pictures of test are also in train: t1.png",
        "1 of 2 pictures of test are also in val: v2.png",
    ]


def test_what_a_test_split_shares_with_each_other_split_is_found(coco: Any, picture: Any) -> None:
    coco.draw_test()
    for seed, name in enumerate(("t1", "t2", "v1", "v2", "h1"), start=1):
        picture(coco.images / f"{name}.png", 96, 64, seed=seed)
    (coco.images / "h2.png").write_bytes((coco.images / "v2.png").read_bytes())
    coco.test["images"].append({"id": 3, "file_name": "t1.png"})
    found = examine(coco.config())
    assert found.shared == ()
    assert found.test_shared_count == {"train": {"same file": 1}, "val": {"same bytes": 1}}
    named = [(each.split, each.how, each.other[-6:], each.test[-6:]) for each in found.test_shared]
    assert named == [("train", "same file", "t1.png", "t1.png"), ("val", "same bytes", "v2.png", "h2.png")]
    assert examine(coco.config(), quick=True).test_shared_count == {"train": {"same file": 1}}


def test_a_data_set_without_train_can_be_looked_at_and_one_without_val_is_unfinished(coco: Any) -> None:
    split = coco.config().val
    found = examine(DataConfig(test=split))
    assert (found.train, found.val) == (None, None)
    assert found.test is not None
    assert found.warnings[-1].message == "there is no train split: models can be scored on test, not trained"
    with pytest.raises(DataError, match="no `val` split"):
        examine(DataConfig(train=split))


def test_what_is_not_needed_and_cannot_be_read_is_left_out(coco: Any) -> None:
    coco.train["annotations"].clear()
    data = load(coco.config(), needs=("val",))
    assert list(data.splits) == ["val"]
    assert data.warnings[-1].message.startswith("the train split is left out: ")


def test_the_blood_cells_have_a_test_split(shared_data: Path) -> None:
    cells = check(DataConfig(path=str(shared_data / "bccd")))
    assert cells.test is not None
    assert (cells.test.images, cells.test.boxes) == (72, 945)
    voc = check(DataConfig(path=str(shared_data / "bccd"), format="voc"))
    assert voc.test is not None
    assert voc.test.images == 72
