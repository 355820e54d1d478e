"""Norms for any number of channels."""

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from gkd_core.norms import exchange_norms, group_norm


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
