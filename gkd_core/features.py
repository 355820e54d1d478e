"""From feature maps and boxes to one vector an instance: pooling, and which pyramid level a box lies on.

Both come in two conventions: the default, and what the published code does (`*_reference`), which only exists
to reproduce it. All functions are pure, without a loop over boxes, and none waits for the device.

Shapes: B images, M boxes of all images of a batch, C channels, H x W cells of a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gkd_core.precision import full_precision

REFERENCE_FINEST = 56.0
"""Pixels: the published code puts boxes of up to twice this size on the finest level."""
COVERED = 1e-6
"""Share of a cell below which a box counts as covering nothing."""
WEIGHTS_AT_ONCE = 2**23
"""Weights of boxes, one a cell, that are in memory at a time: 32 MiB. The objects of a batch seldom need as many."""


# ---- pooling ---------------------------------------------------------------------------------------------


@full_precision
def pool_boxes(
    features: Tensor, boxes: Tensor, image_index: Tensor, stride: float, most_per_image: int | None = None
) -> Tensor:
    """Mean of a feature map over each box, exact: a cell counts by the share of it that the box covers.

    Boxes are clipped to the map. One without area, or outside, takes the cell nearest to its middle, so the
    result is always finite.

    Args:
        features: (B, C, H, W).
        boxes: (M, 4), x1, y1, x2, y2 in pixels.
        image_index: (M,) int64, image of each box.
        stride: pixels per cell.
        most_per_image: an upper bound for the boxes of one image, where the caller knows one: saves memory.

    Returns:
        (M, C), with gradient to the features.
    """
    height, width = features.shape[2:]
    rows = covered_share(boxes[:, 1], boxes[:, 3], stride, height)  # (M, H)
    columns = covered_share(boxes[:, 0], boxes[:, 2], stride, width)  # (M, W)
    return _weighted_mean(features, rows, columns, image_index, most_per_image)


@full_precision
def pool_reference(
    features: Tensor, boxes: Tensor, image_index: Tensor, stride: float, most_per_image: int | None = None
) -> Tensor:
    """Mean over rows int(|y1| / stride) to int(|y2| / stride), both included, columns alike: the published code.

    Where that code averages no cell at all and returns NaN, this takes the last row or column.

    Args:
        features: (B, C, H, W).
        boxes: (M, 4), x1, y1, x2, y2 in pixels.
        image_index: (M,) int64, image of each box.
        stride: pixels per cell.
        most_per_image: see `pool_boxes`.

    Returns:
        (M, C), with gradient to the features.
    """
    height, width = features.shape[2:]
    rows = _inclusive_share(boxes[:, 1], boxes[:, 3], stride, height)  # (M, H)
    columns = _inclusive_share(boxes[:, 0], boxes[:, 2], stride, width)  # (M, W)
    return _weighted_mean(features, rows, columns, image_index, most_per_image)


def covered_share(low: Tensor, high: Tensor, stride: float, cells: int) -> Tensor:
    """How an interval is spread over the cells of one axis.

    Args:
        low: (M,) start in pixels.
        high: (M,) end in pixels.
        stride: pixels per cell.
        cells: cells along the axis.

    Returns:
        (M, cells) in [0, 1], each row with the sum 1; an interval that covers no cell has its 1 at the nearest.
    """
    start = torch.arange(cells, device=low.device, dtype=low.dtype)
    first, last = (low / stride)[:, None], (high / stride)[:, None]
    covered = (torch.minimum(last, start + 1) - torch.maximum(first, start)).clamp_min(0)  # (M, cells)
    total = covered.sum(1, keepdim=True)
    return torch.where(
        total > COVERED, covered / total.clamp_min(COVERED), nearest_cell(low, high, stride, cells)
    )


def nearest_cell(low: Tensor, high: Tensor, stride: float, cells: int) -> Tensor:
    """(M, cells): 1 at the cell nearest to the middle of each interval, 0 elsewhere."""
    middle = ((low + high) / (2 * stride)).floor().clamp(0, cells - 1)
    return (torch.arange(cells, device=low.device) == middle[:, None]).to(low.dtype)


def _inclusive_share(low: Tensor, high: Tensor, stride: float, cells: int) -> Tensor:
    first = (low.abs() / stride).floor().clamp_max(cells - 1)[:, None]
    last = (high.abs() / stride).floor()[:, None]
    cell = torch.arange(cells, device=low.device)
    covered = ((cell >= first) & (cell <= torch.maximum(first, last))).to(low.dtype)  # (M, cells)
    return covered / covered.sum(1, keepdim=True)


def _weighted_mean(
    features: Tensor, rows: Tensor, columns: Tensor, image_index: Tensor, most_per_image: int | None
) -> Tensor:
    """The mean of each box, padded to the same number for every image.

    Of many boxes some at a time, whose weights are computed anew for the gradient: kept, they would fill the memory.
    """
    images, _, height, width = features.shape
    slot = _slot_in_image(image_index)
    slots = _bound(slot) if most_per_image is None else most_per_image
    rows, columns = (_padded(shares, image_index, slot, images, slots) for shares in (rows, columns))
    size = max(1, WEIGHTS_AT_ONCE // max(1, images * height * width))
    if slots <= size:
        return _means(features, rows, columns)[image_index, slot]
    parts = zip(rows.split(size, dim=1), columns.split(size, dim=1), strict=True)
    means = [
        checkpoint(_means, features, *part, use_reentrant=False, preserve_rng_state=False) for part in parts
    ]
    return torch.cat(means, dim=1)[image_index, slot]


def _padded(shares: Tensor, image_index: Tensor, slot: Tensor, images: int, slots: int) -> Tensor:
    """(M, cells) as (B, slots, cells), filled up with zeros."""
    padded = shares.new_zeros(images, slots, shares.shape[1])
    padded[image_index, slot] = shares
    return padded


def _means(features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, slots, C): one matrix product per image, its boxes' weights by its map."""
    weights = (rows[..., :, None] * columns[..., None, :]).flatten(2)  # (B, slots, H * W)
    return weights.to(features.dtype) @ features.flatten(2).mT


