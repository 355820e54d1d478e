"""Layouts of folders: usual ones are recognised, and others are refused with a reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gkd_core.config import DataConfig, Split
from gkd_core.data.find import find_layout
from gkd_core.errors import DataError

LAYOUTS = [
    ("annotations/instances_train2017.json", "annotations/instances_val2017.json", "train2017", "val2017"),
    ("annotations/instances_train.json", "annotations/instances_val.json", "images/train", "images/val"),
    (
        "annotations/instances_train.json",
        "annotations/instances_val.json",
        "images/train2017",
        "images/val2017",
    ),
    ("coco/instances_train.json", "coco/instances_val.json", "JPEGImages", "JPEGImages"),
    ("instances_train.json", "instances_val.json", "images", "images"),
    ("train.json", "val.json", ".", "."),
    ("annotations/train.json", "annotations/valid.json", "train", "valid"),
    ("train/_annotations.coco.json", "valid/_annotations.coco.json", "train", "valid"),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout[0]}+{layout[2]}")
def test_layouts_that_people_have_are_recognised(
    layout: tuple[str, str, str, str], tmp_path: Path, picture: Callable[..., None]
) -> None:
    for split, annotations, images in (("train", layout[0], layout[2]), ("val", layout[1], layout[3])):
        (tmp_path / images).mkdir(parents=True, exist_ok=True)
        (tmp_path / annotations).parent.mkdir(parents=True, exist_ok=True)
        picture(tmp_path / images / f"{split} ü.png", 8, 8)
        (tmp_path / annotations).write_text(
            json.dumps({"images": [{"id": 1, "file_name": f"{split} ü.png"}]})
        )
    found = find_layout(DataConfig(path=tmp_path.name), base=tmp_path.parent)
    assert found.format == "coco"
    assert found.path is None
    for split, annotations, images in (
        (found.train, layout[0], layout[2]),
        (found.val, layout[1], layout[3]),
    ):
        assert split is not None
        assert Path(split.annotations) == tmp_path / annotations
        assert Path(split.images) == tmp_path / images


def test_of_several_years_the_last_is_taken(tmp_path: Path) -> None:
    for year in (2014, 2017, 2016):
        for split in ("train", "val"):
            (tmp_path / f"instances_{split}{year}.json").touch()
    found = find_layout(DataConfig(path=str(tmp_path)))
    assert found.train is not None
    assert Path(found.train.annotations).name == "instances_train2017.json"


def test_voc_is_recognised(tmp_path: Path) -> None:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_text("a\n")
    found = find_layout(DataConfig(path=str(tmp_path)))
    assert found.format == "voc"
    assert found.train == Split(
        images=str(tmp_path / "JPEGImages"),
        annotations=str(tmp_path / "Annotations"),
        names=str(tmp_path / "ImageSets" / "Main" / "train.txt"),
    )


def test_with_both_formats_coco_is_taken_unless_voc_is_asked_for(shared_data: Path) -> None:
    folder = str(shared_data / "bccd")
    assert find_layout(DataConfig(path=folder)).format == "coco"
    assert find_layout(DataConfig(path=folder, format="voc")).format == "voc"


def test_a_folder_that_is_no_data_set_is_told_what_was_sought_and_found(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").touch()
    with pytest.raises(DataError, match=r"COCO .* and VOC .*found holiday.txt") as caught:
        find_layout(DataConfig(path=str(tmp_path)))
    assert caught.value.problems[0].loc == ("data", "path")


def test_pictures_that_are_nowhere_are_told_where_they_were_sought(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text('{"images": [{"id": 1, "file_name": "x.png"}]}')
    with pytest.raises(DataError, match=r"'x\.png' in the folder itself"):
        find_layout(DataConfig(path=str(tmp_path)))


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_layout(DataConfig(path=str(tmp_path / "gone")))


def test_splits_that_are_spelt_out_get_their_format_and_base(coco: Any) -> None:
    split = Split(images="images", annotations="train.json")
    found = find_layout(DataConfig(train=split, val=split), base=coco.folder)
    assert found.format == "coco"
    assert found.train is not None
    assert found.train.images == str(coco.images)


TEST_FILES = [
    ("annotations/instances_train2017.json", "annotations/instances_test2017.json", "test2017"),
    ("coco/instances_train.json", "coco/instances_test.json", "JPEGImages"),
    ("train.json", "test.json", "images/test"),
    ("train/_annotations.coco.json", "test/_annotations.coco.json", "test"),
]


@pytest.mark.parametrize("files", TEST_FILES, ids=lambda files: files[1])
def test_a_test_split_is_found_where_train_and_val_are(
    files: tuple[str, str, str], tmp_path: Path, picture: Callable[..., None]
) -> None:
    train, test, images = files
    val = train.replace("train/", "valid/") if "train/" in train else train.replace("train", "val")
    for name, annotations in (("train", train), ("val", val), ("test", test)):
        place = tmp_path / (images if name == "test" else Path(annotations).parent)
        place.mkdir(parents=True, exist_ok=True)
        (tmp_path / annotations).parent.mkdir(parents=True, exist_ok=True)
        picture(place / f"{name}.png", 8, 8)
        (tmp_path / annotations).write_text(json.dumps({"images": [{"id": 1, "file_name": f"{name}.png"}]}))
    found = find_layout(DataConfig(path=str(tmp_path)))
    assert list(found.splits) == ["train", "val", "test"]
    assert found.test == Split(images=str(tmp_path / images), annotations=str(tmp_path / test))


def make_voc(folder: Path, *splits: str) -> None:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for split in splits:
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("a\n")


def test_a_test_split_of_voc_is_its_list(tmp_path: Path) -> None:
    make_voc(tmp_path, "train", "val", "test")
    found = find_layout(DataConfig(path=str(tmp_path)))
    assert found.test is not None
    assert found.test.names == str(tmp_path / "ImageSets" / "Main" / "test.txt")


@pytest.mark.parametrize("said", ["test: images/holdout", ""])
def test_a_test_split_of_yolo_is_where_data_yaml_says_or_where_it_usually_lies(
    tmp_path: Path, said: str
) -> None:
    wanted = "holdout" if said else "test"
    for split in ("train", "val", wanted):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
    (tmp_path / "data.yaml").write_text(f"train: images/train\nval: images/val\n{said}\nnames: [cat]")
    found = find_layout(DataConfig(path=str(tmp_path)))
    assert found.test is not None
    assert found.test.images == str(tmp_path / "images" / wanted)
    assert found.test.annotations == str(tmp_path / "labels" / wanted)


def test_no_test_split_is_nothing_to_talk_about(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
    text = "train: images/train\nval: images/val\ntest: ../test/images\nnames: [cat]"
    (tmp_path / "data.yaml").write_text(text)
    assert find_layout(DataConfig(path=str(tmp_path))).test is None


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_one_split_alone_is_found_where_one_is_enough(tmp_path: Path, kind: str, split: str) -> None:
    if kind == "coco":
        (tmp_path / f"instances_{split}.json").touch()
    elif kind == "voc":
        make_voc(tmp_path, split)
    else:
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "data.yaml").write_text(f"{split}: images/{split}\nnames: [cat]")
    config = DataConfig(path=str(tmp_path))
    for needs in ((), (split,)):
        found = find_layout(config, needs=needs)
        assert (found.format, list(found.splits)) == (kind, [split])
    with pytest.raises(DataError):
        find_layout(config)


def test_where_any_split_will_do_a_format_with_train_and_val_goes_first(tmp_path: Path) -> None:
    (tmp_path / "instances_test.json").touch()
    make_voc(tmp_path, "train", "val")
    assert find_layout(DataConfig(path=str(tmp_path)), needs=()).format == "voc"
    assert find_layout(DataConfig(path=str(tmp_path)), needs=("test",)).format == "coco"


def test_a_stray_xml_file_does_not_make_a_yolo_data_set_voc(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]")
    (tmp_path / "project.xml").write_text("<project/>")
    for needs in ((), ("train",), ("train", "val")):
        assert find_layout(DataConfig(path=str(tmp_path)), needs=needs).format == "yolo"


def test_a_split_that_is_spelt_out_may_stand_alone_where_it_is_enough(coco: Any) -> None:
    config = DataConfig(test=Split(images="images", annotations="train.json"))
    found = find_layout(config, base=coco.folder, needs=("test",))
    assert found.test is not None
    assert found.test.images == str(coco.images)
    with pytest.raises(DataError, match="no `train` split") as caught:
        find_layout(config, base=coco.folder)
    assert [problem.loc for problem in caught.value.problems] == [("data", "train"), ("data", "val")]
