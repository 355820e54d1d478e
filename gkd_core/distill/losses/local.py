"""Local loss: the student's maps imitate the teacher's, foreground and background apart (RDM of the paper).

The mask of a level holds the robustness weight of an instance inside its box and 0 elsewhere. The published
code's conventions are siblings (`*_reference`); docs/method.md compares them.

Shapes: B images, M boxes of all images, C channels, H x W cells of a level, L levels, P cells of
the longest side of any level, S cells of all levels together (`gkd_core.distill.grids`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gkd_core.compute.full_precision import full_precision, widened
from gkd_core.compute.world import World
from gkd_core.config import LocalConfig
from gkd_core.distill.grids import Grids, Slots
from gkd_core.distill.losses.context import LossContext
from gkd_core.errors import checked

FAINTEST = 1e-6
"""Least weight in a default mask: an instance of weight 0 is still no background."""
PAINTED_AT_ONCE = 2**23
"""Weights of boxes, one a cell, that are in memory at a time: 32 MiB."""
NAMES = ("distill_foreground", "distill_background")


@dataclass(frozen=True)
class LocalLoss:
    """`distill_foreground` and `distill_background`: the student's maps imitate the teacher's."""

    weight: float = 0.3
    """Multiplies both parts below; see `config.LocalConfig`."""
    foreground: float = 1.0
    background: float = 0.3
    robust: bool = True

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in LocalConfig.model_fields}
        checked(LocalConfig, "distill", "local", **given)

    @property
    def weights(self) -> tuple[float, float]:
        """Of the foreground and of the background."""
        return self.weight * self.foreground, self.weight * self.background

    @property
    def active(self) -> bool:
        """Whether it adds anything."""
        return any(self.weights)

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare the adapted maps on every level; a part of weight 0 is left out."""
        masks = self._masks(context)
        compare = local_losses_reference_on_levels if context.reference else local_losses_on_levels
        found = compare(context.adapted, context.teacher_maps, masks)
        parts = found.losses
        if not context.reference:
            parts = parts * _per_power(context.teacher_maps, context.world)[:, None]
        losses = context.over_levels(parts * context.world.share(found.sizes)).unbind()
        named = zip(NAMES, self.weights, losses, strict=True)
        return {name: context.attenuation * weight * loss for name, weight, loss in named if weight}

    def _masks(self, context: LossContext) -> Tensor:
        """(B, S) robustness inside of boxes, the cells of all levels behind each other."""
        paint = foreground_masks_reference if context.reference else foreground_masks
        instances = context.instances
        omega = context.omega if self.robust else torch.ones_like(context.omega)
        return paint(instances.boxes, omega, context.level, context.grids, context.slots)


def _per_power(teachers: Sequence[Tensor], world: World) -> Tensor:
    """(L,) 1 / mean square of each of a teacher's maps, over the pictures of all processes.

    The published code compares raw maps, whose size differs between teachers and levels by orders of magnitude, so that
    a weight that suits one pair drowns the detection losses of another. Relative to the teacher's own power one weight
    fits all: a student that gives zeros everywhere has a loss of 1/2 per level.
    """
    lengths = [torch.linalg.vector_norm(each, dtype=torch.float32) / each.numel() ** 0.5 for each in teachers]
    return world.mean(torch.stack(lengths).square()).clamp_min(1e-12).reciprocal()


class LocalLosses(NamedTuple):
    """Both parts, unweighted scalars of at least 0."""

    foreground: Tensor
    background: Tensor


# ---- masks -----------------------------------------------------------------------------------------------


@full_precision
def foreground_mask(
    boxes: Tensor,
    weights: Tensor,
    image_index: Tensor,
    on_level: Tensor,
    stride: float,
    shape: tuple[int, int, int],
) -> Tensor:
    """Weights painted on the cells whose centre lies in a box; where boxes overlap the larger weight stays.

    A box that holds no centre along an axis takes the cell nearest to its middle there, so every box on the
    level has at least one cell.

    Args:
        boxes: (M, 4), x1, y1, x2, y2 in pixels.
        weights: (M,) omega in [0, 1].
        image_index: (M,) int64, image of each box.
        on_level: (M,) bool, whether the box is assigned to this level.
        stride: pixels per cell.
        shape: B, H, W of the level.

    Returns:
        (B, H, W) in [0, 1], without gradient.
    """
    where = _one_level(boxes, image_index, on_level, stride, shape)
    return foreground_masks(boxes, weights[None], *where).view(shape)


