"""Local loss: the student's maps imitate the teacher's, foreground and background apart (RDM of the paper).

The mask of a level holds the robustness weight of an instance inside its box and 0 elsewhere. The published
code's conventions are siblings (`*_reference`); docs/method.md compares them.

Shapes: B images, M boxes of all images, C channels, H x W cells of a level.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gkd_core.features import nearest_cell
from gkd_core.precision import full_precision

FAINTEST = 1e-6
"""Least weight in a default mask: an instance of weight 0 is still no background."""


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
    _, height, width = shape
    rows = _centres_inside(boxes[:, 1], boxes[:, 3], stride, height)  # (M, H)
    columns = _centres_inside(boxes[:, 0], boxes[:, 2], stride, width)  # (M, W)
    value = weights.detach().clamp_min(FAINTEST) * on_level
    return _largest(rows, columns * value[:, None], image_index, shape)


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
    _, height, width = shape
    rows = _half_open(boxes[:, 1], boxes[:, 3], stride, height)  # (M, H)
    columns = _half_open(boxes[:, 0], boxes[:, 2], stride, width)  # (M, W)
    turn = torch.arange(1, len(boxes) + 1, device=boxes.device, dtype=boxes.dtype) * on_level
    latest = _largest(rows, columns * turn[:, None], image_index, shape).long()
    return torch.cat([weights.new_zeros(1), weights.detach()])[latest]


def _centres_inside(low: Tensor, high: Tensor, stride: float, cells: int) -> Tensor:
    """(M, cells) bool: cells whose centre lies in the interval, or the nearest cell."""
    centre = torch.arange(cells, device=low.device) + 0.5
    inside = (centre >= low[:, None] / stride) & (centre < high[:, None] / stride)
    return inside | (nearest_cell(low, high, stride, cells).bool() & ~inside.any(1, keepdim=True))


def _half_open(low: Tensor, high: Tensor, stride: float, cells: int) -> Tensor:
    """(M, cells) bool: cells from the one of `low` up to, without, the one of `high`; at least one."""
    first = (low / stride).trunc().clamp(0, cells - 1)[:, None]
    end = torch.maximum((high / stride).trunc()[:, None], first + 1)
    cell = torch.arange(cells, device=low.device)
    return (cell >= first) & (cell < end)


def _largest(rows: Tensor, columns: Tensor, image_index: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(B, H, W): of an image's boxes the largest product of a row's and a column's value, 0 without boxes.

    Args:
        rows: (M, H) bool.
        columns: (M, W), at least 0.
        image_index: (M,) int64.
        shape: B, H, W.
    """
    painted = rows[:, :, None] * columns[:, None, :]  # (M, H, W)
    index = image_index[:, None, None].expand_as(painted)
    return painted.new_zeros(shape).scatter_reduce(0, index, painted, "amax")


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
    return _decoupled(student, teacher, mask, (mask > 0).sum())


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
    return _decoupled(student, teacher, mask, mask.detach().sum())


def _decoupled(student: Tensor, teacher: Tensor, mask: Tensor, foreground_size: Tensor) -> LocalLosses:
    channels, mask = student.shape[1], mask.detach()
    squared = (student - teacher.detach()).square().sum(1)  # (B, H, W)
    background = mask == 0
    foreground_loss = (squared * mask).sum() / (2 * channels * foreground_size).clamp_min(1)
    background_loss = (squared * background).sum() / (2 * channels * background.sum()).clamp_min(1)
    return LocalLosses(foreground_loss, background_loss)
