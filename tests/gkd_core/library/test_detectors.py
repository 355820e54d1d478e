"""Detectors by name: what is built knows its classes, and a mistake is told as the service tells it."""

from pathlib import Path
from typing import Any

import pytest
import torch

import gkd_core as gkd
from gkd_core.config import StudentConfig
from gkd_core.errors import SpecError

TINY: dict[str, Any] = {"backbone_width": 0.125, "fpn": {"channels": 16}, "head": {"depth": 1}}


def problem_of(error: SpecError) -> tuple[str, str, str]:
    (problem,) = error.problems
    return ".".join(map(str, problem.loc)), problem.message, problem.hint


def test_a_config_is_that_of_a_job() -> None:
    assert gkd.detector("retinanet", "resnet34") == StudentConfig(
        architecture="retinanet", backbone="resnet34"
    )


@pytest.mark.parametrize(
    ("options", "field", "meant"),
    [
        ({"architecture": "fcoss"}, "student.architecture", "Did you mean `fcos`?"),
        ({"backbone": "resnet19"}, "student.backbone", "did you mean `resnet18`?"),
        ({"backbone_widht": 0.5}, "student.backbone_widht", "Did you mean `backbone_width`?"),
        ({"fpn": {"chanels": 64}}, "student.fpn.chanels", "Did you mean `channels`?"),
    ],
)
def test_a_misspelt_field_is_named_with_what_was_meant(
    options: dict[str, Any], field: str, meant: str
) -> None:
    with pytest.raises(SpecError) as caught:
        gkd.detector(**options)
    where, message, hint = problem_of(caught.value)
    assert where == field
    assert meant in message + hint


def test_a_fresh_detector_trains_and_knows_its_classes() -> None:
    built = gkd.build_detector("fcos", "resnet18", classes=["cat", "dog"], image_size=64, **TINY)
    targets = [{"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([2])}]
    losses = built([torch.rand(3, 64, 64), torch.rand(3, 64, 64)], targets * 2)
    assert set(losses) == {"classification", "bbox_regression", "bbox_distribution"}
    assert built.classes == ("cat", "dog")
    assert not any("classes" in name for name in built.state_dict())


@pytest.mark.parametrize("classes", [[], ["cat", "cat"], "cat", [1, 2]])
def test_classes_that_are_no_names_are_refused(classes: Any) -> None:
    with pytest.raises(SpecError) as caught:
        gkd.build_detector(classes=classes)
    assert problem_of(caught.value)[0] == "classes"


def test_a_file_of_gkd_says_what_it_is(teacher: Path) -> None:
    loaded = gkd.load_detector(teacher, device="cpu")
    assert loaded.classes == ("circle", "square", "triangle", "cross")
    assert loaded.image_size == 64
    assert loaded.source == str(teacher)
    assert not loaded.training


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nothing\.safetensors"):
        gkd.load_detector(tmp_path / "nothing.safetensors")


def test_a_fresh_detector_may_start_from_parts_of_a_teacher() -> None:
    teacher = gkd.build_detector(classes=["cat", "owl", "dog"], image_size=64, **TINY)
    student = gkd.build_detector(
        classes=["cat", "dog"], image_size=64, teacher=teacher, inherit=["fpn", "head"], **TINY
    )
    given, own = (each.head.classification_head.cls_logits.weight for each in (teacher, student))
    assert torch.equal(own, given[[0, 1, 3]])
    with pytest.raises(SpecError) as caught:
        gkd.build_detector(classes=["cat"], inherit=["fpn"], **TINY)
    assert problem_of(caught.value) == (
        "student.inherit",
        "`inherit` needs a teacher, and there is none",
        "Give teacher=.",
    )
