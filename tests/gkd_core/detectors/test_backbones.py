"""Backbones of every family: cut at the requested strides, with the names of published weights."""

from __future__ import annotations

import copy
import sys
from itertools import pairwise

import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import nn
from torchvision.models import efficientnet_b2, resnet18

from gkd_core.config import DetectorConfig
from gkd_core.detectors.backbones import build_body, build_classifier, first_stages, measure, published_name
from gkd_core.errors import SpecError

FAMILIES = [
    "resnet18",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "timm:convnext_atto",  # layer norms, a stem of stride 4
    "timm:lcnet_035",  # norms that carry their activation, stages called blocks
    "timm:mambaout_femto",  # maps with the channels last
]
STRIDES = (4, 8, 16, 32)


def needs_timm(name: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")


def body(name: str, width: float = 1.0, norm: str = "batch", strides: tuple[int, ...] = STRIDES) -> nn.Module:
    needs_timm(name)
    torch.manual_seed(0)
    return build_body(name, width, norm, strides).network


@pytest.mark.parametrize("name", [*FAMILIES, "resnext50_32x4d", "mobilenet_v3_large", "efficientnet_v2_s"])
@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (8, 16, 32)])
def test_maps_have_the_strides_that_were_asked_for(name: str, strides: tuple[int, ...]) -> None:
    needs_timm(name)
    network, channels = build_body(name, 1.0, "batch", strides)
    with torch.no_grad():
        maps = network.eval()(torch.rand(2, 3, 64, 128))
    assert list(maps) == [str(level) for level in range(len(strides))]
    assert [tuple(level.shape) for level in maps.values()] == [
        (2, width, 64 // stride, 128 // stride) for width, stride in zip(channels, strides, strict=True)
    ]


def test_the_convolution_that_widens_for_the_classifier_is_left_out() -> None:
    assert build_body("mobilenet_v3_small", 1.0, "batch", (8, 32)).channels == (24, 96)
    assert build_body("efficientnet_b0", 1.0, "batch", (8, 32)).channels == (40, 320)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_weight_lies_behind_the_last_map(name: str) -> None:
    network = body(name)
    maps = network.train()(torch.rand(2, 3, 64, 64))
    sum(level.square().mean() for level in maps.values()).backward()
    assert [key for key, weight in network.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
@pytest.mark.parametrize("width", [0.125, 0.5, 1.25])
def test_every_layer_of_torchvision_follows_the_width(name: str, width: float) -> None:
    usual, scaled = (build_body(name, w, "batch", STRIDES).channels for w in (1.0, width))
    assert all(abs(s - u * width) <= max(8, 0.1 * u) for u, s in zip(usual, scaled, strict=True))


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "efficientnet_b0", "efficientnet_v2_s"])
def test_half_the_width_is_about_a_quarter_of_the_weights(name: str) -> None:
    sizes = [sum(p.numel() for p in body(name, width).parameters()) for width in (1.0, 0.5)]
    assert sizes[1] / sizes[0] == pytest.approx(0.26, abs=0.03)


def test_a_narrow_resnext_has_groups_left() -> None:
    assert body("resnext50_32x4d", 0.25)(torch.rand(1, 3, 64, 64))["3"].shape[1] == 512
    with pytest.raises(ValidationError, match=r"starts at 0\.25"):
        DetectorConfig(backbone="resnext50_32x4d", backbone_width=0.125)


def test_width_one_is_the_network_that_torchvision_builds() -> None:
    torch.manual_seed(0)
    ours = build_classifier("resnet18").state_dict()
    torch.manual_seed(0)
    theirs = resnet18(weights=None).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_an_efficientnet_is_scaled_from_its_own_size() -> None:
    ours = build_classifier("efficientnet_b2", 1.0001).state_dict()  # every layer rounds this width to 1
    theirs = efficientnet_b2(weights=None).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items()
    }


