"""Torchvision's own detectors are reproduced: every tensor, and every box."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import FrozenBatchNorm2d

from gkd_core.config import TORCHVISION_LAYOUTS, DetectorConfig
from gkd_core.detectors.build import build_detector, pyramid
from gkd_core.detectors.norms import exchange_norms

BUILDERS: dict[tuple[str, str, str], Any] = {
    ("torchvision", "retinanet", "resnet50"): detection.retinanet_resnet50_fpn,
    ("torchvision", "fcos", "resnet50"): detection.fcos_resnet50_fpn,
    ("torchvision", "faster_rcnn", "resnet50"): detection.fasterrcnn_resnet50_fpn,
    ("torchvision", "faster_rcnn", "mobilenet_v3_large"): detection.fasterrcnn_mobilenet_v3_large_fpn,
    ("torchvision_v2", "retinanet", "resnet50"): detection.retinanet_resnet50_fpn_v2,
    ("torchvision_v2", "faster_rcnn", "resnet50"): detection.fasterrcnn_resnet50_fpn_v2,
}
Which = tuple[str, str, str]
PICTURE = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0))
TARGETS = [{"boxes": torch.tensor([[10.0, 10, 50, 60], [30, 20, 60, 40]]), "labels": torch.tensor([1, 3])}]


def ours(which: Which, **fields: object) -> nn.Module:
    torch.manual_seed(0)
    layout, architecture, backbone = which
    config = {"layout": layout, "architecture": architecture, "backbone": backbone, **fields}
    return build_detector(DetectorConfig.model_validate(config), num_classes=3, image_size=128)


@pytest.fixture(scope="module", params=BUILDERS, ids="-".join)
def which(request: pytest.FixtureRequest) -> Which:
    """Return layout, architecture and backbone; one at a time is in memory."""
    return request.param


@pytest.fixture(scope="module")
def built(which: Which) -> nn.Module:
    """Return torchvision's detector for pictures of 96 x 128, with statistics and scores that vary by place."""
    torch.manual_seed(1)
    weights = {"weights": None, "weights_backbone": None, "num_classes": 4}
    detector: nn.Module = BUILDERS[which](**weights, min_size=96, max_size=128)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.uniform_(-0.1, 0.1)
    for name in ("head.classification_head.cls_logits", "roi_heads.box_predictor.cls_score"):
        if hasattr(detector, name.split(".")[0]):
            nn.init.normal_(detector.get_submodule(name).weight, std=0.1)
            nn.init.zeros_(detector.get_submodule(name).bias)
    return detector.eval()


@pytest.fixture(scope="module")
def mine(which: Which, built: nn.Module) -> nn.Module:
    """Return our detector with torchvision's weights."""
    detector = ours(which).eval()
    detector.load_state_dict(built.state_dict())
    return detector


def require_same_boxes(mine: nn.Module, other: nn.Module) -> None:
    with torch.no_grad():
        (found,), (expected,) = mine([PICTURE.clone()]), other([PICTURE.clone()])
    assert len(expected["boxes"]) > 10
    assert torch.equal(found["labels"], expected["labels"])
    assert torch.allclose(found["scores"], expected["scores"], atol=1e-5)
    assert torch.allclose(found["boxes"], expected["boxes"], atol=1e-3)


def test_every_layout_of_the_config_is_known_here() -> None:
    known = {(layout, *pair) for layout, pairs in TORCHVISION_LAYOUTS.items() for pair in pairs}
    assert known == set(BUILDERS)


def test_names_and_shapes_are_those_of_torchvisions_builder(mine: nn.Module, built: nn.Module) -> None:
    shapes = [
        [(name, value.shape) for name, value in detector.state_dict().items()] for detector in (mine, built)
    ]
    assert shapes[0] == shapes[1]


def test_the_same_weights_find_the_same_boxes(mine: nn.Module, built: nn.Module) -> None:
    require_same_boxes(mine, built)


def test_frozen_norms_are_those_that_torchvision_gives_its_published_weights(
    which: Which, built: nn.Module
) -> None:
    frozen, expected = ours(which, norm="frozen").eval(), copy.deepcopy(built)
    frozen.load_state_dict(built.state_dict())  # frozen norms drop the count of batches themselves
    exchange_norms(expected.backbone, "frozen")
    require_same_boxes(frozen, expected)
    assert {module.eps for module in frozen.modules() if isinstance(module, FrozenBatchNorm2d)} == {1e-5}


def test_the_strides_are_what_the_maps_have(mine: nn.Module) -> None:
    with torch.no_grad():
        maps, _ = pyramid(mine, [torch.rand(3, 128, 128)])
    assert tuple(128 // level.shape[-1] for level in maps) == mine.strides


def test_the_pyramid_leaves_in_float32_whatever_it_is_computed_in(mine: nn.Module) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps, _ = pyramid(mine, [PICTURE])
    assert {level.dtype for level in maps} == {torch.float32}


def test_it_trains_in_bfloat16_remembers_and_keeps_its_first_stages(which: Which) -> None:
    detector = ours(which, frozen_stages=2).train()
    still = tuple(f"backbone.body.{name}." for name in detector.backbone.frozen)
    before = {name: value.clone() for name, value in detector.state_dict().items() if name.startswith(still)}
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector([PICTURE[:, :64, :64]], TARGETS)
    assert all(loss.dtype is torch.float32 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all((p.grad is None) == n.startswith(still) for n, p in detector.named_parameters())
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in detector.parameters())
    assert all(torch.equal(before[name], detector.state_dict()[name]) for name in before)
    assert remembered(detector)


def test_group_norm_is_not_torchvisions() -> None:
    with pytest.raises(ValidationError, match="torchvision has no group norm"):
        ours(("torchvision", "fcos", "resnet50"), norm="group")


def remembered(detector: Any) -> bool:
    if isinstance(detector, GeneralizedRCNN):
        return len(detector.roi_heads.sampled) == 3
    return len(detector.head.matched) == 1
