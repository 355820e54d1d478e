"""Classes renamed and left out: the same in every format, the same again when the resolved config is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gkd_core.config import DataConfig
from gkd_core.data.check import check
from gkd_core.data.reading import load
from gkd_core.errors import DataError

CLASSES = ("cat", "dog", "van")
OBJECTS = {"t1": ("van", "cat"), "t2": ("dog", "van"), "t3": ("van",), "v1": ("cat", "dog", "van")}
"""Classes of the objects of each picture."""
XML = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>20</ymax></bndbox></object>"


def _coco(folder: Path) -> None:
    for split, prefix in (("train", "t"), ("val", "v")):
        stems = [stem for stem in OBJECTS if stem.startswith(prefix)]
        images = [{"id": number, "file_name": f"{stem}.png"} for number, stem in enumerate(stems)]
        annotations = [
            {"image_id": number, "category_id": 10 * CLASSES.index(name), "bbox": [30 * place + 1, 2, 20, 18]}
            for number, stem in enumerate(stems)
            for place, name in enumerate(OBJECTS[stem])
        ]
        content = {
            "images": images,
            "annotations": [{"id": number, **item} for number, item in enumerate(annotations)],
            "categories": [{"id": 10 * number, "name": name} for number, name in enumerate(CLASSES)],
        }
        (folder / f"{split}.json").write_text(json.dumps(content))


def _voc(folder: Path) -> None:
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "JPEGImages").symlink_to(folder)
    for stem, names in OBJECTS.items():
        objects = "".join(XML.format(name, 30 * i + 1, 30 * i + 21) for i, name in enumerate(names))
        (folder / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{objects}</annotation>")
    for split, prefix in (("train", "t"), ("val", "v")):
        stems = [stem for stem in OBJECTS if stem.startswith(prefix)]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems))


def _yolo(folder: Path) -> None:
    for stem, names in OBJECTS.items():
        lines = [
            f"{CLASSES.index(n)} {(30 * i + 11) / 96} {11 / 64} {20 / 96} {18 / 64}"
            for i, n in enumerate(names)
        ]
        (folder / f"{stem}.txt").write_text("\n".join(lines))
    for split, prefix in (("train", "t"), ("val", "v")):
        stems = [stem for stem in OBJECTS if stem.startswith(prefix)]
        (folder / f"{split}.txt").write_text("\n".join(f"{stem}.png" for stem in stems))
    (folder / "data.yaml").write_text("train: train.txt\nval: val.txt\nnames: [cat, dog, van]")


@pytest.fixture(params=["coco", "voc", "yolo"])
def data(request: pytest.FixtureRequest, tmp_path: Path, picture: Callable[..., None]) -> Any:
    """Return a function that makes a config of the same data set in one of the formats."""
    for stem in OBJECTS:
        picture(tmp_path / f"{stem}.png", 96, 64)
    {"coco": _coco, "voc": _voc, "yolo": _yolo}[request.param](tmp_path)
    return lambda **fields: DataConfig.model_validate(
        {"path": str(tmp_path), "format": request.param, **fields}
    )


def named(config: DataConfig) -> list[list[str]]:
    """Return the class names of the objects of each picture of train, in order."""
    data = load(config)
    return [[data.classes[label - 1] for label in record.labels] for record in data.train.images]


def test_without_a_wish_nothing_changes(data: Any) -> None:
    assert load(data()).classes == CLASSES
    assert named(data()) == [["van", "cat"], ["dog", "van"], ["van"]]


def test_classes_get_new_names(data: Any) -> None:
    config = data(rename={"cat": "chat", "dog": "cat"})  # all at once, not one after the other
    assert load(config).classes == ("chat", "cat", "van")
    assert named(config) == [["van", "chat"], ["cat", "van"], ["van"]]


def test_classes_of_one_new_name_become_one_class(data: Any) -> None:
    config = data(rename={"cat": "animal", "dog": "animal"})
    assert load(config).classes == ("animal", "van")
    assert named(config) == [["van", "animal"], ["animal", "van"], ["van"]]


def test_a_class_may_join_one_that_keeps_its_name(data: Any) -> None:
    assert load(data(rename={"van": "cat"})).classes == ("cat", "dog")


def test_objects_of_other_classes_are_left_out_and_their_pictures_stay(data: Any) -> None:
    config = data(only=("dog", "cat"))
    loaded = load(config)
    assert loaded.classes == ("cat", "dog")
    assert named(config) == [["cat"], ["dog"], []]
    train, val = (problem.message for problem in loaded.warnings if "`only`" in problem.message)
    assert "objects left out of classes that `only` does not name (1: van: 3)" in train
    assert "(1: van: 1)" in val
    assert check(config).train.images_without_boxes == 1


def test_only_goes_by_the_new_names_and_classes_orders_them(data: Any) -> None:
    config = data(
        rename={"cat": "animal", "dog": "animal"}, only=("animal", "van"), classes=("van", "animal")
    )
    assert load(config).classes == ("van", "animal")
    assert named(config) == [["van", "animal"], ["animal", "van"], ["van"]]


@pytest.mark.parametrize(
    "wish",
    [
        {"rename": {"cat": "animal", "dog": "animal"}},
        {"rename": {"cat": "dog", "dog": "cat"}},
        {"rename": {"cat": "chat"}, "only": ("van", "chat")},
        {"only": ("dog",)},
        {"only": ("van", "dog"), "classes": ("van", "dog")},
    ],
)
def test_the_resolved_config_read_again_gives_the_same(data: Any, wish: dict[str, Any]) -> None:
    config = data(**wish)
    report = check(config)
    again = DataConfig.model_validate_json(report.resolved.model_dump_json())
    assert check(again) == report
    assert named(again) == named(config)


@pytest.mark.parametrize(
    ("wish", "field", "message"),
    [
        ({"rename": {"Cats": "animal"}}, "rename", r"'Cats' \(did you mean 'cat'\?\)"),
        ({"rename": {"cat": " "}}, "rename", "new names of cat are no names"),
        ({"only": ("vam", "cat")}, "only", r"'vam' \(did you mean 'van'\?\)"),
        ({"rename": {"cat": "chat"}, "only": ("cat",)}, "only", r"'cat' \(did you mean 'chat'\?\)"),
        ({"only": ()}, "only", "no class is kept"),
        ({"only": ("cat",), "classes": ("cat", "dog")}, "classes", "not in the data set: 'dog'"),
    ],
)
def test_names_that_do_not_exist_are_refused(
    data: Any, wish: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(data(**wish))
    assert caught.value.problems[0].loc == ("data", field)


@pytest.mark.parametrize("data", ["voc"], indirect=True)  # whose classes come from the objects alone
def test_a_class_that_only_val_has_may_be_left_out_or_joined(data: Any, tmp_path: Path) -> None:
    xml = tmp_path / "Annotations" / "v1.xml"
    xml.write_text(xml.read_text().replace("dog", "hound"))
    with pytest.raises(DataError, match=r"val has classes that train does not: 'hound'") as caught:
        load(data())
    assert "data.rename or data.only" in caught.value.hint
    assert load(data(only=("cat", "van"))).classes == ("cat", "van")
    assert load(data(rename={"hound": "dog"})).classes == CLASSES
