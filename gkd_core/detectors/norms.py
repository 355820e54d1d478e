"""Normalisation layers of bodies, pyramids and heads, and their replacement in a network that is already built."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d

from gkd_core.compute.full_precision import HALF
from gkd_core.detectors.detector import Detector

Norm = Literal["batch", "group", "frozen"]


def group_norm(channels: int) -> nn.GroupNorm:
    """Build a group norm for any number of channels: at most 32 groups of at least 4 channels.

    One group where 4 does not divide the channels.
    """
    return nn.GroupNorm(_groups(channels), channels)


def _groups(channels: int) -> int:
    return math.gcd(32, channels // 4) if channels % 4 == 0 else 1


def exchange_norms(network: nn.Module, norm: Norm) -> None:
    """Replace every batch norm by `norm`, under the same name, with its weights, statistics and epsilon.

    Published weights need the epsilon that they were trained with, which differs between families; so the network's
    own is kept. Layer norms and all other layers stay.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            network.set_submodule(name, _EXCHANGES[norm](module))


def _to_batch_norm(norm: nn.BatchNorm2d) -> nn.Module:
    norm.momentum = 0.1  # MobileNet's momentum of 0.01 keeps a third of the initial statistics for 100 steps
    return norm


def _to_group_norm(norm: nn.BatchNorm2d) -> nn.Module:
    make = _ActivatedGroupNorm if hasattr(norm, "act") else nn.GroupNorm
    return _copy_state(make(_groups(norm.num_features), norm.num_features, eps=norm.eps), norm)


def _to_frozen_norm(norm: nn.BatchNorm2d) -> nn.Module:
    make = _ActivatedFrozenBatchNorm if hasattr(norm, "act") else FrozenNorm
    return _copy_state(make(norm.num_features, eps=norm.eps), norm)


def with_batch_statistics(detector: Detector) -> Detector:
    """Return a copy whose batch norms alone are in training.

    Stochastic depth and dropout would draw random numbers, which the control does not, and blur the features.
    """
    twin = copy.deepcopy(detector).train()  # frozen stages know that they stay as they are
    for module in twin.modules():
        module.training &= isinstance(module, nn.modules.batchnorm._BatchNorm)
    return twin


class FrozenNorm(FrozenBatchNorm2d):
    """torchvision's frozen batch norm, whose output has the precision of its input.

    torchvision multiplies them by buffers of float32, so that under autocast all that follows is float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B, C, H, W) in their own precision; computed in float32 at least."""
        if x.dtype not in HALF:
            exact: Tensor = super().forward(x)
            return exact
        statistics = self.running_mean, self.running_var
        return functional.batch_norm(x, *statistics, self.weight, self.bias, eps=self.eps)


_EXCHANGES: dict[Norm, Callable[[nn.BatchNorm2d], nn.Module]] = {
    "batch": _to_batch_norm,
    "group": _to_group_norm,
    "frozen": _to_frozen_norm,
}


@torch.no_grad()
def _copy_state(new: nn.Module, old: Any) -> nn.Module:
    """Copy parameters, buffers and timm's activation of the old norm into the new one; return the new one."""
    mine, theirs = new.state_dict(), old.state_dict()
    for name in mine.keys() & theirs.keys():
        mine[name].copy_(theirs[name])
    if isinstance(new, _Activated):
        new.drop, new.act = old.drop, old.act
    return new


class _Activated(nn.Module):
    """timm's norms carry the activation that follows them."""

    drop: nn.Module
    act: nn.Module

    def forward(self, maps: Tensor) -> Any:
        return self.act(self.drop(super().forward(maps)))


class _ActivatedGroupNorm(_Activated, nn.GroupNorm):
    """Group norm in the place of timm's `BatchNormAct2d`."""


class _ActivatedFrozenBatchNorm(_Activated, FrozenNorm):
    """Frozen batch norm in the place of timm's `BatchNormAct2d`."""