# ---- norms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("norm", ["group", "frozen"])
def test_no_batch_norm_is_left_and_the_weights_keep_their_names(name: str, norm: str) -> None:
    plain, exchanged = body(name), body(name, norm=norm)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in exchanged.modules())
    ours, theirs = exchanged.state_dict(), plain.state_dict()
    assert ours.keys() <= theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "timm:lcnet_035"])
def test_a_frozen_body_computes_what_the_evaluated_one_did(name: str) -> None:
    plain = body(name)
    for _ in range(3):
        plain.train()(torch.rand(4, 3, 64, 64))
    frozen = body(name, norm="frozen")
    frozen.load_state_dict(plain.state_dict(), strict=False)
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(frozen.eval()(picture)["3"], plain.eval()(picture)["3"], atol=1e-5)


# ---- stages ----------------------------------------------------------------------------------------------


def test_the_stages_of_a_resnet_are_its_stem_and_its_layers() -> None:
    network = body("resnet18", strides=(8, 16, 32))
    assert first_stages(network, 0) == ()
    assert first_stages(network, 1) == ("conv1", "bn1", "relu")
    assert first_stages(network, 3)[-2:] == ("layer1", "layer2")
    assert first_stages(network, 5)[-1] == "layer4"


@pytest.mark.parametrize("name", FAMILIES)
def test_each_stage_holds_weights_of_its_own_and_five_are_all(name: str) -> None:
    network = body(name)
    sizes = [
        sum(p.numel() for unit in first_stages(network, n) for p in network.get_submodule(unit).parameters())
        for n in range(6)
    ]
    assert all(less < more for less, more in pairwise(sizes))
    assert sizes[-1] == sum(p.numel() for p in network.parameters())


def test_a_network_whose_parts_run_side_by_side_has_no_stages() -> None:
    with pytest.raises(SpecError, match="no stages one after the other"):
        first_stages(body("timm:hrnet_w18_small"), 1)


def test_measuring_leaves_no_trace() -> None:
    network = body("resnet18").train()
    before = copy.deepcopy(network.state_dict())
    measure(network, ["layer1"])
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


# ---- timm ------------------------------------------------------------------------------------------------


def test_timms_models_come_in_their_own_width() -> None:
    with pytest.raises(ValidationError, match="can only be 1"):
        DetectorConfig(backbone="timm:convnext_atto", backbone_width=0.5)


def test_without_timm_one_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SpecError, match="timm is not installed") as caught:
        build_body("timm:convnext_atto", 1.0, "batch", STRIDES)
    assert "pip install 'gkd[timm]'" in caught.value.hint


def test_a_mistyped_model_gets_names_that_are_near() -> None:
    with pytest.raises(SpecError, match="timm has no model 'convnxt_atto'") as caught:
        body("timm:convnxt_atto")
    assert "timm:convnext_atto" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("timm:vit_tiny_patch16_224", "strides 16, 16, 16, and 8, 16, 32 are needed"),
        ("timm:swin_tiny_patch4_window7_224", "does not take pictures of any size"),
        ("timm:mixer_s32_224", "gives maps|gives no features"),
    ],
)
def test_a_model_without_such_maps_is_refused(name: str, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        body(name, strides=(8, 16, 32))


# ---- names of published weights --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_every_tensor_of_a_body_has_one_in_torchvisions_classifier(name: str) -> None:
    published = torchvision.models.get_model(name, weights=None).state_dict()
    for key, value in body(name).state_dict().items():
        assert published[published_name(key, published)].shape == value.shape


@pytest.mark.parametrize("model", ["convnext_atto", "lcnet_035", "resnet10t", "efficientvit_b0"])
def test_every_tensor_of_a_body_has_one_in_timms_classifier(model: str) -> None:
    timm = pytest.importorskip("timm")
    published = timm.create_model(model, pretrained=False).state_dict()
    names = {key: published_name(key, published) for key in body(f"timm:{model}").state_dict()}
    assert len(set(names.values())) == len(names)
    assert None not in names.values()


def test_a_tensor_that_no_classifier_has_is_none() -> None:
    assert published_name("layer9.weight", ("conv1.weight",)) is None
