"""Detectors that are loaded from a file are not initialised before."""

from pathlib import Path

import pytest
import torch
from torch import nn

from gkd_core.config import DetectorConfig
from gkd_core.detectors.build import build_detector
from gkd_core.detectors.checkpoint import load_model, publish_model
from gkd_core.detectors.model_card import ModelCard
from gkd_core.detectors.skip_init import SkipInit

FAMILIES = ("retinanet", "faster_rcnn", "fcos")
BACKBONES = ("resnet18", "mobilenet_v3_small", "efficientnet_b0")


def test_it_draws_nothing() -> None:
    before = torch.get_rng_state()
    with SkipInit():
        layer = nn.Conv2d(8, 8, 3)
        nn.init.trunc_normal_(layer.weight)
        nn.init.orthogonal_(nn.Linear(4, 4).weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_needs_no_random_numbers_is_computed() -> None:
    with SkipInit():
        assert torch.equal(nn.init.constant_(torch.empty(3), 2.0), torch.full((3,), 2.0))
        assert torch.equal(nn.BatchNorm2d(3).weight, torch.ones(3))


def test_outside_of_it_all_is_drawn_as_ever() -> None:
    with SkipInit():
        pass
    torch.manual_seed(0)
    drawn = nn.Linear(4, 4).weight.clone()
    torch.manual_seed(0)
    assert torch.equal(nn.Linear(4, 4).weight, drawn)
    assert drawn.std() > 0


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_loaded_detector_is_the_one_that_was_published(
    architecture: str, backbone: str, tmp_path: Path
) -> None:
    config = DetectorConfig(
        architecture=architecture, backbone=backbone, fpn={"channels": 16}, head={"depth": 1}
    )
    built = build_detector(config, 3, 64).to(memory_format=torch.channels_last).eval()
    path = tmp_path / "model.safetensors"
    publish_model(path, built.state_dict(), ModelCard.of(config, ("a", "b", "c"), 64))
    before = torch.get_rng_state()
    loaded, _ = load_model(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert everything(loaded).keys() == everything(built).keys()
    for name, tensor in everything(built).items():
        assert torch.equal(everything(loaded)[name], tensor), name
    pictures = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))]
    with torch.no_grad():
        assert torch.equal(loaded(pictures)[0]["scores"], built(pictures)[0]["scores"])


def everything(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and buffers, those that no state dict holds too."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