@full_precision
def foreground_mask_reference(
    boxes: Tensor,
    weights: Tensor,
    image_index: Tensor,
    on_level: Tensor,
    stride: float,
    shape: tuple[int, int, int],
) -> Tensor:
    """Weights painted on rows int(y1 / stride) to int(y2 / stride), half open, one cell at least; later boxes win.

    Args:
        boxes: (M, 4), x1, y1, x2, y2 in pixels.
        weights: (M,) omega in [0, 1].
        image_index: (M,) int64, image of each box.
        on_level: (M,) bool, whether the box is assigned to this level.
        stride: pixels per cell.
        shape: B, H, W of the level.

    Returns:
        (B, H, W) in [0, 1], without gradient.
    """
    where = _one_level(boxes, image_index, on_level, stride, shape)
    return foreground_masks_reference(boxes, weights[None], *where).view(shape)


def _one_level(
    boxes: Tensor, image_index: Tensor, on_level: Tensor, stride: float, shape: tuple[int, int, int]
) -> tuple[Tensor, Grids, Slots]:
    """Level, grids and slots of boxes, where there is one level."""
    grids = Grids.of([stride], [shape[1:]], boxes.device)
    return on_level.long() - 1, grids, Slots.of(image_index, shape[0], None)


@full_precision
def foreground_masks(boxes: Tensor, weights: Tensor, level: Tensor, grids: Grids, slots: Slots) -> Tensor:
    """Paint the masks of all levels; see `foreground_mask`.

    Args:
        boxes: (M, 4), x1, y1, x2, y2 in pixels.
        weights: (L, M) omega in [0, 1].
        level: (M,) int64, the level of each box; -1 for none.
        grids: of the levels.
        slots: of the boxes.

    Returns:
        (B, S) in [0, 1], the cells of all levels behind each other, without gradient.
    """
    value = weights.detach().clamp_min(FAINTEST) * _own_level(level, len(weights))
    return paint_boxes(cells_inside(boxes, grids), value, grids, slots)


@full_precision
def foreground_masks_reference(
    boxes: Tensor, weights: Tensor, level: Tensor, grids: Grids, slots: Slots
) -> Tensor:
    """Paint the masks of all levels as the published code does; arguments as `foreground_masks`."""
    turn = torch.arange(1, len(boxes) + 1, device=boxes.device, dtype=boxes.dtype)
    inside = _half_open(boxes, grids)
    latest = paint_boxes(inside, turn * _own_level(level, len(weights)), grids, slots).long()
    known = torch.cat([weights.new_zeros(len(weights), 1), weights.detach()], dim=1)  # (L, M + 1)
    of_cell = torch.div(grids.rows, len(grids.steps), rounding_mode="floor")
    return known[of_cell, latest]


def _own_level(level: Tensor, levels: int) -> Tensor:
    """(L, M) bool, true at the level of each box."""
    return level == torch.arange(levels, device=level.device)[:, None]


def cells_inside(boxes: Tensor, grids: Grids) -> Tensor:
    """(L, M, 2, P) bool: cells whose centre lies in the box along each axis, or the nearest cell."""
    low, high = grids.spans(boxes)
    centre = grids.steps + 0.5
    end = torch.minimum(high, grids.ends)[..., None]
    inside = (centre >= low[..., None]) & (centre < end)
    return inside | (grids.nearest(low, high) & ~inside.any(-1, keepdim=True))


def _half_open(boxes: Tensor, grids: Grids) -> Tensor:
    """(L, M, 2, P) bool: cells from the one of the box's start up to, without, the one of its end; at least one."""
    low, high = grids.spans(boxes)
    first = torch.minimum(low.trunc().clamp_min(0), grids.ends - 1)
    end = torch.minimum(torch.maximum(high.trunc(), first + 1), grids.ends)
    return (grids.steps >= first[..., None]) & (grids.steps < end[..., None])


