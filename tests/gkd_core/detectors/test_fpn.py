"""The pyramid: any depth and width, and backbones whose first stages are frozen."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gkd_core.config import DetectorConfig
from gkd_core.detectors.fpn import build_backbone
from gkd_core.detectors.norms import group_norm


def backbone(architecture: str = "fcos", **fields: object) -> nn.Module:
    torch.manual_seed(0)
    config = {
        "architecture": architecture,
        "backbone": "mobilenet_v3_small",
        "fpn": {"channels": 16},
        **fields,
    }
    return build_backbone(DetectorConfig.model_validate(config))


def weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("norm", ["batch", "group", "frozen"])
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("architecture", ["fcos", "faster_rcnn"])
def test_a_pyramid_of_any_depth_gives_all_its_levels(architecture: str, depthwise: bool, norm: str) -> None:
    fpn = {"channels": 16, "depth": 3, "depthwise": depthwise}
    maps = backbone(architecture, fpn=fpn, norm=norm)(torch.rand(2, 3, 128, 128))
    finest = 4 if architecture == "faster_rcnn" else 8
    assert [128 // level.shape[-1] for level in maps.values()] == [finest * 2**n for n in range(5)]
    assert {level.shape[1] for level in maps.values()} == {16}


def test_each_step_of_depth_is_one_convolution_and_its_norm_on_each_level() -> None:
    fpns = [backbone(fpn={"channels": 16, "depth": depth}).fpn for depth in (1, 2, 3)]
    step = 3 * (16 * 16 * 9 + 2 * 16)
    assert [weights(fpn) - weights(fpns[0]) for fpn in fpns] == [0, step, 2 * step]


def test_depthwise_leaves_about_a_ninth() -> None:
    full, light = (backbone(fpn={"channels": 128, "depthwise": d}).fpn for d in (False, True))
    assert weights(light.layer_blocks) / weights(full.layer_blocks) < 1 / 7
    assert weights(light.extra_blocks) / weights(full.extra_blocks) < 1 / 7


def test_deeper_levels_are_told_apart_by_their_norm() -> None:
    fpn = backbone(fpn={"channels": 16, "depth": 2}, norm="group").fpn
    assert sum(isinstance(module, type(group_norm(16))) for module in fpn.modules()) == 3 + 3 * 2


# ---- stages that stand still -----------------------------------------------------------------------------

STILL = [
    {"backbone": "resnet18"},
    {"backbone": "mobilenet_v3_small"},
    {"backbone": "efficientnet_b0"},
    {"backbone": "timm:lcnet_035"},
    {"backbone": "timm:convnext_atto"},
    {"backbone": "resnet18", "norm": "group"},
]


@pytest.mark.parametrize("fields", STILL, ids=lambda fields: "-".join(fields.values()))
def test_frozen_stages_keep_weights_and_statistics_through_training(fields: dict[str, str]) -> None:
    if fields["backbone"].startswith("timm:"):
        pytest.importorskip("timm")
    network = backbone(frozen_stages=2, **fields)
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        network.eval()
        network.train()
        optimizer.zero_grad()
        sum(level.square().mean() for level in network(torch.rand(2, 3, 64, 64)).values()).backward()
        optimizer.step()
    changed = [name for name, value in network.state_dict().items() if not torch.equal(before[name], value)]
    still = tuple(f"body.{name}." for name in network.frozen)
    assert still
    assert not [name for name in changed if name.startswith(still)]
    moving = {name for name, _ in network.named_parameters() if not name.startswith(still)}
    assert len(moving & set(changed)) > 0.9 * len(moving)


def test_a_copy_stands_still_too() -> None:
    twin = copy.deepcopy(backbone(frozen_stages=1)).train()
    stem = twin.body["0"]
    before = stem[1].running_mean.clone()
    twin(torch.rand(2, 3, 64, 64))
    assert torch.equal(stem[1].running_mean, before)


def test_freezing_changes_no_name() -> None:
    assert list(backbone(frozen_stages=3).state_dict()) == list(backbone().state_dict())