def _slot_in_image(image_index: Tensor) -> Tensor:
    """(M,) how many earlier boxes the same image has."""
    in_order, order = image_index.sort(stable=True)
    slot = torch.arange(len(order), device=order.device) - torch.searchsorted(in_order, in_order)
    return torch.empty_like(slot).scatter_(0, order, slot)


def _bound(slot: Tensor) -> int:
    """Slots that are enough. On a GPU reading the number would wait for the device; spare rows cost less."""
    if slot.device.type == "cpu" and len(slot):
        return int(slot.max()) + 1
    return len(slot)


# ---- levels ----------------------------------------------------------------------------------------------


def assign_levels(boxes: Tensor, strides: Sequence[float], cells: float = 4.0) -> Tensor:
    """The level whose cells fit a box: `cells` to twice as many along the side sqrt(w h).

    Boxes too small or too big for every level go to the first or the last.

    Args:
        boxes: (M, 4), x1, y1, x2, y2 in pixels.
        strides: pixels per cell of each level, ascending.
        cells: 4 as RetinaNet's anchors, which are 4 strides wide; 14 is the FPN rule of two-stage detectors.

    Returns:
        (M,) int64 from 0 to levels - 1.
    """
    width, height = _sides(boxes)
    side = (width * height).sqrt()
    level = torch.zeros_like(side, dtype=torch.int64)
    for stride in strides[1:]:  # numbers, not a tensor: sending one to a GPU would wait for it
        level += side >= cells * stride
    return level


def assign_levels_reference(boxes: Tensor, num_levels: int) -> Tensor:
    """floor(log2(sqrt((w + 1)(h + 1)) / 56 + 1e-6)), clamped: the published code, whatever the strides.

    Args:
        boxes: (M, 4), x1, y1, x2, y2 in pixels.
        num_levels: L.

    Returns:
        (M,) int64 from 0 to L - 1.
    """
    width, height = _sides(boxes)
    side = ((width + 1) * (height + 1)).sqrt()
    return (side / REFERENCE_FINEST + 1e-6).log2().floor().clamp(0, num_levels - 1).long()


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[:, 2] - boxes[:, 0]).clamp_min(0), (boxes[:, 3] - boxes[:, 1]).clamp_min(0)
