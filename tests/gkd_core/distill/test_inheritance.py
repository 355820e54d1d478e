"""What a student takes over from its teacher: blocks that agree, rows of its own classes, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import gkd_core as gkd
from gkd_core.config import DetectorConfig, StudentConfig, inheritance_problems
from gkd_core.detectors.detector import Detector
from gkd_core.distill.inheritance import inherit
from gkd_core.errors import SpecError

SMALL: dict[str, Any] = {"fpn": {"channels": 16}, "head": {"depth": 1, "width": 8}}
CLASSES = ("cat", "dog", "owl")
ALL = torch.tensor([1, 2, 3])


def built(seed: int, classes: tuple[str, ...] = CLASSES, **options: Any) -> Detector:
    """Return a detector in which every tensor, statistics included, has its seed's own values."""
    options = {"architecture": "fcos", "backbone_width": 0.125, **SMALL, **options}
    detector = gkd.build_detector(classes=classes, image_size=64, **options)
    draw = torch.Generator().manual_seed(seed)
    for tensor in detector.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=draw))
    return detector


def taken(student: Detector, teacher: Detector) -> dict[str, bool]:
    """Return for each of the student's tensors whether it is the teacher's."""
    given = teacher.state_dict()
    return {
        name: name in given and torch.equal(tensor, given[name])
        for name, tensor in student.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def snapshot(detector: Detector) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in detector.state_dict().items()}


@pytest.mark.parametrize("architecture", ["fcos", "retinanet", "faster_rcnn"])
def test_detectors_alike_but_for_the_body_share_all_of_neck_and_head(architecture: str) -> None:
    student, teacher = (built(seed, architecture=architecture) for seed in (0, 1))
    before = snapshot(teacher)
    remarks = inherit(student, teacher, ["fpn", "head"], ALL)
    assert remarks == ["the whole fpn starts from the teacher's", "the whole head starts from the teacher's"]
    assert {name for name, same in taken(student, teacher).items() if not same} == {
        name for name in taken(student, teacher) if name.startswith("backbone.body.")
    }
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_a_block_is_taken_as_a_whole_or_not_at_all() -> None:
    student, teacher = built(0), built(1, backbone_width=0.25)
    [remark] = inherit(student, teacher, ["fpn"], ALL)
    assert "inner_blocks.0, inner_blocks.1, inner_blocks.2 have other shapes" in remark
    same = taken(student, teacher)
    assert not any(found for name, found in same.items() if "inner_blocks" in name)  # its norms neither
    assert all(found for name, found in same.items() if "layer_blocks" in name or "extra_blocks" in name)
    assert not any(found for name, found in same.items() if not name.startswith("backbone.fpn."))


def test_a_retinanet_inherits_the_pyramid_of_an_fcos() -> None:
    student, teacher = built(0, architecture="retinanet"), built(1)
    assert inherit(student, teacher, ["fpn"], ALL) == ["the whole fpn starts from the teacher's"]


@pytest.mark.parametrize("architecture", ["fcos", "retinanet", "faster_rcnn"])
def test_class_rows_are_found_by_name_and_scores_stay_those_of_the_teacher(architecture: str) -> None:
    student = built(0, ("owl", "cat"), architecture=architecture)
    teacher = built(1, architecture=architecture)
    inherit(student, teacher, ["head"], torch.tensor([3, 1]))
    chosen = [0, 3, 1]
    if architecture == "faster_rcnn":
        rows = torch.rand(2, teacher.roi_heads.box_predictor.cls_score.in_features)
        scores, boxes = student.roi_heads.box_predictor(rows)
        all_scores, all_boxes = teacher.roi_heads.box_predictor(rows)
        assert torch.equal(boxes.unflatten(1, (-1, 4)), all_boxes.unflatten(1, (-1, 4))[:, chosen])
    else:
        maps = [torch.rand(1, 16, 4, 4)]
        scores, all_scores = (each.head.classification_head(maps) for each in (student, teacher))
    assert torch.allclose(scores, all_scores[..., chosen])


@pytest.mark.parametrize(
    ("part", "student", "teacher", "why"),
    [
        ("head", {}, {"architecture": "retinanet"}, "fcos"),
        ("head", {}, {"head": {"depth": 2, "width": 8}}, "depth"),
        ("head", {}, {"head": {"depth": 1, "width": 16}}, "width"),
        ("fpn", {}, {"architecture": "faster_rcnn"}, "strides"),
        ("fpn", {}, {"fpn": {"channels": 24}}, "channels"),
    ],
)
def test_where_nothing_fits_config_and_tensors_say_so(
    part: Any, student: dict[str, Any], teacher: dict[str, Any], why: str
) -> None:
    one, two = built(0, **student), built(1, **teacher)
    before = snapshot(one)
    with pytest.raises(SpecError) as caught:
        inherit(one, two, [part], ALL)
    assert all(torch.equal(before[name], tensor) for name, tensor in one.state_dict().items())
    [found] = caught.value.problems
    small = {"architecture": "fcos", **SMALL}
    [early] = inheritance_problems(
        StudentConfig.model_validate({**small, **student, "inherit": [part]}),
        DetectorConfig.model_validate({**small, **teacher}),
    )
    assert why in early.message
    assert found.loc == early.loc == ("student", "inherit")
    assert found.hint == early.hint


def test_what_may_fit_is_left_to_the_tensors() -> None:
    student = StudentConfig.model_validate({**SMALL, "inherit": ["fpn", "head"]})
    larger = DetectorConfig.model_validate({**SMALL, "backbone": "resnet101", "norm": "group"})
    assert inheritance_problems(student, larger) == []
    assert inheritance_problems(student.model_copy(update={"inherit": ()}), DetectorConfig()) == []
