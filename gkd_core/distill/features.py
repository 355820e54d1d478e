"""Pooling of feature maps over boxes, to one vector an instance, and assignment of boxes to pyramid levels.

Both come in two conventions: the default, and what the published code does (`*_reference`), which only exists
to reproduce it. All functions are pure, without a loop over boxes, and none synchronises with the device.

Shapes: B images, M boxes of all images of a batch, C channels, H x W cells of a level, L levels, P cells of the
longest side of any level (`grids.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gkd_core.compute.full_precision import full_precision, widened
from gkd_core.distill.grids import Grids, Slots

REFERENCE_FINEST = 56.0
"""Pixels: the published code assigns boxes of up to twice this size to the finest level."""
COVERED = 1e-6
"""Share of a cell below which a box counts as covering none of it."""
WEIGHTS_AT_ONCE = 2**23
"""How many weights of boxes, one a cell, are in memory at a time: 32 MiB. The objects of a batch seldom need as
many."""


# ---- pooling ---------------------------------------------------------------------------------------------


@full_precision
def pool_boxes(
    features: Tensor, boxes: Tensor, image_index: Tensor, stride: float, most_per_image: int | None = None
) -> Tensor:
    """Return the mean of a feature map over each box, exact: a cell is weighted by the share that the box covers.

    Boxes are clipped to the map. A box without area, or outside, takes the cell nearest to its centre, so the result
    is always finite.

    Args:
        features: (B, C, H, W).
        boxes: (M, 4), x1, y1, x2, y2 in pixels.
        image_index: (M,) int64, image of each box.
        stride: pixels per cell.
        most_per_image: upper bound for the boxes of one image, if the caller knows one: saves memory.

    Returns:
        (M, C), with gradient to the features.
    """
    grids = Grids.of([stride], [(features.shape[2], features.shape[3])], features.device)
    slots = Slots.of(image_index, len(features), most_per_image)
    return pool_boxes_on_levels([[features]], boxes, slots, grids)[0][0]


@full_precision
def pool_reference(
    features: Tensor, boxes: Tensor, image_index: Tensor, stride: float, most_per_image: int | None = None
) -> Tensor:
    """Return the mean over the rows and columns that the published code takes.

    Rows int(|y1| / stride) to int(|y2| / stride), both included, columns alike.

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
    grids = Grids.of([stride], [(features.shape[2], features.shape[3])], features.device)
    slots = Slots.of(image_index, len(features), most_per_image)
    return pool_reference_on_levels([[features]], boxes, slots, grids)[0][0]


def pool_boxes_on_levels(
    pyramids: Sequence[Sequence[Tensor]], boxes: Tensor, slots: Slots, grids: Grids
) -> list[Tensor]:
    """Pool the same boxes on all levels of some pyramids whose grids are alike; see `pool_boxes`.

    Args:
        pyramids: of each its L maps (B, C, H, W); C may differ between them.
        boxes: (M, 4), x1, y1, x2, y2 in pixels.
        slots: places of the boxes.
        grids: of the levels.

    Returns:
        For each pyramid (L, M, C), with gradient to its maps.
    """
    return _weighted_means(pyramids, covered_shares(boxes, grids), slots, grids)


def pool_reference_on_levels(
    pyramids: Sequence[Sequence[Tensor]], boxes: Tensor, slots: Slots, grids: Grids
) -> list[Tensor]:
    """Pool the same boxes on all levels as the published code does; arguments as `pool_boxes_on_levels`."""
    return _weighted_means(pyramids, inclusive_shares(boxes, grids), slots, grids)


def covered_shares(boxes: Tensor, grids: Grids) -> Tensor:
    """Return how boxes (M, 4), in pixels, are distributed over columns and rows of every level.

    Returns:
        (L, M, 2, P) in [0, 1], each sums to 1; a box that covers no cell of an axis has its 1 at the nearest.
    """
    low, high = grids.spans(boxes)
    last, first = torch.minimum(high, grids.ends)[..., None], low[..., None]
    covered = (torch.minimum(last, grids.steps + 1) - torch.maximum(first, grids.steps)).clamp_min(0)
    total = covered.sum(-1, keepdim=True)
    shares = covered / total.clamp_min(COVERED)
    return torch.where(total > COVERED, shares, grids.nearest(low, high).to(shares.dtype))


