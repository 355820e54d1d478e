"""`gkd init`: specs that can be carried out, and the choices that they hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from client.cli import app
from client.first_spec import FirstSpecs, first_specs, specs_of
from client.run import resolve_here
from client.spec_file import read
from gkd_core.config import DataConfig
from gkd_core.data.examine import Examination, examine
from gkd_core.data.shapes import draw_shapes
from gkd_core.errors import DataError
from jobs.specs.spec import job_spec
from jobs.specs.spec_errors import read_spec


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "my shapes"
    draw_shapes(folder, train=3, val=1, size=64, seed=1)
    return folder


@pytest.fixture(scope="module")
def examined(shapes: Path) -> Examination:
    return examine(DataConfig(path=str(shapes)), image_size=1280, quick=True)


def init(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["init", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def of(examined: Examination, *, gpus: int = 0, classes: int = 4, **train: Any) -> FirstSpecs:
    """Return the specs of a data set that differs from the examined one."""
    assert examined.train
    assert examined.train.resized
    sides = examined.train.resized.sides
    boxes = tuple(train.pop("boxes", [0] * 9 + [100]))
    split = examined.train.model_copy(
        update={
            "resized": examined.train.resized.model_copy(
                update={"sides": sides.model_copy(update={"boxes": boxes})}
            ),
            "boxes": sum(boxes),
            "images": train.pop("images", 1000),
            "pictures": examined.train.pictures.model_copy(
                update={"median": train.pop("median", (1920, 1080))}
            ),
        }
    )
    names = tuple(f"class {number}" for number in range(classes))
    found = examined.model_copy(update={"train": split, "classes": names})
    specs = specs_of(found, Path("/data/cells"), gpus)
    for spec in specs[:2]:
        job_spec.validate_python(spec)
    return specs


@pytest.mark.parametrize("name", ["spec.json", "cells.yaml"])
def test_both_specs_are_what_the_service_accepts(shapes: Path, tmp_path: Path, name: str):
    target = tmp_path / name
    init(shapes, "-o", target)
    teacher, student = read(target.with_stem(f"{target.stem}-teacher")), read(target)
    resolved = resolve_here(read_spec(teacher))
    assert (resolved.config.train.image_size, resolved.config.train.batch_size) == (64, 3)
    assert read_spec(student).kind == "distill"
    assert student["teacher"]["weights"] == f"job:{teacher['name']}" == "job:my-shapes-teacher"
    assert (student["data"], student["train"]) == (teacher["data"], teacher["train"])


def test_every_choice_has_a_reason_and_the_last_lines_are_the_next_commands(shapes: Path, tmp_path: Path):
    lines = init(shapes, "-o", tmp_path / "spec.yaml").stdout.splitlines()
    assert lines[-2:] == [f"  gkd submit {tmp_path}/spec-teacher.yaml", f"  gkd submit {tmp_path}/spec.yaml"]
    reasons = first_specs(shapes).reasons
    assert set(reasons) == {"image_size", "teacher", "student", "epochs"}
    comments = (tmp_path / "spec.yaml").read_text()
    for choice, reason in reasons.items():
        assert f"{choice}: {reason}" in lines
        assert f"# {choice}: {reason}\n" in comments


def test_programs_get_the_specs_and_the_reasons(shapes: Path, tmp_path: Path):
    found = json.loads(init(shapes, "-o", tmp_path / "spec.json", "--json").stdout)
    assert [json.loads(Path(file).read_bytes()) for file in found["files"]] == [
        found["teacher"],
        found["student"],
    ]
    assert found["reasons"] == first_specs(shapes).reasons


@pytest.mark.parametrize("there", ["spec.json", "spec-teacher.json"])
def test_nothing_is_overwritten(shapes: Path, tmp_path: Path, there: str):
    (tmp_path / there).write_text("mine")
    told = init(shapes, "-o", tmp_path / "spec.json", code=1).stderr
    assert f"{tmp_path / there} is there, and nothing is overwritten" in told
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "mine")]


def test_a_format_without_a_writer_is_refused(shapes: Path, tmp_path: Path):
    assert "neither .json nor" in init(shapes, "-o", tmp_path / "spec.toml", code=2).stderr


def test_a_folder_without_a_data_set_writes_nothing(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    init(tmp_path / "empty", "-o", tmp_path / "spec.json", code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_data_without_a_val_split_set_a_share_aside(shapes: Path, tmp_path: Path):
    folder = tmp_path / "one split"
    draw_shapes(folder, train=3, val=1, size=64, seed=1)
    (folder / "annotations" / "instances_val.json").unlink()
    specs = first_specs(folder)
    assert specs.teacher["data"] == {"path": str(folder), "val_share": 0.2}
    assert "20%" in specs.reasons["val_share"]
    assert resolve_here(read_spec(specs.teacher)).report.val.images == 1


def test_data_without_a_train_split_are_refused(examined: Examination):
    with pytest.raises(DataError, match="no train split"):
        specs_of(examined.model_copy(update={"train": None}), Path("/data"), 0)


@pytest.mark.parametrize(
    ("small", "expected", "told"),
    [
        ({}, 320, "100 % of the objects"),
        ({"boxes": [0, 0, 9, 0, 91, *[0] * 5]}, 320, "91 %"),  # under 32 at 1280 is under 8 at 320
        ({"boxes": [0, 0, 11, 0, 89, *[0] * 5]}, 640, "100 %"),
        ({"boxes": [0, 11, 0, 0, 89, *[0] * 5]}, 1280, "100 %"),
        ({"boxes": [50, 0, 0, 0, 50, *[0] * 5]}, 1280, "50 % .* cut the pictures"),
        ({"median": (210, 100)}, 224, "no more pixels"),
        ({"boxes": [50, 0, 0, 0, 50, *[0] * 5], "median": (100, 700)}, 704, "no more pixels"),
        ({"median": (20, 10)}, 64, "no more pixels"),
    ],
)
def test_the_image_size_leaves_most_objects_a_cell(examined, small: dict[str, Any], expected: int, told: str):
    specs = of(examined, **small)
    assert specs.student["train"]["image_size"] == expected
    assert re.search(told, specs.reasons["image_size"])


def test_few_pictures_are_seen_more_often_in_smaller_batches(examined: Examination):
    recipes = {images: of(examined, images=images).teacher["train"] for images in (1, 205, 1000, 118_287)}
    assert {images: (each["epochs"], each["batch_size"]) for images, each in recipes.items()} == {
        1: (60, 1),
        205: (30, 4),
        1000: (24, 8),
        118_287: (12, 8),
    }


def test_a_gpu_gets_a_larger_teacher_and_many_classes_a_larger_student(examined: Examination):
    cpu, gpu = of(examined), of(examined, gpus=2)
    assert (cpu.teacher["model"]["backbone"], gpu.teacher["model"]["backbone"]) == ("resnet34", "resnet50")
    assert gpu.student["resources"] == {"gpus": 2}
    assert "resources" not in cpu.student
    few, many = (of(examined, classes=count).student["student"] for count in (20, 21))
    assert (few["backbone_width"], many["backbone_width"]) == (0.5, 1.0)
