"""The cells of all pyramid levels in one padded layout, so that an operation on all levels is one kernel and not L.

Rows and columns of all levels are padded to the longest, P; the cells of all levels are concatenated, level by
level and row by row.

Shapes: L levels, M boxes, P cells of the longest side of any level, S cells of all levels together, B images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gkd_core.compute.transfers import to_device


class Grids(NamedTuple):
    """The grids of some pyramid levels, on a device."""

    shapes: tuple[tuple[int, int], ...]
    """H and W of each level."""
    strides: Tensor
    """(L, 1, 1) pixels per cell."""
    ends: Tensor
    """(L, 1, 2) columns and rows of each level."""
    steps: Tensor
    """(P,) 0, 1, 2, ..."""
    columns: Tensor
    """(S,) int64, column of each cell, counted over the padded columns of all levels, L x P."""
    rows: Tensor
    """(S,) int64, row of each cell, counted likewise."""

    @classmethod
    def of(cls, strides: Sequence[float], shapes: Sequence[tuple[int, int]], device: torch.device) -> Grids:
        """Build the grids, with two asynchronous transfers.

        Args:
            strides: L, pixels per cell.
            shapes: L pairs, H and W.
            device: where they are needed.
        """
        side = max(max(shape) for shape in shapes)
        cells = [np.indices(shape).reshape(2, -1) + level * side for level, shape in enumerate(shapes)]
        measures = [(stride, *shape[::-1]) for stride, shape in zip(strides, shapes, strict=True)]
        [places] = to_device([torch.from_numpy(np.concatenate(cells, axis=1))], device)
        [measured] = to_device([torch.tensor(measures, dtype=torch.float32)], device)
        rows, columns = places.unbind()
        steps = torch.arange(side, dtype=torch.float32, device=device)
        return cls(tuple(shapes), measured[:, :1, None], measured[:, None, 1:], steps, columns, rows)

    @property
    def cells(self) -> list[int]:
        """Return the number of cells of each of the L levels."""
        return [height * width for height, width in self.shapes]

    def spans(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return where boxes (M, 4), in pixels, begin and end: (L, M, 2) each, x and y in cells of each level."""
        low, high = (boxes.unflatten(1, (2, 2)) / self.strides[..., None]).unbind(2)
        return low, high

    def nearest(self, low: Tensor, high: Tensor) -> Tensor:
        """Return (L, M, 2, P) bool, true at the column and the row nearest to the centre of each span (L, M, 2)."""
        middle = torch.minimum(((low + high) / 2).floor().clamp_min(0), self.ends - 1)
        return self.steps == middle[..., None]

    def spread(self, along: Tensor) -> Tensor:
        """Return (B, M, S), the product at every cell of values (B, M, 2, L x P) along columns and rows."""
        columns, rows = along.unbind(2)
        return columns.index_select(2, self.columns) * rows.index_select(2, self.rows)


class Slots(NamedTuple):
    """Indices that pad the boxes of a batch to the same number of places for each image."""

    image: Tensor
    """(M,) int64, image of each box."""
    place: Tensor
    """(M,) int64, place of each box within its image."""
    images: int
    places: int
    """Number of places of each image."""

    @classmethod
    def of(cls, image_index: Tensor, images: int, most: int | None) -> Slots:
        """Assign a place to every box.

        Args:
            image_index: (M,) int64.
            images: B.
            most: upper bound for the boxes of one image, if the caller knows one.
        """
        place = _place_in_image(image_index)
        return cls(image_index, place, images, _bound(place) if most is None else most)

    def padded(self, values: Tensor) -> Tensor:
        """Return values (L, M, 2, P) of boxes as (B, places, 2, L x P), padded with zeros."""
        along = values.permute(1, 2, 0, 3).flatten(2)  # (M, 2, L * P)
        padded = along.new_zeros(self.images, self.places, *along.shape[1:])
        return padded.index_put_((self.image, self.place), along)

    def at_once(self, size: int, grids: Grids) -> int:
        """Return how many places of every image fit into `size` values at the cells of all levels; at least 1."""
        return max(1, size // max(1, self.images * sum(grids.cells)))


def _place_in_image(image_index: Tensor) -> Tensor:
    """Return (M,) how many earlier boxes the same image has."""
    in_order, order = image_index.sort(stable=True)
    place = torch.arange(len(order), device=order.device) - torch.searchsorted(in_order, in_order)
    return torch.empty_like(place).scatter_(0, order, place)


def _bound(place: Tensor) -> int:
    """Return a sufficient number of places.

    On a GPU reading the exact number would synchronise; spare places cost less.
    """
    if place.device.type == "cpu" and len(place):
        return int(place.max()) + 1
    return len(place)


def visible_cells(sizes: Sequence[tuple[int, int]], stride: int, shape: tuple[int, int]) -> Tensor:
    """Return (B, 1, H, W), 1.0 where a cell's upper left corner lies in its picture, for sizes (height, width)."""
    height, width = (torch.tensor(side).view(-1, 1, 1, 1) for side in zip(*sizes, strict=True))
    rows, columns = torch.arange(shape[0]) * stride, torch.arange(shape[1]) * stride
    return ((rows[:, None] < height) & (columns < width)).float()
