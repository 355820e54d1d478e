"""Task-aligned FCOS: what its losses are zero for, what its boxes mean, and how detections are chosen."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_core.config import DetectorConfig
from gkd_core.detectors.build import build_detector
from gkd_core.detectors.fcos import BINS, FCOS, decode, distances, distribution_focal_loss, quality_focal_loss

POINTS = torch.tensor([[40.0, 40.0], [64.0, 48.0]])
STRIDES = torch.tensor([8.0, 16.0])
BOXES = torch.tensor([[20.3, 30.7, 70.1, 41.9], [0.0, 40.6, 100.7, 160.2]])


def exactly(wanted: Tensor) -> Tensor:
    """Return logits (M, 4 x bins) of distributions on the two bins next to each distance (M, 4)."""
    lower = wanted.long()
    share = F.one_hot(lower, BINS) * (1 - wanted + lower)[..., None]
    share = share + F.one_hot(lower + 1, BINS) * (wanted - lower)[..., None]
    return share.clamp(min=1e-30).log().flatten(1)


def small() -> FCOS:
    torch.manual_seed(0)
    config = DetectorConfig.model_validate(
        {"fpn": {"channels": 16}, "head": {"depth": 1}, "backbone_width": 0.25}
    )
    detector: FCOS = build_detector(config, num_classes=3, image_size=128)
    return detector


def test_a_box_that_is_written_as_distances_is_read_as_the_same_box() -> None:
    sides = exactly(distances(BOXES, POINTS, STRIDES))
    assert torch.allclose(decode(sides, POINTS, STRIDES), BOXES, atol=1e-3)


def test_boxes_are_not_rounded_under_autocast() -> None:
    sides = exactly(distances(BOXES, POINTS, STRIDES))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(decode(sides, POINTS, STRIDES), BOXES, atol=1e-3)


def test_the_quality_loss_is_zero_for_the_wanted_score_alone() -> None:
    wanted = torch.tensor([0.0, 0.3, 0.7, 1.0])
    assert quality_focal_loss(wanted.logit(eps=1e-6), wanted).sum() == pytest.approx(0, abs=1e-5)
    assert (quality_focal_loss(torch.full((4,), -0.2), wanted) > 0).all()


def test_the_quality_loss_of_yes_and_no_is_focal_loss_without_alpha() -> None:
    logits, wanted = torch.linspace(-3, 3, 7), torch.tensor([0.0, 1, 0, 1, 1, 0, 1])
    error = (logits.sigmoid() - wanted).abs()
    assert torch.allclose(quality_focal_loss(logits, wanted), -(error**2) * (1 - error).log(), atol=1e-6)


def test_the_distribution_loss_is_least_where_the_mean_is_the_distance() -> None:
    wanted = torch.tensor([[0.0, 2.25, 7.5, 14.0]])
    least = distribution_focal_loss(exactly(wanted), wanted)
    entropy = (
        -(0.25 * torch.tensor(0.25).log() + 0.75 * torch.tensor(0.75).log() + torch.tensor(0.5).log()) / 4
    )
    assert least.item() == pytest.approx(entropy.item(), abs=1e-3)
    assert least < distribution_focal_loss(exactly(wanted + 0.2), wanted)


def test_a_distance_beyond_the_bins_asks_for_the_last_one() -> None:
    last = F.one_hot(torch.full((1, 4), BINS - 1), BINS).float().mul(100).flatten(1)
    assert distribution_focal_loss(last, torch.full((1, 4), 40.0)).item() == pytest.approx(0, abs=0.2)
    assert torch.isfinite(distribution_focal_loss(last, torch.full((1, 4), -3.0)))


def test_an_untrained_box_is_a_few_strides_wide() -> None:
    detector = small().eval()
    outputs = detector.head([torch.zeros(1, 16, 4, 4)])
    sides = decode(outputs["bbox_regression"], torch.zeros(16, 2), torch.ones(16))
    assert ((sides.abs() > 1) & (sides.abs() < 4)).all()


def test_background_is_never_found_and_the_best_comes_first() -> None:
    scores = torch.tensor([[0.99, 0.2, 0.6, 0.1], [0.99, 0.0, 0.0, 0.7]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 50, 200]])
    found = small()._detections(scores, boxes, (100, 100))
    assert found["labels"].tolist() == [3, 2, 1, 3]
    assert found["scores"].tolist() == pytest.approx([0.7, 0.6, 0.2, 0.1])
    assert found["boxes"][0].tolist() == [20, 20, 50, 100]


def test_of_two_boxes_of_a_class_on_the_same_object_one_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    scores = torch.tensor([[0, 0.5, 0, 0], [0, 0.8, 0, 0.3]])
    found = small()._detections(scores, boxes, (100, 100))
    assert found["labels"].tolist() == [1, 3]
    assert found["scores"].tolist() == pytest.approx([0.8, 0.3])


def test_a_few_steps_on_two_pictures_find_their_object() -> None:
    torch.manual_seed(0)
    detector = small().train()
    picture = torch.full((3, 64, 64), 0.4)
    picture[0, 16:40, 12:48] = 1.0
    pictures = [picture, picture.flip(2)]
    boxes = torch.tensor([[12.0, 16, 48, 40], [16.0, 16, 52, 40]])
    targets = [{"boxes": box[None], "labels": torch.tensor([2])} for box in boxes]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        torch.stack(list(detector(pictures, targets).values())).sum().backward()
        optimizer.step()
    for found, box in zip(detector.eval()(pictures), boxes, strict=True):
        assert found["labels"][0] == 2
        assert (found["boxes"][0] - box).abs().max() < 4
