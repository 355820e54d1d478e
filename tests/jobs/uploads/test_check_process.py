"""The checks of a data set or a model, in this process; `test_check_runner` shows that they run in one of their own."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from gkd_core.config import DataConfig
from jobs.resources import ResourceKind, ResourceState, Verdict
from jobs.uploads.check_process import Request, verdict

MUCH = {"memory_bytes": 2**32, "seconds": 60, "unpacked_bytes": 10**8}
Draw = Callable[..., Path]


def of_folder(path: Path, *roots: Path) -> Verdict:
    data = DataConfig(path=str(path))
    return verdict(Request(kind=ResourceKind.DATASET, data=data, roots=roots or (path.parent,), **MUCH))


def of_archive(file: Path, folder: Path) -> Verdict:
    folder.mkdir()
    data = DataConfig(path="")
    about = {"file": file, "folder": folder, "uploaded": True, "data": data}
    return verdict(Request(kind=ResourceKind.DATASET, **about, **MUCH))


def of_model(file: Path) -> Verdict:
    return verdict(Request(kind=ResourceKind.MODEL, file=file, **MUCH))


def test_a_good_data_set_is_ready_with_the_report_of_data_check(tmp_path: Path, draw: Draw) -> None:
    found = of_folder(draw(tmp_path / "discs"))
    assert found.state is ResourceState.READY
    assert found.reason.startswith("coco, 2 classes, 3 pictures to learn from and 2 to judge on")
    assert found.report is not None
    assert (found.report["usable"], found.report["train"]["images"], found.report["decoded"]) == (
        True,
        3,
        True,
    )
    assert found.size is not None
    assert found.size > 0


def test_a_data_set_that_cannot_be_used_is_refused_with_its_problems(tmp_path: Path, draw: Draw) -> None:
    (draw(tmp_path / "discs") / "images" / "train1.png").unlink()
    found = of_folder(tmp_path / "discs")
    assert found.state is ResourceState.REFUSED
    assert "missing in" in found.reason
    assert found.report is not None
    assert (found.report["usable"], found.report["problems"][0]["loc"]) == (
        False,
        ["data", "train", "images"],
    )


def test_a_data_set_to_score_on_needs_no_train_split(tmp_path: Path, draw: Draw) -> None:
    place = draw(tmp_path / "discs") / "annotations"
    (place / "instances_train.json").unlink()
    (place / "instances_val.json").rename(place / "instances_test.json")
    found = of_folder(tmp_path / "discs")
    assert found.state is ResourceState.READY
    assert found.reason.startswith("coco, 2 classes, 2 pictures to test on; ")
    assert found.report is not None
    assert (found.report["train"], found.report["test"]["images"]) == (None, 2)


def leave_one_split(folder: Path, name: str) -> Path:
    """Leave only the annotations of train, under that name."""
    (folder / "annotations" / "instances_val.json").unlink()
    (folder / "annotations" / "instances_train.json").rename(folder / "annotations" / name)
    return folder


@pytest.mark.parametrize("name", ["instances_train.json", "instances_default.json"])
@pytest.mark.parametrize("uploaded", [False, True])
def test_a_data_set_of_one_split_is_ready_and_says_what_a_training_needs(
    tmp_path: Path, draw: Draw, pack: Callable[[Path], Path], name: str, uploaded: bool
) -> None:
    folder = leave_one_split(draw(tmp_path / "discs"), name)
    found = of_archive(pack(folder), tmp_path / "out") if uploaded else of_folder(folder)
    assert found.state is ResourceState.READY
    assert found.reason.startswith("coco, 2 classes, 3 pictures to learn from and none to judge on")
    assert "data.val_share" in found.reason
    assert found.report is not None
    assert (found.report["usable"], found.report["train"]["images"], found.report["val"]) == (True, 3, None)
    (told,) = [each for each in found.report["warnings"] if each["loc"] == ["data", "val"]]
    assert "there is no val split" in told["message"]
    assert ["data.val_share" in told["hint"], "evaluate" in told["hint"]] == [True, True]


def test_one_split_that_cannot_be_read_is_refused(tmp_path: Path, draw: Draw) -> None:
    folder = leave_one_split(draw(tmp_path / "discs"), "instances_default.json")
    (folder / "images" / "train1.png").unlink()
    assert "missing in" in of_folder(folder).reason


def test_a_val_split_that_cannot_be_read_is_refused_although_there_is_train(
    tmp_path: Path, draw: Draw
) -> None:
    (draw(tmp_path / "discs") / "annotations" / "instances_val.json").write_text("{}")
    assert of_folder(tmp_path / "discs").state is ResourceState.REFUSED


def test_a_yolo_data_set_without_its_train_split_is_unfinished(tmp_path: Path) -> None:
    (tmp_path / "yolo" / "images" / "val").mkdir(parents=True)
    (tmp_path / "yolo" / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [disc]\n")
    found = of_folder(tmp_path / "yolo")
    assert (found.state, "'images/train' for train" in found.reason) == (ResourceState.REFUSED, True)


def test_a_folder_without_a_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "is no data set" in of_folder(tmp_path / "empty").reason


def test_a_link_out_of_the_roots_is_refused(tmp_path: Path, draw: Draw) -> None:
    secret = draw(tmp_path / "secret")
    root = draw(tmp_path / "root" / "discs")
    os.rename(root / "images", tmp_path / "elsewhere")
    (root / "images").symlink_to(secret / "images")
    assert "leads out of the data roots by a link" in of_folder(root, tmp_path / "root").reason


def test_an_archive_is_unpacked_and_looked_into(
    tmp_path: Path, draw: Draw, pack: Callable[[Path], Path]
) -> None:
    found = of_archive(pack(draw(tmp_path / "discs")), tmp_path / "out")
    assert found.state is ResourceState.READY
    assert found.report is not None
    assert found.report["resolved"]["train"]["images"] == "discs/images"  # not its path on this machine
    assert str(tmp_path) not in json.dumps(found.report)


def test_a_bad_archive_is_refused_by_the_name_of_its_member(
    tmp_path: Path, draw: Draw, pack: Callable[[Path], Path]
) -> None:
    folder = draw(tmp_path / "discs")
    (folder / "link").symlink_to("/etc/passwd")
    found = of_archive(pack(folder), tmp_path / "out")
    assert (found.state, "'discs/link' is a symbolic link" in found.reason) == (ResourceState.REFUSED, True)


def test_what_is_wrong_in_an_archive_names_no_place_of_this_machine(
    tmp_path: Path, draw: Draw, pack: Callable[[Path], Path]
) -> None:
    folder = draw(tmp_path / "discs")
    (folder / "images" / "val1.png").write_bytes(b"no picture")
    found = of_archive(pack(folder), tmp_path / "out")
    assert found.state is ResourceState.REFUSED
    assert "discs/images/val1.png: not a picture" in found.reason
    assert str(tmp_path) not in found.model_dump_json()


def test_a_data_yaml_in_an_archive_cannot_lead_out_of_it(
    tmp_path: Path, draw: Draw, pack: Callable[[Path], Path]
) -> None:
    pictures = draw(tmp_path / "secret") / "images"
    folder = tmp_path / "yolo"
    folder.mkdir()
    (folder / "data.yaml").write_text(f"train: {pictures}\nval: {pictures}\nnames: [disc]\n")
    assert "leads out of the data roots" in of_archive(pack(folder), tmp_path / "out").reason


def test_a_picture_that_is_a_bomb_is_refused(tmp_path: Path, draw: Draw) -> None:
    folder = draw(tmp_path / "discs")
    picture = folder / "images" / "train1.png"
    raw = bytearray(picture.read_bytes())
    raw[16:24] = struct.pack(">II", 50_000, 50_000)
    picture.write_bytes(raw)
    assert of_folder(folder).state is ResourceState.REFUSED


def test_a_report_names_a_hundred_items_of_an_oddity_at_most(tmp_path: Path, draw: Draw) -> None:
    file = draw(tmp_path / "discs") / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    far = {"image_id": 1, "category_id": 1, "bbox": [5000, 5000, 9, 9], "area": 81, "iscrowd": 0}
    content["annotations"] += [far | {"id": number} for number in range(1000, 1300)]
    file.write_text(json.dumps(content))
    found = of_folder(tmp_path / "discs")
    assert found.report is not None
    odd = max(found.report["oddities"], key=lambda odd: odd["count"])
    assert (odd["count"], len(odd["items"])) == (300, 100)


def test_a_model_is_ready_with_what_it_holds(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    found = of_model(tmp_path / "model.safetensors")
    assert (found.state, found.reason) == (ResourceState.READY, "safetensors, 1 tensors, 2 parameters")
    assert found.size == (tmp_path / "model.safetensors").stat().st_size
    assert len(found.sha256 or "") == 64


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"hello")
    assert of_model(tmp_path / "model.pth").state is ResourceState.REFUSED
    assert "cannot be read" in of_model(tmp_path / "gone.pth").reason


def test_a_full_disk_is_no_reason_to_refuse(tmp_path: Path, draw: Draw, pack: Callable[[Path], Path]) -> None:
    (tmp_path / "out").mkdir()
    about = {"file": pack(draw(tmp_path / "discs")), "folder": tmp_path / "out", "uploaded": True}
    request = Request(kind=ResourceKind.DATASET, **about, **MUCH, free_bytes=2**62)
    assert verdict(request).state is ResourceState.CHECKING


@pytest.fixture
def pack(tmp_path: Path) -> Callable[[Path], Path]:
    """Return a function that packs a folder as people do."""
    import tarfile

    def packed(folder: Path) -> Path:
        with tarfile.open(tmp_path / "archive.tar.gz", "w:gz") as archive:
            archive.add(folder, folder.name)
        return tmp_path / "archive.tar.gz"

    return packed
