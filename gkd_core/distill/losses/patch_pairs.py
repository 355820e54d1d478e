"""Patch pairs, after Two Teachers (Eum, IROS 2024): patches of a picture are related as the teacher relates them.

A stand-in: of the paper we read the abstract alone. It says that one teacher hands over the co-occurrence of patch
pairs, in segmentation without labels; the formula here is ours, as is its use on pyramids. The paper's second teacher,
which sees depth in training only, is a matter of the list of teachers and not of this loss.

Shapes: B pictures, C channels, H x W cells of a level, G patches along each axis of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gkd_core.compute.full_precision import full_precision, unit
from gkd_core.compute.transfers import to_device
from gkd_core.config.losses import PatchPairsConfig
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.method import MethodLoss


class PatchPairsLoss(MethodLoss[PatchPairsConfig]):
    """`distill_patch_pairs`: the cosines of all pairs of patches are the teacher's; needs no adapter."""

    config_class = PatchPairsConfig

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare the finest levels, which are added up."""
        levels = slice(self.config.levels)
        found = [
            pair_distance(patches(student, *shares), patches(teacher, *shares))
            for student, teacher, shares in zip(
                context.student_maps[levels], context.teacher_maps[levels], self._shares(context), strict=True
            )
        ]
        return self.weighted(context, torch.stack(found).sum(0))

    def _shares(self, context: LossContext) -> list[tuple[Tensor, Tensor]]:
        """Return of each compared level how patches are distributed over rows (B, G, H) and columns (B, G, W)."""
        sides = list(zip(*context.sizes, strict=True))
        shares = [
            patch_shares(lengths, stride, cells, self.config.grid)
            for stride, shape in zip(context.strides, context.grids.shapes, strict=True)
            for lengths, cells in zip(sides, shape, strict=True)
        ]
        found = to_device(shares[: 2 * self.config.levels], context.student_maps[0].device)
        return list(zip(found[::2], found[1::2], strict=True))


def patch_shares(lengths: Sequence[int], stride: int, cells: int, patches: int) -> Tensor:
    """Return (B, G, cells) the share of each cell in the patches along an axis, in [0, 1]; each patch sums to 1.

    Patches divide the picture and not what it is padded to.

    Args:
        lengths: B, pixels of each picture along the axis.
        stride: pixels per cell.
        cells: of the map along the axis.
        patches: G.
    """
    edges = torch.tensor(lengths)[:, None] * torch.arange(patches + 1) / (patches * stride)  # (B, G + 1)
    steps = torch.arange(cells)
    low, high = edges[:, :-1, None], edges[:, 1:, None]
    covered = (torch.minimum(high, steps + 1) - torch.maximum(low, steps)).clamp_min(0)
    return covered / covered.sum(2, keepdim=True)


@full_precision
def patches(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return (B, G x G, C) the mean of maps (B, C, H, W) over each patch.

    Args:
        maps: of a level.
        rows: (B, G, H) shares of rows in patches.
        columns: (B, G, W) shares of columns.
    """
    means = rows[:, None] @ maps @ columns[:, None].mT  # (B, C, G, G)
    return means.flatten(2).mT


@full_precision
def pair_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return (B,) the mean squared difference of the cosines of all pairs of patches, each with itself included.

    Args:
        student: (B, N, C_s) features of patches.
        teacher: (B, N, C_t) of the same patches, without gradient; C_s and C_t may differ.
    """
    mine, theirs = unit(student), unit(teacher)
    return (mine @ mine.mT - theirs @ theirs.mT).square().mean((1, 2))