def paint_boxes(inside: Tensor, value: Tensor, grids: Grids, slots: Slots) -> Tensor:
    """(B, S): at each cell the largest value of the image's boxes that hold it, 0 without boxes.

    Of many boxes some at a time: all at every cell would fill the memory.

    Args:
        inside: (L, M, 2, P) bool.
        value: (L, M), at least 0.
        grids: of the levels.
        slots: of the boxes.
    """
    by_axis = torch.stack([value, torch.ones_like(value)], dim=-1)  # (L, M, 2): columns carry the value
    along = slots.padded(inside * by_axis[..., None])
    painted = along.new_zeros(slots.images, sum(grids.cells))
    for part in along.split(slots.at_once(PAINTED_AT_ONCE, grids), dim=1):
        if part.shape[1]:
            painted = torch.maximum(painted, grids.spread(part).amax(1))
    return painted


# ---- losses ----------------------------------------------------------------------------------------------


@full_precision
def local_losses(student: Tensor, teacher: Tensor, mask: Tensor) -> LocalLosses:
    """Half the mean squared difference over foreground cells, weighted by the mask, and over background cells.

    The foreground is divided by the number of its cells: instances that the models see differently count
    less, also when all do.

    Args:
        student: (B, C, H, W), adapted to the teacher's channels.
        teacher: (B, C, H, W).
        mask: (B, H, W) in [0, 1]; cells with 0 are background.

    Returns:
        Both losses.
    """
    return _of_one_level(local_losses_on_levels([student], [teacher.detach()], mask.flatten(1)))


@full_precision
def local_losses_reference(student: Tensor, teacher: Tensor, mask: Tensor) -> LocalLosses:
    """As the published code: the foreground is divided by the sum of the mask, which undoes its scale.

    Args:
        student: (B, C, H, W), adapted to the teacher's channels.
        teacher: (B, C, H, W).
        mask: (B, H, W) in [0, 1]; cells with 0 are background.

    Returns:
        Both losses.
    """
    return _of_one_level(local_losses_reference_on_levels([student], [teacher.detach()], mask.flatten(1)))


class LevelLosses(NamedTuple):
    """Both parts of the local loss on every level."""

    losses: Tensor
    """(L, 2) unweighted, at least 0; foreground and background."""
    sizes: Tensor
    """(L, 2) what each was divided by, where that is more than 1; without gradient."""


def local_losses_on_levels(
    students: Sequence[Tensor], teachers: Sequence[Tensor], masks: Tensor
) -> LevelLosses:
    """Compare all levels; see `local_losses`.

    Args:
        students: L maps (B, C, H, W), adapted to the teacher's channels.
        teachers: L maps alike, without gradient.
        masks: (B, S) in [0, 1], the cells of all levels behind each other; with 0 they are background.
    """
    counted = (masks > 0).to(masks.dtype)
    return _decoupled(students, teachers, masks.detach(), counted)


def local_losses_reference_on_levels(
    students: Sequence[Tensor], teachers: Sequence[Tensor], masks: Tensor
) -> LevelLosses:
    """Compare all levels as the published code does; arguments as `local_losses_on_levels`."""
    return _decoupled(students, teachers, masks.detach(), masks.detach())


@full_precision
def _decoupled_sums(kinds: Tensor, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
    """(2, S): what (2, B, S) masks of foreground and background leave of the squared differences, over pictures."""
    squared = [
        (widened(student) - widened(teacher)).square().sum(1).flatten(1)
        for student, teacher in zip(students, teachers, strict=True)
    ]
    return (kinds * torch.cat(squared, dim=1)).sum(1)


def _decoupled(
    students: Sequence[Tensor], teachers: Sequence[Tensor], masks: Tensor, counted: Tensor
) -> LevelLosses:
    background = (masks == 0).to(masks.dtype)
    sums = _decoupled_sums(torch.stack([masks, background]), students, teachers)
    sizes = torch.stack([counted.sum(0), background.sum(0)])  # (2, S)
    cells = [student.shape[-2] * student.shape[-1] for student in students]
    channels = students[0].shape[1]
    each = [part.sum(-1) for part in torch.cat([sums, sizes]).split(cells, dim=1)]
    losses, sizes = torch.stack(each).split(2, dim=1)
    sizes = 2 * channels * sizes.detach()
    return LevelLosses(losses / sizes.clamp_min(1), sizes)


def _of_one_level(found: LevelLosses) -> LocalLosses:
    foreground, background = found.losses[0].unbind()
    return LocalLosses(foreground, background)
