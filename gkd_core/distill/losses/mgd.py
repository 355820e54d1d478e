"""MGD (Yang et al., ECCV 2022): the teacher's map is generated from the student's, of which cells are left out.

The published code sums over channels and cells. Here it is a mean, over the cells of all levels together, so that a
level still weighs as much as it has cells, and neither the width nor the size of the picture changes the loss.

Shapes: B pictures, C channels of the teacher's maps, H x W cells of a level, L levels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gkd_core.compute.full_precision import full_precision
from gkd_core.compute.transfers import to_device
from gkd_core.compute.world import World
from gkd_core.config.losses import MgdConfig
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.method import MethodLoss, Pair


class MgdLoss(MethodLoss[MgdConfig]):
    """`distill_mgd`: mean squared difference of the generated and the teacher's maps."""

    config_class = MgdConfig

    def modules(self, pair: Pair) -> nn.Module:
        """Return what generates, and what remembers how many masks were drawn."""
        levels = min(pair.levels, self.config.levels)
        return nn.ModuleDict(
            {"masks": Masks(), "levels": nn.ModuleList(Generation(pair) for _ in range(levels))}
        )

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Generate the finest levels."""
        modules = context.modules[self.name]
        visible = context.visible[: len(modules["levels"])]
        masks = modules["masks"].draw(self.config.masked, visible, context.world)
        maps = zip(context.student_maps, masks, visible, context.teacher_maps, strict=False)
        found = [
            squared_errors(generation(student, mask, seen), teacher, seen)
            for generation, (student, mask, seen, teacher) in zip(modules["levels"], maps, strict=True)
        ]
        cells = torch.stack([level.sum((1, 2, 3)) for level in visible]).sum(0)
        return self.weighted(context, torch.stack(found).sum(0) / cells.clamp_min(1))


class Masks(nn.Module):
    """Draws which cells are left out, without the global random generator, from which the control draws.

    The draws of a step follow from their number alone, which is part of the state: a resumed training goes on with the
    masks that it would have drawn. They come from the CPU, so every device draws alike.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0

    def draw(self, share: float, visible: list[Tensor], world: World) -> list[Tensor]:
        """Return masks like `visible`, L of (B, 1, H, W): 0.0 with probability `share`, else 1.0; advance by one."""
        generator = torch.Generator().manual_seed(self.drawn * world.size + world.rank)
        self.drawn += 1
        kept = [torch.rand(level.shape, generator=generator) >= share for level in visible]
        return to_device([level.float() for level in kept], visible[0].device)

    def get_extra_state(self) -> Tensor:
        """Return the number of draws so far."""
        return torch.tensor(self.drawn)

    def set_extra_state(self, state: Any) -> None:
        """Go on from a number of draws."""
        self.drawn = int(state)


class Generation(nn.Module):
    """Two 3x3 convolutions on one level, after a 1x1 convolution where channels differ."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        channels = pair.teacher_channels
        same = pair.student_channels == channels
        self.adapt = nn.Identity() if same else nn.Conv2d(pair.student_channels, channels, 1)
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, student: Tensor, mask: Tensor, visible: Tensor) -> Tensor:
        """Return the generated map (B, C, H, W); cells of padding are zeros to both convolutions."""
        found: Tensor = self.first(self.adapt(student) * (mask * visible))
        found = self.second(found.relu() * visible)
        return found


@full_precision
def squared_errors(generated: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
    """Return (B,) squared differences, mean over channels, sum over visible cells."""
    return ((generated - teacher).square().mean(1, keepdim=True) * visible).sum((1, 2, 3))
