"""Data sets as people bring them: exports of other tools, wrong types, folders that are nearly right.

Each input is made here in the form that CVAT, Label Studio, Roboflow, FiftyOne, pandas and people write.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gkd_core.config import DataConfig, Split
from gkd_core.data.check import check
from gkd_core.data.examine import examine
from gkd_core.data.find import find_layout
from gkd_core.data.reading import load
from gkd_core.errors import DataError

XML = (
    "<annotation><filename>{0}.png</filename><size><width>96</width><height>64</height></size>"
    "<object><name>square</name><bndbox><xmin>15</xmin><ymin>28</ymin><xmax>39</xmax><ymax>56</ymax></bndbox></object>"
    "</annotation>"
)


def draw(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def coco_file(file: Path, names: list[str], **image: Any) -> dict[str, Any]:
    """Write a COCO file with one box a picture."""
    content: dict[str, Any] = {
        "images": [
            {"id": number, "file_name": name, "width": 96, "height": 64} | image
            for number, name in enumerate(names, start=1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [10, 12, 24, 28],
                "area": 672,
                "iscrowd": 0,
            }
            for number in range(1, len(names) + 1)
        ],
        "categories": [{"id": 1, "name": "square"}],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return content


def make(folder: Path, train: tuple[str, str], val: tuple[str, str], same_names: bool = False) -> None:
    """Write a COCO data set: for each split the annotation file and the folder of its three pictures."""
    for number, (annotations, images) in enumerate((train, val)):
        names = [f"{'f' if same_names else 'tv'[number]}{each}.png" for each in range(3)]
        for each, name in enumerate(names):
            draw(folder / images / name, 10 * number + each)
        coco_file(folder / annotations, names)


def message_of(path: Path, **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        check(DataConfig(path=str(path), **fields))
    assert all(problem.loc[0] == "data" for problem in caught.value.problems)
    return f"{caught.value.message} {caught.value.hint}"


# ---- layouts -------------------------------------------------------------------------------------------------

LAYOUTS = {
    "cvat subsets": (
        ("annotations/instances_Train.json", "images/Train"),
        ("annotations/instances_Validation.json", "images/Validation"),
    ),
    "upper case": (("annotations/TRAIN.json", "TRAIN"), ("annotations/VAL.json", "VAL")),
    "dev": (("instances_train.json", "train"), ("instances_dev.json", "dev")),
    "words behind": (("labels_train_v2.json", "images"), ("labels_val_v2.json", "images")),
    "training and validation": (
        ("annotations/training.json", "images/training"),
        ("annotations/validation.json", "images/validation"),
    ),
    "camel case": (("ds_TrainSet.json", "images/train"), ("ds_ValSet.json", "images/val")),
    "minitrain": (
        ("annotations/instances_minitrain2017.json", "train2017"),
        ("annotations/instances_val2017.json", "val2017"),
    ),
    "fiftyone": (("train/labels.json", "train/data"), ("val/labels.json", "val/data")),
    "roboflow, in images": (
        ("train/_annotations.coco.json", "train/images"),
        ("valid/_annotations.coco.json", "valid/images"),
    ),
    "annotations inside": (
        ("train/annotations/instances.json", "train/images"),
        ("dev/annotations/instances.json", "dev/images"),
    ),
    "Annotations, Images": (
        ("Annotations/instances_train.json", "Images/train"),
        ("Annotations/instances_val.json", "Images/val"),
    ),
    "images in split folders": (
        ("annotations/instances_train.json", "Train/images"),
        ("annotations/instances_valid.json", "Valid/images"),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("same_names", [False, True])
def test_a_layout_of_another_exporter_is_recognised(tmp_path: Path, layout: str, same_names: bool) -> None:
    train, val = LAYOUTS[layout]
    if same_names and train[1] == val[1]:
        pytest.skip("one folder of pictures cannot hold both")
    make(tmp_path, train, val, same_names)
    report = check(DataConfig(path=str(tmp_path)))
    for name, (annotations, images) in (("train", train), ("val", val)):
        split = report.resolved.splits[name]  # type: ignore[index]
        assert Path(split.annotations) == tmp_path / annotations
        assert Path(split.images) == tmp_path / images
    assert (report.train.images, report.val.images) == (3, 3)
    assert not report.warnings


def test_pictures_of_another_split_are_never_taken(tmp_path: Path) -> None:
    make(tmp_path, ("train/_annotations.coco.json", "train"), ("valid/_annotations.coco.json", "valid"), True)
    (tmp_path / "train" / "f1.png").unlink()  # which also occurs in valid/
    assert "1 of 3 pictures (f1.png)" in message_of(tmp_path)


@pytest.mark.parametrize(
    "other", ["instances_train_backup.json", "instances_train-old.json", "z_train.json", "train2.json"]
)
def test_a_file_with_the_standard_name_comes_first_and_others_are_named(tmp_path: Path, other: str) -> None:
    make(
        tmp_path,
        ("annotations/instances_train.json", "images/train"),
        ("annotations/instances_val.json", "images/val"),
    )
    coco_file(tmp_path / "annotations" / other, ["t0.png"])
    coco_file(tmp_path / "annotations" / other.replace("train", "val"), ["v0.png"])
    report = check(DataConfig(path=str(tmp_path)))
    assert (report.train.images, report.val.images) == (3, 3)
    [warning] = [each.message for each in report.warnings]
    assert "not read" in warning
    assert other in warning


def test_several_files_without_a_standard_name_are_refused(tmp_path: Path) -> None:
    for version in ("a", "b"):
        make(tmp_path, (f"cells_train_{version}.json", "images"), (f"cells_val_{version}.json", "images"))
    told = message_of(tmp_path)
    assert [
        word for word in ("cells_train_a.json", "cells_train_b.json", "Spell out") if word not in told
    ] == []


def test_what_coco_has_beside_its_boxes_is_no_other_candidate(tmp_path: Path) -> None:
    make(
        tmp_path,
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_val2017.json", "val2017"),
    )
    for kind in ("captions", "person_keypoints", "stuff"):
        coco_file(tmp_path / "annotations" / f"{kind}_train2017.json", ["t0.png"])
    assert not check(DataConfig(path=str(tmp_path))).warnings


def test_voc_of_roboflow_is_recognised(tmp_path: Path) -> None:
    for split, stem in (("train", "a"), ("valid", "b")):
        draw(tmp_path / split / f"{stem}.png", ord(stem))
        (tmp_path / split / f"{stem}.xml").write_text(XML.format(stem))
    report = check(DataConfig(path=str(tmp_path)))
    assert (report.format, report.train.boxes, report.val.boxes) == ("voc", 1, 1)


@pytest.mark.parametrize("key", ["Val", "valid", "DEV", "validation"])
def test_names_of_splits_in_data_yaml_are_read_without_regard_to_case(tmp_path: Path, key: str) -> None:
    for split in ("train", "val"):
        (tmp_path / "a" / split).mkdir(parents=True)
    (tmp_path / "data.yaml").write_text(f"Train: a/train\n{key}: a/val\nnames: [cat]")
    assert find_layout(DataConfig(path=str(tmp_path))).splits["val"].images == str(tmp_path / "a" / "val")


def test_what_is_read_from_outside_the_folder_is_said(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "inner"):
        for split in ("train", "valid"):
            draw(place / split / "images" / "x.png", len(place.parts))
            (place / split / "labels").mkdir()
            (place / split / "labels" / "x.txt").write_text("0 .5 .5 .2 .2")
        (place / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: [square]")
    [warning] = [
        each.message
        for each in check(DataConfig(path=str(tmp_path / "inner"))).warnings
        if "outside" in each.message
    ]
    assert str(tmp_path / "train" / "images") in warning
    assert not [each for each in check(DataConfig(path=str(tmp_path))).warnings if "outside" in each.message]


# ---- what is nearly a data set ---------------------------------------------------------------------------------


def voc(folder: Path, *lists: str, images: str = "JPEGImages") -> None:
    for stem in ("a", "b"):
        draw(folder / images / f"{stem}.png", ord(stem))
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{stem}.xml").write_text(XML.format(stem))
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for name in lists:
        (folder / "ImageSets" / "Main" / name).write_text("a\n")


def yolo(folder: Path, *splits: str, data_yaml: str = "") -> None:
    for split in splits:
        draw(folder / "images" / split / "x.png", len(split))
        (folder / "labels" / split).mkdir(parents=True)
        (folder / "labels" / split / "x.txt").write_text("0 .5 .5 .2 .2")
    if data_yaml:
        (folder / "data.yaml").write_text(data_yaml)


def part(annotations: str, images: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for each in range(4):
            draw(folder / images / f"p{each}.png", each)
        coco_file(folder / annotations, [f"p{each}.png" for each in range(4)])

    return write


NEARLY: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "coco without val": (
        part("annotations/instances_train2017.json", "train2017"),
        (
            "looks like COCO",
            "instances_train2017.json is there",
            "validation split",
            "instances_val2017.json",
            "val_share",
        ),
    ),
    "coco without train": (
        part("annotations/instances_val.json", "images/val"),
        ("looks like COCO", "training split", "instances_train.json", "missing"),
    ),
    "cvat, one subset": (
        part("annotations/instances_default.json", "images/default"),
        ("looks like COCO", "instances_default.json", "validation split is missing", "val_share"),
    ),
    "label studio": (part("result.json", "images"), ("looks like COCO", "result.json", "val_share")),
    "fiftyone, one split": (part("labels.json", "data"), ("looks like COCO", "labels.json", "val_share")),
    "roboflow without valid": (
        part("train/_annotations.coco.json", "train"),
        ("looks like COCO (Roboflow)", "valid/_annotations.coco.json", "missing", "val_share"),
    ),
    "voc without val": (
        lambda folder: voc(folder, "train.txt"),
        ("looks like Pascal VOC", "ImageSets/Main/val.txt is missing", "val_share"),
    ),
    "voc without lists": (
        lambda folder: voc(folder),
        ("looks like Pascal VOC", "train.txt", "val.txt are missing"),
    ),
    "voc of cvat": (
        lambda folder: voc(folder, "default.txt"),
        ("Pascal VOC", "default.txt is there", "val_share"),
    ),
    "voc without pictures": (
        lambda folder: voc(folder, "train.txt", "val.txt", images="pics"),
        ("looks like Pascal VOC", "JPEGImages/", "missing"),
    ),
    "yolo without val": (
        lambda folder: yolo(
            folder, "train", data_yaml="train: images/train\nval: images/val\nnames: [square]"
        ),
        ("looks like YOLO", "'images/val' for val", "val_share"),
    ),
    "yolo without names": (
        lambda folder: yolo(folder, "train", "val"),
        ("looks like YOLO", "data.yaml", "classes.txt"),
    ),
    "darknet of cvat": (
        lambda folder: (folder / "obj.data").write_text("classes = 1"),
        ("looks like YOLO for Darknet", "export it as YOLO"),
    ),
    "yolo of windows": (
        lambda folder: yolo(folder, "a", "b", data_yaml="train: images\\a\nval: images\\b\nnames: [square]"),
        ("'images\\a' for train", "backslashes", "images/a"),
    ),
}


@pytest.mark.parametrize("case", NEARLY)
def test_a_folder_that_is_nearly_a_data_set_says_what_is_missing(tmp_path: Path, case: str) -> None:
    write, words = NEARLY[case]
    write(tmp_path)
    told = message_of(tmp_path)
    assert [word for word in words if word not in told] == [], told


@pytest.mark.parametrize("depth", ["inner", "VOCdevkit/VOC2007"])
def test_a_data_set_in_a_folder_of_the_folder_is_named(tmp_path: Path, depth: str) -> None:
    (tmp_path / depth).mkdir(parents=True)
    voc(tmp_path / depth, "train.txt", "val.txt")
    assert f"{depth}/ inside it can be read" in message_of(tmp_path)


# ---- a share of one split ----------------------------------------------------------------------------------------

UNDIVIDED = [name for name, (_, words) in NEARLY.items() if "val_share" in words]


@pytest.mark.parametrize("case", UNDIVIDED)
def test_a_share_of_the_only_split_is_set_aside(tmp_path: Path, case: str) -> None:
    NEARLY[case][0](tmp_path)
    if "voc" in case:
        for name in (tmp_path / "ImageSets" / "Main").iterdir():
            name.write_text("a\nb\n")
    if "yolo" in case:
        draw(tmp_path / "images" / "train" / "y.png", 5)
        shutil.copy(tmp_path / "labels" / "train" / "x.txt", tmp_path / "labels" / "train" / "y.txt")
    data = load(DataConfig(path=str(tmp_path), val_share=0.25))
    both = [record.path for split in (data.train, data.val) for record in split.images]
    assert len(data.val.images) == 1
    assert len(set(both)) == len(both) > 1
    assert any("set aside by `val_share`" in warning.message for warning in data.warnings)
    assert not any("also in train" in warning.message for warning in data.warnings)


@pytest.mark.parametrize("case", UNDIVIDED)
def test_the_only_split_is_there_for_who_needs_no_other(tmp_path: Path, case: str) -> None:
    NEARLY[case][0](tmp_path)
    for needs in ((), ("train",)):
        assert list(find_layout(DataConfig(path=str(tmp_path)), needs=needs).splits) == ["train"]


def chosen(config: DataConfig) -> set[str]:
    return {record.path.name for record in load(config).val.images}


def many(folder: Path, order: int = 1) -> DataConfig:
    names = [f"p{each:02}.png" for each in range(20)][::order]
    for each, name in enumerate(names):
        draw(folder / "images" / name, each)
    coco_file(folder / "all.json", names)
    return DataConfig(
        train=Split(images=str(folder / "images"), annotations=str(folder / "all.json")), val_share=0.3
    )


def test_a_share_depends_on_names_and_seed_alone(tmp_path: Path) -> None:
    first, reversed_, moved = many(tmp_path / "a"), many(tmp_path / "b", -1), tmp_path / "c"
    shutil.copytree(tmp_path / "a", moved)
    assert len(chosen(first)) == 6
    assert chosen(first) == chosen(reversed_) == chosen(DataConfig(path=str(moved), val_share=0.3))
    assert chosen(first) != chosen(first.model_copy(update={"val_seed": 1}))


def test_a_resolved_config_makes_the_same_split_again(tmp_path: Path) -> None:
    report = check(many(tmp_path))
    resolved = DataConfig.model_validate_json(report.resolved.model_dump_json())
    assert chosen(resolved) == chosen(many(tmp_path))
    assert (report.train.images, report.val.images) == (14, 6)
    assert examine(resolved).val.images == 6


def test_a_share_of_what_has_a_validation_split_is_refused(tmp_path: Path) -> None:
    make(tmp_path, ("train.json", "images"), ("val.json", "images"))
    assert "has one" in message_of(tmp_path, val_share=0.2)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, True, "a fifth"])
def test_a_share_lies_between_0_and_1(share: Any) -> None:
    with pytest.raises(ValueError, match="val_share"):
        DataConfig.model_validate({"path": "x", "val_share": share})


@pytest.mark.parametrize(
    "fields", [{"val": {"images": "v", "annotations": "w"}, "val_share": 0.2}, {"val_seed": 3}]
)
def test_a_share_goes_with_train_alone(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="val_share"):
        DataConfig.model_validate({"train": {"images": "a", "annotations": "b"}} | fields)


def test_one_picture_cannot_be_divided(tmp_path: Path) -> None:
    draw(tmp_path / "x.png", 0)
    coco_file(tmp_path / "result.json", ["x.png"])
    assert "one picture cannot be divided" in message_of(tmp_path, val_share=0.5)


# ---- types in COCO -----------------------------------------------------------------------------------------------


def floats(content: dict[str, Any]) -> None:
    for image in content["images"]:
        image.update(id=float(image["id"]), width=96.0, height=64.0)
    for each in content["annotations"]:
        each.update({key: float(each[key]) for key in ("id", "image_id", "category_id", "iscrowd", "area")})
    content["categories"][0]["id"] = 1.0
    content["categories"][1]["id"] = 2.0


def first(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["annotations"][0].update(fields)


def each(
    key: str, change: Callable[[Any], Any], where: str = "annotations"
) -> Callable[[dict[str, Any]], None]:
    def spoil(content: dict[str, Any]) -> None:
        for item in content[where]:
            item[key] = change(item.get(key))

    return spoil


REFUSED = {
    "category_id is the text '1'": first(category_id="1"),
    "categories[0]: id is the text '1'": each("id", str, "categories"),
    "categories[0]: id is 1.5": each("id", lambda value: value + 0.5, "categories"),
    "category_id 1.5": first(category_id=1.5),
    "category_id True": first(category_id=True),
    "its image_id is the text '1', where `images` has the number": each("image_id", str),
    "its image_id is the number 1, where `images` has the text": each("id", str, "images"),
    "its `bbox` has text, such as '10'": each("bbox", lambda box: [str(box[0]), *box[1:]]),
    "its `bbox` is text": each("bbox", str),
}


@pytest.mark.parametrize("message", REFUSED)
def test_text_where_numbers_belong_is_named_as_such(coco: Any, message: str) -> None:
    REFUSED[message](coco.train)
    with pytest.raises(DataError) as caught:
        load(coco.config())
    assert message in caught.value.message


def test_whole_floats_are_whole_numbers(coco: Any) -> None:
    expected = load(coco.config())
    for content in (coco.train, coco.val):
        for annotation in content["annotations"]:
            annotation.update(iscrowd=0, area=annotation["bbox"][2] * annotation["bbox"][3])
        floats(content)
    found = load(coco.config())
    assert not found.warnings
    assert [record.labels.tolist() for record in found.train.images] == [
        record.labels.tolist() for record in expected.train.images
    ]


FLAGS: list[tuple[Any, bool, bool]] = [
    (0, False, False),
    (1, True, False),
    ("0", False, False),
    ("1", True, False),
    ("false", False, False),
    ("True", True, False),
    (False, False, False),
    (True, True, False),
    (1.0, True, False),
    ("0.0", False, False),
    (2, False, True),
    ("yes", False, True),
    ("", False, True),
    (None, False, True),
    ([], False, True),
]


@pytest.mark.parametrize(("value", "crowd", "remarked"), FLAGS)
def test_one_strict_reader_of_flags(coco: Any, value: Any, crowd: bool, remarked: bool) -> None:
    coco.train["annotations"][0]["iscrowd"] = value
    data = load(coco.config())
    assert bool(data.train.images[0].crowd[0]) is crowd
    assert (
        any("`iscrowd` is neither 0, 1, true nor false" in each.message for each in data.warnings) is remarked
    )


@pytest.mark.parametrize("value", [1, "1", True])
def test_what_is_to_be_ignored_is_kept_apart_and_said(coco: Any, value: Any) -> None:
    coco.train["annotations"][0]["ignore"] = value
    data = load(coco.config())
    assert data.train.images[0].crowd.tolist() == [True, False]
    assert any("`ignore` is set" in each.message for each in data.warnings)


AREAS: list[tuple[Any, str]] = [
    (24 * 28 / (96 * 64), "fraction of the picture"),
    (96 * 64, "larger than its box"),
    ("672", "area is text"),
    (0, "not above 0"),
    (None, "not above 0"),
]


@pytest.mark.parametrize(("area", "message"), AREAS)
def test_an_area_that_cannot_be_that_of_its_box_is_the_box(coco: Any, area: Any, message: str) -> None:
    coco.train["annotations"][0]["area"] = area
    data = load(coco.config())
    assert data.train.images[0].area[0] == 24 * 28
    [warning] = [each.message for each in data.warnings if "area" in each.message]
    assert message in warning
    assert "annotation 1" in warning


@pytest.mark.parametrize("area", [672, 25 * 29, 400.5, 8])
def test_the_area_of_a_mask_counts(coco: Any, area: float) -> None:
    coco.train["annotations"][0]["area"] = area
    data = load(coco.config())
    assert data.train.images[0].area[0] == area
    assert not data.warnings


# ---- names of classes --------------------------------------------------------------------------------------------


def with_class(coco: Any, name: str, objects: int) -> Any:
    for content in (coco.train, coco.val):
        content["categories"] = [
            {"id": 1, "name": "king"},
            {"id": 2, "name": "disc"},
            {"id": 3, "name": name},
        ]
    for number in range(objects):
        coco.train["annotations"].append(
            {
                "id": 100 + number,
                "image_id": 1 + number % 2,
                "category_id": 3,
                "bbox": [1, 1 + 9 * number, 8, 8],
            }
        )
    return load(coco.config())


@pytest.mark.parametrize("name", ["kinge", "kin", "kong", "Kinge", "knig", "iking"])
def test_a_class_of_one_object_that_is_one_letter_from_another_is_asked_about(coco: Any, name: str) -> None:
    data = with_class(coco, name, 1)
    [warning] = [each for each in data.warnings if "did you mean" in each.message]
    assert f"`{name}`: did you mean `king`?" in warning.message
    assert "data.rename" in warning.hint


@pytest.mark.parametrize(
    ("name", "objects"), [("kinge", 2), ("queen", 1), ("king2", 1), ("ki", 1), ("kinges", 1)]
)
def test_other_names_are_not_asked_about(coco: Any, name: str, objects: int) -> None:
    assert not [each for each in with_class(coco, name, objects).warnings if "did you mean" in each.message]


# ---- lists of pictures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("data/images/{}/x.png", "take `data/` off the lines of train.txt"),
        ("images\\{}\\x.png", "backslashes"),
        ("images/{}/gone.png", "relative to its folder"),
    ],
)
def test_listed_pictures_that_are_absent_are_said_as_such(tmp_path: Path, line: str, hint: str) -> None:
    yolo(tmp_path, "train", "val", data_yaml="train: train.txt\nval: val.txt\nnames: [square]")
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text(line.format(split, split))
    told = message_of(tmp_path)
    assert [word for word in ("1 of 1 pictures", "train.txt", "missing", hint) if word not in told] == []
    assert "file of labels" not in told


# ---- long lists --------------------------------------------------------------------------------------------------


@pytest.mark.timeout(100)
def test_many_classes_and_one_duplicate_take_no_quadratic_time(coco: Any) -> None:
    for content in (coco.train, coco.val):
        content["categories"] += [{"id": 10 + number, "name": f"class {number}"} for number in range(20_000)]
        content["categories"].append({"id": 9, "name": "class 0"})
    data = load(coco.config())
    assert len(data.classes) == 20_002
