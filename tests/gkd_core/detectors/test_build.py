"""The three families under torchvision's contract, at widths that small students need."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from gkd_core.config import DetectorConfig, TeacherConfig
from gkd_core.detectors.build import anchor_sizes, build_detector, count_parameters, detect, pyramid
from gkd_core.detectors.checkpoint import publish_model
from gkd_core.detectors.model_card import ModelCard
from gkd_core.distill.positives import architecture_of
from gkd_core.distill.teacher import open_model

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


@pytest.mark.parametrize("architecture", [*FAMILIES, "torchvision's fcos"])
def test_the_forward_that_does_not_wait_gives_the_losses_of_torchvisions(architecture: str) -> None:
    if architecture in FAMILIES:
        detector = small(architecture)
    else:
        detector = build_detector(
            DetectorConfig(architecture="fcos", layout="torchvision", backbone="resnet50"), 3, 128
        )
    found = []
    for forward in (detector.train().forward, detector._losses):
        torch.manual_seed(0)  # Faster R-CNN samples at random
        found.append(forward(PICTURES, TARGETS))
    one, two = found
    assert list(one) == list(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert architecture_of(detector) in FAMILIES


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


def test_anchors_shrink_with_the_picture_but_never_under_two_strides() -> None:
    strides = (8, 16, 32, 64, 128)
    assert anchor_sizes(strides, 800) == [32, 64, 128, 256, 512]
    assert anchor_sizes(strides, 400) == [16, 32, 64, 128, 256]
    assert anchor_sizes(strides, 64) == [16, 32, 64, 128, 256]


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


@pytest.mark.parametrize(
    ("architecture", "names_and_shapes"),
    [("retinanet", "fc32626271c33f4f"), ("faster_rcnn", "cae7f087f2b9a85d"), ("fcos", "6bdf852300470d3d")],
)
def test_models_published_today_still_fit(architecture: str, names_and_shapes: str) -> None:
    state = build_detector(DetectorConfig(architecture=architecture), 3, 320).state_dict()
    text = "\n".join(f"{name} {tuple(value.shape)}" for name, value in sorted(state.items()))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == names_and_shapes


# ---- small and odd students ------------------------------------------------------------------------------

LIGHT = {
    "fpn": {"channels": 32, "depthwise": True},
    "head": {"depth": 2, "depthwise": True},
    "backbone_width": 0.5,
}


def train_step(detector: nn.Module, precision: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Return the losses of one step, after which every weight has a finite gradient."""
    detector.to(memory_format=torch.channels_last).train()
    with torch.autocast("cpu", precision, enabled=precision is not torch.float32):
        losses = detector(PICTURES, TARGETS)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    return losses


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "mobilenet_v3_large"])
def test_a_student_of_less_than_a_million_weights_trains(architecture: str, backbone: str) -> None:
    detector = small(architecture, backbone=backbone, **LIGHT)
    assert count_parameters(detector) < 1_000_000
    assert all(torch.isfinite(loss) for loss in train_step(detector).values())


@pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "efficientnet_b0", "timm:convnext_atto"])
@pytest.mark.parametrize("architecture", ["fcos", "faster_rcnn"])
def test_other_backbones_train_in_bfloat16(architecture: str, backbone: str) -> None:
    if backbone.startswith("timm:"):
        pytest.importorskip("timm")
    losses = train_step(small(architecture, backbone=backbone), torch.bfloat16)
    assert all(loss.dtype is torch.float32 and torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_deep_light_pyramid_and_light_heads_train_in_bfloat16(architecture: str) -> None:
    light = {"fpn": {"channels": 16, "depth": 2, "depthwise": True}, "head": {"depth": 2, "depthwise": True}}
    train_step(small(architecture, backbone="mobilenet_v3_small", **light), torch.bfloat16)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_depthwise_towers_are_a_fraction_of_full_ones(architecture: str) -> None:
    full, light = (
        small(architecture, fpn={"channels": 128}, head={"depth": 4, "depthwise": depthwise})
        for depthwise in (False, True)
    )
    towers = "roi_heads.box_head.%d" if architecture == "faster_rcnn" else "head.regression_head.conv"
    parts = [towers % index for index in range(4)] if "%" in towers else [towers]
    sizes = [sum(count_parameters(each.get_submodule(part)) for part in parts) for each in (full, light)]
    assert sizes[1] / sizes[0] < 1 / 7


@pytest.mark.parametrize(
    "fields",
    [
        {"backbone": "mobilenet_v3_small", "frozen_stages": 2, **LIGHT},
        {"backbone": "mobilenet_v3_large", "layout": "torchvision", "norm": "frozen", "fpn": {}, "head": {}},
        {"backbone": "timm:lcnet_035", "norm": "group"},
    ],
    ids=lambda fields: fields["backbone"],
)
def test_a_model_comes_back_from_its_file_as_it_was(tmp_path: Path, fields: dict[str, object]) -> None:
    if str(fields["backbone"]).startswith("timm:"):
        pytest.importorskip("timm")
    model = {"architecture": "faster_rcnn", "fpn": {"channels": 16}, "head": {"depth": 1}, **fields}
    config = DetectorConfig.model_validate(model)
    torch.manual_seed(0)
    detector = build_detector(config, 3, 128)
    publish_model(
        tmp_path / "model.safetensors", detector.state_dict(), ModelCard.of(config, ("a", "b", "c"), 128)
    )
    again, card = open_model(TeacherConfig(weights=str(tmp_path / "model.safetensors")))
    assert card.detector().layout == config.layout
    again.to(memory_format=torch.contiguous_format)  # the order of a sum decides its last bits
    before, after = detect(detector, PICTURES), detect(again, PICTURES)
    assert all(torch.equal(x["scores"], y["scores"]) for x, y in zip(before, after, strict=True))
