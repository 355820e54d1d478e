"""The check before a job: quick, without torch, with messages that name the field."""

import subprocess
import sys
import time
from typing import Any

import pytest
from PIL import Image

from gkd_core.config import DataConfig
from gkd_core.data.check import check
from gkd_core.data.reading import load
from gkd_core.errors import DataError


def test_the_report_counts_what_is_there(coco: Any) -> None:
    coco.train["annotations"][3]["iscrowd"] = 1
    Image.new("RGB", (200, 100)).save(coco.images / "t1.png")
    coco.train["images"][0] |= {"width": 200, "height": 100}
    coco.train["annotations"][0] |= {"bbox": [1, 1, 96, 96], "area": 96**2}
    coco.train["images"].append({**coco.train["images"][0], "id": 3, "file_name": "v1.png"})
    report = check(coco.config())
    assert report.format == "coco"
    assert report.classes == ("square", "disc")
    assert report.train.images == 3
    assert report.train.boxes_per_class == {"square": 2, "disc": 1}
    assert (report.train.boxes, report.train.crowd, report.train.images_without_boxes) == (3, 1, 1)
    assert (report.train.small, report.train.medium, report.train.large) == (1, 1, 1)
    assert report.train.sizes.width == (96, 200)


def test_the_resolved_config_reads_the_same_data_set(coco: Any) -> None:
    first = check(coco.config())
    assert first.resolved.classes == ("square", "disc")
    assert first.resolved.format == "coco"
    assert check(first.resolved) == first


def test_a_picture_in_both_splits_is_remarked_on(coco: Any) -> None:
    coco.val = coco.train
    assert any("2 of 2 pictures of val are also in train" in p.message for p in check(coco.config()).warnings)


def test_a_typo_in_the_classes_names_the_likely_one(coco: Any) -> None:
    with pytest.raises(DataError, match=r"'Sqare' \(did you mean 'square'\?\).*not given: square") as caught:
        check(coco.config(classes=("disc", "Sqare")))
    assert caught.value.problems[0].loc == ("data", "classes")
    assert "square, disc" in caught.value.hint


@pytest.mark.parametrize("classes", [("disc",), ("disc", "square", "star"), ("disc", "square", "disc")])
def test_classes_must_be_those_of_the_data_set(coco: Any, classes: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="classes differ"):
        check(coco.config(classes=classes))


def test_a_class_that_only_val_has_is_an_error(coco: Any) -> None:
    coco.val["categories"][1]["name"] = "disk"
    with pytest.raises(DataError, match=r"'disk' \(did you mean 'disc'\?\)") as caught:
        check(coco.config())
    assert caught.value.problems[0].loc == ("data", "val", "annotations")


def test_checking_does_not_load_torch() -> None:
    code = "import gkd_core.data.check, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_sample_sets_are_as_their_readmes_say(shared_data: Any) -> None:
    cells = check(DataConfig(path=str(shared_data / "bccd")))
    assert (cells.train.images, cells.train.boxes, cells.val.images, cells.val.boxes) == (205, 2804, 87, 1137)
    assert cells.train.boxes_per_class == {"Platelets": 209, "RBC": 2381, "WBC": 214}
    assert (cells.train.small, cells.train.medium, cells.train.large) == (23, 855, 1926)
    everyday = check(DataConfig(path=str(shared_data / "everyday")))
    assert (everyday.train.images, everyday.train.boxes + everyday.train.crowd) == (80, 770)
    assert everyday.train.crowd == 9


def test_voc_and_coco_of_the_same_set_give_the_same_boxes(shared_data: Any) -> None:
    sets = [load(DataConfig(path=str(shared_data / "bccd"), format=name)) for name in ("coco", "voc")]
    for first, second in zip(sets[0].train.images, sets[1].train.images, strict=True):
        assert first.path == second.path
        assert first.boxes.tolist() == second.boxes.tolist()
        assert first.labels.tolist() == second.labels.tolist()


def test_a_thousand_pictures_take_a_second_or_two(shared_data: Any) -> None:
    start = time.perf_counter()
    assert check(DataConfig(path=str(shared_data / "pcb"))).train.images == 857
    assert time.perf_counter() - start < 5  # 0.3 s on an idle machine
