"""What both heads say at the same places."""

from typing import Any

import pytest
import torch

from gkd_core.config import DetectorConfig, DistillConfig
from gkd_core.detectors.build import build_detector
from gkd_core.distill.distiller import Distiller
from gkd_core.distill.heads import roi_outputs
from gkd_core.distill.losses import METHODS, LossContext, ResponseLoss

PICTURES = [torch.rand(3, 64, 64), torch.rand(3, 32, 64)]
TARGETS = [
    {"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([1])},
    {"boxes": torch.tensor([[5.0, 5, 40, 30]]), "labels": torch.tensor([2])},
]


def detector(architecture: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    tiny = {"backbone_width": 0.125, "fpn": {"channels": 16}, "head": {"depth": 1}}
    return build_detector(DetectorConfig.model_validate({"architecture": architecture, **tiny}), 2, 64)


def looked(architecture: str, **losses: Any) -> tuple[Distiller, LossContext]:
    columns = torch.tensor([2, 1])
    distiller = Distiller(
        detector(architecture), detector(architecture, 1), DistillConfig(), columns, **losses
    )
    return distiller, distiller.train().look(PICTURES, TARGETS, 1.0)[0]


@pytest.mark.parametrize("architecture", ["retinanet", "fcos"])
def test_boxes_are_those_that_the_detector_detects(architecture: str) -> None:
    distiller, context = looked(architecture)
    teacher: Any = distiller.teacher
    teacher.score_thresh, teacher.nms_thresh = 0.0, 1.0
    found = teacher(PICTURES)[0]["boxes"]
    height, width = context.sizes[0]
    boxes = context.heads.teacher_boxes[0].clamp(min=0)
    boxes = torch.minimum(boxes, torch.tensor([width, height, width, height]))
    assert len(found)
    assert all((boxes - one).abs().sum(1).min() < 1e-3 for one in found)


@pytest.mark.parametrize("architecture", ["retinanet", "fcos"])
def test_scores_are_those_of_the_classes_of_the_data(architecture: str) -> None:
    _, context = looked(architecture)
    heads = context.heads
    assert torch.equal(heads.teacher_scores, heads.teacher_logits[..., [2, 1]])
    assert heads.student_scores.shape == heads.teacher_scores.shape
    assert heads.student_scores.requires_grad
    assert not heads.teacher_scores.is_inference()


def test_places_in_padding_are_invisible_on_every_level() -> None:
    _, context = looked("retinanet")
    visible = context.heads.visible
    assert visible[0].all()
    finest = 8 * 8 * 9
    assert visible[1, :finest].view(8, 8, 9)[:4].all()
    assert not visible[1, :finest].view(8, 8, 9)[4:].any()


def test_the_teachers_class_head_runs_once_for_all_losses() -> None:
    distiller, context = looked("fcos", losses=[METHODS["bckd"](), ResponseLoss(robust=False)])
    calls: list[int] = []
    head = distiller.teacher.head.classification_head
    head.register_forward_hook(lambda *_: calls.append(1))
    for loss in distiller.losses:
        loss(context)
    assert len(calls) == 1


def test_proposals_are_those_of_the_student_for_both() -> None:
    _, context = looked("faster_rcnn")
    rois = context.rois
    assert rois.student_scores.shape == rois.teacher_scores.shape == (len(rois.labels), 3)
    alone = rois.of_pictures(rois.labels)
    assert [len(each) for each in alone] == [len(boxes) for boxes in rois.sampled[0]]
    assert rois.mean_of_pictures(torch.ones(len(rois.labels))).tolist() == [1, 1]


def test_scores_of_proposals_are_those_of_the_classes_of_the_data() -> None:
    distiller, context = looked("faster_rcnn")
    boxes, _ = context.rois.sampled
    with torch.no_grad():
        scores, _ = roi_outputs(distiller.teacher, context.teacher_pyramid, context.sizes, boxes)
    assert torch.equal(context.rois.teacher_scores, scores[:, [0, 2, 1]])
