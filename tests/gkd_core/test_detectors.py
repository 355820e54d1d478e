"""The three families under torchvision's contract, at widths that small students need."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from gkd_core.config import DetectorConfig
from gkd_core.detectors import (
    anchor_sizes,
    build_detector,
    build_resnet,
    count_parameters,
    detect,
    group_norm,
    pyramid,
)

FAMILIES = ("retinanet", "faster_rcnn", "fcos")
PICTURES = [torch.rand(3, 96, 128), torch.rand(3, 128, 70)]
TARGETS = [
    {"boxes": torch.tensor([[10.0, 10, 60, 70], [50, 50, 100, 90]]), "labels": torch.tensor([1, 3])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def small(architecture: str, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    config = {"architecture": architecture, "fpn": {"channels": 16}, "head": {"depth": 1}, **changes}
    return build_detector(DetectorConfig.model_validate(config), num_classes=3, image_size=128)


@pytest.mark.parametrize("norm", ["batch", "group", "frozen"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_loss_is_finite_and_reaches_the_backbone(architecture: str, norm: str) -> None:
    detector = small(architecture, norm=norm).train()
    losses = detector(PICTURES, TARGETS)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert detector.backbone.body.conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_batch_without_any_object_trains(architecture: str) -> None:
    losses = small(architecture).train()(PICTURES, [TARGETS[1], TARGETS[1]])
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("architecture", FAMILIES)
def test_boxes_come_back_inside_the_picture_they_were_found_in(architecture: str) -> None:
    found = detect(small(architecture), PICTURES)
    for output, picture in zip(found, PICTURES, strict=True):
        height, width = picture.shape[-2:]
        assert output["boxes"].shape == (len(output["labels"]), 4)
        assert (output["boxes"] >= 0).all()
        assert (output["boxes"][:, 2] <= width).all()
        assert (output["boxes"][:, 3] <= height).all()


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_pyramid_has_the_strides_that_it_says(architecture: str) -> None:
    detector = small(architecture).eval()
    maps, sizes = pyramid(detector, [torch.rand(3, 128, 128)])
    assert sizes == [(128, 128)]
    assert [128 // level.shape[-1] for level in maps] == list(detector.strides)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_depth_and_width_of_heads_are_free(architecture: str) -> None:
    sizes = [
        count_parameters(small(architecture, head={"depth": depth, "width": width}))
        for depth, width in ((1, 16), (3, 16), (3, 40))
    ]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize(
    ("backbone", "channels"), [("resnet34", 512), ("resnet50", 2048), ("resnet101", 2048)]
)
def test_deeper_backbones_feed_the_pyramid(backbone: str, channels: int) -> None:
    detector = small("fcos", backbone=backbone)
    assert detector.backbone.fpn.inner_blocks[-1][0].in_channels == channels


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_copy_does_not_share_its_memory_of_assignments(architecture: str) -> None:
    detector = small(architecture).train()
    twin = copy.deepcopy(detector)
    twin(PICTURES, TARGETS)
    part = "roi_heads" if architecture == "faster_rcnn" else "head"
    remembered = "sampled" if architecture == "faster_rcnn" else "matched"
    assert hasattr(getattr(twin, part), remembered)
    assert not hasattr(getattr(detector, part), remembered)


def test_anchors_shrink_with_the_picture_but_never_under_two_strides() -> None:
    strides = (8, 16, 32, 64, 128)
    assert anchor_sizes(strides, 800) == [32, 64, 128, 256, 512]
    assert anchor_sizes(strides, 400) == [16, 32, 64, 128, 256]
    assert anchor_sizes(strides, 64) == [16, 32, 64, 128, 256]


@pytest.mark.parametrize("channels", range(8, 520, 8))
def test_group_norm_fits_any_multiple_of_eight(channels: int) -> None:
    norm = group_norm(channels)
    assert channels % norm.num_groups == 0
    assert channels // norm.num_groups >= 4


def test_an_untrained_fcos_has_boxes_that_a_gradient_can_move() -> None:
    detector = small("fcos").train()
    boxes = []
    detector.head.regression_head.bbox_reg.register_forward_hook(lambda *call: boxes.append(call[-1]))
    detector(PICTURES, TARGETS)
    assert all((distances > 0).float().mean() > 0.99 for distances in boxes)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_a_narrow_backbone_has_about_the_square_of_its_width_in_weights(backbone: str) -> None:
    sizes = [
        count_parameters(small("fcos", backbone=backbone, backbone_width=width).backbone.body)
        for width in (1, 0.5)
    ]
    assert sizes[1] / sizes[0] == pytest.approx(0.25, abs=0.01)


def test_a_narrow_detector_trains() -> None:
    losses = small("faster_rcnn", backbone_width=0.25).train()(PICTURES, TARGETS)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_width_one_is_the_backbone_that_torchvision_builds() -> None:
    torch.manual_seed(0)
    ours = build_resnet("resnet18", 1.0, nn.BatchNorm2d).state_dict()
    torch.manual_seed(0)
    theirs = resnet18(weights=None).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_the_strides_of_faster_rcnn_are_not_guessed_from_the_first_batch() -> None:
    detector = small("faster_rcnn").train()
    detector([torch.rand(3, 20, 64)], [TARGETS[1]])
    assert detector.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
