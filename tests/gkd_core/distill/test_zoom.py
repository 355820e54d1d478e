"""A teacher that sees larger pictures: its maps lie on the student's cells, without being resized."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import gkd_core as gkd
from gkd_core.config import DistillConfig
from gkd_core.detectors.adapt import padded_to
from gkd_core.detectors.build import pyramid
from gkd_core.detectors.detector import Detector
from gkd_core.distill.distiller import Distiller
from gkd_core.errors import SpecError

TINY: dict[str, Any] = {"backbone_width": 0.125, "fpn": {"channels": 16}, "head": {"depth": 1}}
TARGETS = [{"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}] * 2
FEATURES = DistillConfig.model_validate(
    {"global": {"weight": 0}, "local": {"weight": 0}, "losses": [{"name": "mse"}]}
)


def built(architecture: str = "fcos") -> Detector:
    return gkd.build_detector(architecture, classes=["cat", "dog"], image_size=64, **TINY)


def pictures(zoom: int) -> list[Tensor]:
    """Return two pictures of odd sides, `zoom` times as large."""
    return [torch.rand(3, zoom * height, zoom * width) for height, width in ((49, 97), (70, 33))]


@pytest.mark.parametrize("zoom", [2, 4])
@pytest.mark.parametrize(
    ("student", "teacher"), [("fcos", "fcos"), ("faster_rcnn", "fcos"), ("fcos", "faster_rcnn")]
)
def test_maps_agree_cell_by_cell_also_where_padding_differs(student: str, teacher: str, zoom: int) -> None:
    distiller = Distiller(built(student), built(teacher), FEATURES, zoom=zoom)
    with padded_to(100, 130, distiller.student, distiller.teacher):  # what another process has
        context, _ = distiller.look(pictures(1), TARGETS, 1.0, pictures(zoom))
    shapes = [tuple(level.shape[2:]) for level in context.student_maps]
    assert shapes == [tuple(level.shape[2:]) for level in context.teacher_maps]
    assert shapes == [(math.ceil(128 / stride), math.ceil(160 / stride)) for stride in distiller.strides]
    assert [distiller.teacher.strides[level] for level in distiller.teacher_levels] == [
        zoom * stride for stride in distiller.strides
    ]


def test_the_teacher_runs_on_the_zoomed_pictures_and_the_student_on_its_own() -> None:
    distiller = Distiller(built(), built(), FEATURES, zoom=2)
    small = [torch.rand(3, 64, 96)] * 2
    large = [torch.rand(3, 128, 192)] * 2
    context, _ = distiller.look(small, TARGETS, 1.0, large)
    with torch.inference_mode():
        wanted, _ = pyramid(distiller.teacher, large)
    assert all(torch.equal(one, two) for one, two in zip(context.teacher_maps, wanted[1:], strict=True))
    losses = distiller(small, TARGETS, 1.0, large)
    losses["distill_mse"].backward()
    assert all(p.grad is not None for p in distiller.student.backbone.fpn.layer_blocks.parameters())
    assert all(p.grad is None for p in distiller.teacher.parameters())


@pytest.mark.parametrize("zoomed", [None, [torch.rand(3, 64, 64)] * 2])
def test_pictures_that_are_not_zoomed_are_refused(zoomed: list[Tensor] | None) -> None:
    with pytest.raises(ValueError, match="2 times as large"):
        Distiller(built(), built(), FEATURES, zoom=2)([torch.rand(3, 64, 64)] * 2, TARGETS, 1.0, zoomed)


def test_scores_of_other_places_are_not_compared() -> None:
    assert "response" in Distiller(built(), built(), zoom=2).remarks[0]
    assert Distiller(built(), built()).remarks == []
    with pytest.raises(SpecError, match="2 times as large"):
        Distiller(built(), built(), DistillConfig.model_validate({"response": {"weight": 1}}), zoom=2)
