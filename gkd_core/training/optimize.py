"""Optimiser, learning rate schedule and averaged weights (EMA). Independent of detectors."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from gkd_core.config import OptimizerConfig, ScheduleConfig

Tensors = tuple[Tensor, ...] | list[Tensor]


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> Optimizer:
    """Build AdamW or SGD; norms and biases (one dimension) have no weight decay."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "adamw":
        return AdamW(groups, lr=config.lr, fused=True)  # takes a third of the time, on a CPU too
    return SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)


def learning_rate(
    step: int, steps: int, steps_per_epoch: int, peak: float, schedule: ScheduleConfig
) -> float:
    """Return the rate of step `step` (from 0) of `steps`: linear warm-up to the peak, then the schedule's form.

    A function of the step alone, so that resuming needs no state.
    """
    warmup = min(round(schedule.warmup_epochs * steps_per_epoch), steps // 2)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if schedule.form == "step":
        return peak * schedule.factor ** _milestones_passed(step, steps, schedule)
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * done)))


def _milestones_passed(step: int, steps: int, schedule: ScheduleConfig) -> int:
    return sum(step >= round(share * steps) for share in schedule.steps)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of the model that follows its weights and statistics as an exponential moving average.

    The decay of update n (from 1) is min(decay, (n + 1) / (n + 10)): a new average soon forgets its random initial
    weights.
    """

    @torch.no_grad()
    def update(averages: Tensors, currents: Tensors, updates: Tensor | int) -> None:
        n = int(updates)
        share = 1 - min(decay, (n + 1) / (n + 10))
        if averages[0].is_floating_point():  # all tensors of a call have the same type
            torch._foreach_lerp_(averages, currents, share)
        else:
            torch._foreach_copy_(averages, currents)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)
