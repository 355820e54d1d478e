"""FGD (Yang et al., CVPR 2022): objects and background apart, weighted by the teacher's attention, and context.

Sums over cells are as published; differences of features are averaged over channels instead of summed, so that the
loss does not grow with the width. A cell counts as an object's where its centre lies in the box; the published code
paints one row and one column more, so that an object of one cell weighs a quarter.

Shapes: B pictures, C channels, H x W cells of a level, M boxes, L levels, S cells of all levels together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gkd_core.compute.full_precision import full_precision
from gkd_core.config.losses import FgdConfig
from gkd_core.distill.grids import Grids, Slots
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.local import FAINTEST, cells_inside, paint_boxes
from gkd_core.distill.losses.method import MethodLoss, Pair


class FgdLoss(MethodLoss[FgdConfig]):
    """`distill_fgd`: four parts, added up with the weights of the config."""

    config_class = FgdConfig

    def modules(self, pair: Pair) -> nn.ModuleList:
        """Return the blocks of both models, one a level."""
        return nn.ModuleList(FgdBlocks(pair) for _ in range(min(pair.levels, self.config.levels)))

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare the finest levels."""
        blocks = context.modules[self.name]
        omega = context.omega if self.config.robust else None
        shares = box_shares(context.instances.boxes, omega, context.grids, context.slots)
        of_levels = shares.split(context.grids.cells, dim=1)
        maps = zip(context.student_maps, context.teacher_maps, context.visible, of_levels, strict=True)
        found = [self._of_level(*each) for each in zip(blocks, *zip(*maps, strict=True), strict=False)]
        return self.weighted(context, sum(found[1:], found[0]))

    def _of_level(
        self, blocks: FgdBlocks, student: Tensor, teacher: Tensor, visible: Tensor, shares: Tensor
    ) -> Tensor:
        """Return (B,) the loss of each picture on one level."""
        config, adapted = self.config, blocks.adapt(student)
        inside = shares.view_as(visible)
        focal = focal_parts(adapted, teacher, inside, visible, config.temperature)
        relation = blocks.relation(adapted, teacher, visible)
        return (
            config.foreground * focal[0]
            + config.background * focal[1]
            + config.attention * attention_part(adapted, teacher, visible, config.temperature)
            + config.relation * relation
        )


class FgdBlocks(nn.Module):
    """What FGD trains on one level: a 1x1 convolution where channels differ, and a context block for each model."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        channels = pair.teacher_channels
        same = pair.student_channels == channels
        self.adapt = nn.Identity() if same else nn.Conv2d(pair.student_channels, channels, 1)
        self.student, self.teacher = ContextBlock(channels), ContextBlock(channels)

    @full_precision
    def relation(self, student: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
        """Return (B,) the squared difference of both maps after their blocks, mean over channels, sum over cells."""
        # a copy: what was computed in inference mode cannot be kept for the gradient of the teacher's block
        difference = self.student(student, visible) - self.teacher(teacher.clone(), visible)
        found: Tensor = (difference.square().mean(1, keepdim=True) * visible).sum((1, 2, 3))
        return found


class ContextBlock(nn.Module):
    """Global context (Cao et al. 2019, GCNet): adds to every cell what the attended cells of the picture say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner, last = max(1, channels // 2), nn.Linear(max(1, channels // 2), channels)
        nn.init.zeros_(last.weight)  # it starts as the identity
        nn.init.zeros_(last.bias)
        self.attend = nn.Conv2d(channels, 1, 1)
        self.transform = nn.Sequential(nn.Linear(channels, inner), nn.LayerNorm(inner), nn.ReLU(), last)

    def forward(self, maps: Tensor, visible: Tensor) -> Tensor:
        """Return maps (B, C, H, W) with the context added; padding is not attended to."""
        attention = softmax_of_cells(self.attend(maps), visible)
        added: Tensor = self.transform((maps * attention).sum((2, 3)))
        return maps + added[:, :, None, None]


# ---- formulas --------------------------------------------------------------------------------------------


@full_precision
def box_shares(boxes: Tensor, omega: Tensor | None, grids: Grids, slots: Slots) -> Tensor:
    """Return what each cell counts as foreground: 1 / cells of the smallest box that holds it, 0 outside of all.

    Boxes are painted on every level, as published.

    Args:
        boxes: (M, 4) pixels.
        omega: (L, M) in [0, 1], multiplies the share of a box; None: 1.
        grids: of the levels.
        slots: of the boxes.

    Returns:
        (B, S) in [0, 1], the cells of all levels behind each other.
    """
    inside = cells_inside(boxes, grids)
    cells = inside.sum(-1).prod(-1)  # (L, M)
    weights = 1.0 if omega is None else omega.clamp_min(FAINTEST)
    return paint_boxes(inside, weights / cells, grids, slots)


@full_precision
def focal_parts(
    student: Tensor, teacher: Tensor, inside: Tensor, visible: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return (B,) twice, foreground and background: squared differences under the teacher's attention.

    Args:
        student: (B, C, H, W).
        teacher: (B, C, H, W).
        inside: (B, 1, H, W) shares of boxes; 0 is background.
        visible: (B, 1, H, W) 0 in padding.
        temperature: of both attentions.
    """
    cells, channels = attention_of(teacher, visible, temperature)
    squared = (channels * (student - teacher).square()).mean(1, keepdim=True) * cells
    outside = (inside == 0) * visible
    outside = outside / outside.sum((2, 3), keepdim=True).clamp_min(1)
    return (squared * inside * visible).sum((1, 2, 3)), (squared * outside).sum((1, 2, 3))


@full_precision
def attention_part(student: Tensor, teacher: Tensor, visible: Tensor, temperature: float) -> Tensor:
    """Return (B,) the L1 distance of both attentions, with gradient to the student's."""
    pairs = zip(
        attention_of(student, visible, temperature),
        attention_of(teacher, visible, temperature),
        strict=True,
    )
    return sum(((mine - theirs).abs().sum((1, 2, 3)) for mine, theirs in pairs), visible.new_zeros(()))


def attention_of(maps: Tensor, visible: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return how much each cell (B, 1, H, W) and each channel (B, C, 1, 1) is attended to, 1 on average."""
    cells = visible.sum((2, 3), keepdim=True)
    strength = maps.abs() * visible
    of_cells = cells * softmax_of_cells(strength.mean(1, keepdim=True) / temperature, visible)
    of_channels = strength.sum((2, 3), keepdim=True) / cells.clamp_min(1) / temperature
    return of_cells, maps.shape[1] * of_channels.softmax(1)


def softmax_of_cells(logits: Tensor, visible: Tensor) -> Tensor:
    """Return the softmax of (B, 1, H, W) over visible cells; 0 in the others."""
    hidden = logits.masked_fill(visible == 0, torch.finfo(logits.dtype).min)
    return hidden.flatten(1).softmax(1).view_as(logits) * visible
