"""PFI (Li et al., AAAI 2022): maps are compared where the predictions of both models differ, or where they agree.

`where` "differ" is the published sign: a cell weighs as much as the squared difference of its logits. "agree" is ours:
1 / (1 + that), as the robustness of the other losses turns down what the models see differently. The published
code sends the gradient into the weight too, which only makes the heads agree; here it is a weight.

Faster R-CNN has no class scores of cells: its proposal network's objectness stands in.

Shapes: B pictures, C channels of the teacher's maps, H x W cells of a level, A places of a picture, L levels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gkd_core.compute.full_precision import full_precision
from gkd_core.config.losses import PfiConfig
from gkd_core.distill.losses.context import LossContext
from gkd_core.distill.losses.method import MethodLoss, Pair, adapted, masked_mean, one_by_one
from gkd_core.distill.positives import is_two_stage


class PfiLoss(MethodLoss[PfiConfig]):
    """`distill_pfi`: the maps are the teacher's, weighted by how the predictions of a cell differ."""

    config_class = PfiConfig

    def modules(self, pair: Pair) -> torch.nn.Module | None:
        """Return 1x1 convolutions, one a level, where the channels differ."""
        return one_by_one(pair) if pair.student_channels != pair.teacher_channels else None

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare all common levels, and take the mean over them."""
        students = adapted(self.name, context)
        levels = zip(students, context.teacher_maps, disagreements(context), context.visible, strict=True)
        found = [imitation(*level, self.config.where) for level in levels]
        return self.weighted(context, torch.stack(found).mean(0))


@torch.no_grad()
def disagreements(context: LossContext) -> list[Tensor]:
    """Return L of (B, 1, H, W): the mean squared difference of all logits of a cell."""
    return (_of_proposals if is_two_stage(context.student) else _of_scores)(context)


def _of_scores(context: LossContext) -> list[Tensor]:
    """Compare the class scores of every anchor or location, without background."""
    of_places = mean_square(context.heads.student_scores, context.heads.teacher_scores)  # (B, A)
    cells = context.grids.cells
    of_cells = of_places.unflatten(1, (sum(cells), -1)).mean(2).split(cells, dim=1)
    return [level.view_as(seen) for level, seen in zip(of_cells, context.visible, strict=True)]


def _of_proposals(context: LossContext) -> list[Tensor]:
    """Compare the objectness of every anchor of the proposal networks."""
    student, _ = context.student.rpn.head(context.student_maps)
    teacher, _ = context.teacher.rpn.head(context.teacher_maps)
    pairs = zip(student, teacher, strict=True)
    return [mean_square(mine.movedim(1, -1), theirs.movedim(1, -1))[:, None] for mine, theirs in pairs]


# ---- formulas --------------------------------------------------------------------------------------------


@full_precision
def mean_square(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference over the last dimension."""
    return (student - teacher).square().mean(-1)


@full_precision
def imitation(
    student: Tensor, teacher: Tensor, disagreement: Tensor, visible: Tensor, where: Literal["differ", "agree"]
) -> Tensor:
    """Return (B,) weighted squared differences, mean over channels and visible cells.

    Args:
        student: (B, C, H, W).
        teacher: (B, C, H, W).
        disagreement: (B, 1, H, W), at least 0.
        visible: (B, 1, H, W) 0 in padding.
        where: "differ" weighs a cell by its disagreement, "agree" by 1 / (1 + disagreement).
    """
    weights = disagreement if where == "differ" else 1 / (1 + disagreement)
    return masked_mean(weights.detach() * (student - teacher).square(), visible)