def inclusive_shares(boxes: Tensor, grids: Grids) -> Tensor:
    """Return `covered_shares` as the published code has them: whole cells, both ends included."""
    low, high = grids.spans(boxes)
    first = torch.minimum(low.abs().floor(), grids.ends - 1)
    last = torch.minimum(torch.maximum(high.abs().floor(), first), grids.ends - 1)
    covered = ((grids.steps >= first[..., None]) & (grids.steps <= last[..., None])).to(low.dtype)
    return covered / covered.sum(-1, keepdim=True)


@full_precision
def _weighted_means_of(
    shares: Tensor, grids: Grids, pyramids: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, ...]:
    """Return for each pyramid (L, B, C, places): one matrix product per image and level, weights times map.

    Args:
        shares: (B, places, 2, L x P).
        grids: of the levels.
        pyramids: of each its L maps.
    """
    weights = grids.spread(shares).mT.split(grids.cells, dim=1)
    return tuple(
        torch.stack([_products(*pair) for pair in zip(weights, maps, strict=True)]) for maps in pyramids
    )


def _products(weights: Tensor, features: Tensor) -> Tensor:
    """Multiply weights (B, H x W, places) and a map (B, C, H, W) to (B, C, places)."""
    features = widened(features)
    return torch.bmm(features.flatten(2), weights.to(features.dtype))


def _weighted_means(
    pyramids: Sequence[Sequence[Tensor]], shares: Tensor, slots: Slots, grids: Grids
) -> list[Tensor]:
    """Return the mean of each box, padded to the same number for every image.

    Many boxes are computed in chunks, whose weights are recomputed for the gradient: kept, they would fill the
    memory.
    """
    parts = slots.padded(shares).split(
        max(1, min(slots.places, slots.at_once(WEIGHTS_AT_ONCE, grids))), dim=1
    )
    if len(parts) == 1:
        means = [_weighted_means_of(parts[0], grids, pyramids)]
    else:
        again = partial(checkpoint, _weighted_means_of, use_reentrant=False, preserve_rng_state=False)
        means = [again(part, grids, pyramids) for part in parts]
    whole = [torch.cat(each, dim=3) if len(each) > 1 else each[0] for each in zip(*means, strict=True)]
    return [each[:, slots.image, :, slots.place].transpose(0, 1) for each in whole]


# ---- pyramid levels --------------------------------------------------------------------------------------


def assign_levels(boxes: Tensor, strides: Sequence[float] | Tensor, cells: float = 4.0) -> Tensor:
    """Return the level whose cells fit a box: `cells` to twice as many along the side sqrt(w h).

    Boxes too small or too big for every level go to the first or the last.

    Args:
        boxes: (M, 4), x1, y1, x2, y2 in pixels.
        strides: pixels per cell of each level, ascending; as a tensor (L,) where the boxes are, it takes less work.
        cells: 4 as RetinaNet's anchors, which are 4 strides wide; 14 is the FPN rule of two-stage detectors.

    Returns:
        (M,) int64 from 0 to levels - 1.
    """
    width, height = _sides(boxes)
    side = (width * height).sqrt()
    if isinstance(strides, Tensor):
        return (side[:, None] >= cells * strides[1:]).sum(1)  # a side of NaN is assigned to the first level
    level = torch.zeros_like(side, dtype=torch.int64)
    for stride in strides[1:]:  # numbers, not a tensor: sending one to a GPU would synchronise
        level += side >= cells * stride
    return level


def assign_levels_reference(boxes: Tensor, num_levels: int) -> Tensor:
    """Return the levels of the published code, whatever the strides.

    floor(log2(sqrt((w + 1)(h + 1)) / 56 + 1e-6)), clamped.

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
