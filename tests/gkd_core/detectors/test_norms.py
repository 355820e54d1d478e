"""Norms for any number of channels."""

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from gkd_core.config import DetectorConfig
from gkd_core.detectors.build import build_detector
from gkd_core.detectors.norms import exchange_norms, group_norm


@pytest.mark.parametrize("channels", range(8, 520, 8))
def test_group_norm_fits_any_multiple_of_eight(channels: int) -> None:
    norm = group_norm(channels)
    assert channels % norm.num_groups == 0
    assert channels // norm.num_groups >= 4


@pytest.mark.parametrize("channels", [1, 2, 6, 7, 12, 50, 76, 330])
def test_group_norm_fits_odd_widths_too(channels: int) -> None:
    group_norm(channels)(torch.rand(2, channels, 4, 4))


def test_a_norm_that_takes_anothers_place_keeps_its_epsilon_and_its_weights() -> None:
    for norm in ("group", "frozen"):
        network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, eps=0.25))
        weight = network[1].weight.data.uniform_()
        exchange_norms(network, norm)
        assert network[1].eps == 0.25
        assert torch.equal(network[1].weight, weight)
    assert isinstance(network[1], FrozenBatchNorm2d)


def test_the_activation_that_a_norm_carries_is_carried_on() -> None:
    layers = pytest.importorskip("timm.layers")
    for norm in ("group", "frozen"):
        network = nn.Sequential(layers.BatchNormAct2d(8))
        exchange_norms(network, norm)
        out = network(torch.randn(2, 8, 4, 4))
        assert (out >= 0).all()
        assert out.max() > 0


def test_layer_norms_stay() -> None:
    network = nn.Sequential(nn.LayerNorm(8))
    exchange_norms(network, "group")
    assert isinstance(network[0], nn.LayerNorm)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_a_frozen_norm_keeps_the_precision_of_maps_and_computes_in_float32(half: torch.dtype) -> None:
    network = nn.Sequential(nn.BatchNorm2d(8))
    for name, value in network[0].named_parameters():
        value.data.uniform_(0.5, 1.5) if name == "weight" else value.data.normal_()
    network[0].running_mean.normal_()
    network[0].running_var.uniform_(0.5, 2)
    exchange_norms(network, "frozen")
    maps = torch.randn(2, 8, 5, 5).to(half).requires_grad_()

    out = network(maps)
    out.sum().backward()

    assert out.dtype == half
    torch.testing.assert_close(
        out.float(), network(maps.detach().float()), rtol=2 * torch.finfo(half).eps, atol=1e-2
    )
    assert maps.grad is not None
    assert maps.grad.dtype == half


@pytest.mark.parametrize("layout", ["gkd", "torchvision"])
def test_a_body_with_frozen_norms_gives_half_precision_maps_under_autocast(layout: str) -> None:
    config = DetectorConfig.model_validate(
        {"backbone": "resnet50", "norm": "frozen", "layout": layout, "weights": "x"}
    )
    detector = build_detector(config, 2, 64).eval()
    dtypes = set()
    for module in detector.backbone.body.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.register_forward_hook(lambda _module, _inputs, output: dtypes.add(output.dtype))

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        detector.backbone(torch.rand(1, 3, 64, 64))

    assert dtypes == {torch.bfloat16}
