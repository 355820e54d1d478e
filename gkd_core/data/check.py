"""`check`: whether a data set can be trained on, and what it contains. Without torch, in a second or two.

For people and for the service: errors that would end a job in its first minute are reported before it is queued. To
keep a config inside allowed folders, call `find_layout` first: `check` reads only below the paths that it returns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from gkd_core.config import SPLITS, DataConfig, SplitName, TrainConfig
from gkd_core.data.find import Layout as Layout
from gkd_core.data.find import find_layout as find_layout
from gkd_core.data.find import recognise as recognise
from gkd_core.data.reading import load
from gkd_core.data.reading import needed as needed
from gkd_core.data.records import DataSet, ImageRecord, Split
from gkd_core.data.tiny_objects import vanishing
from gkd_core.errors import Problem

SMALL, LARGE = 32**2, 96**2
"""COCO's limits, in square pixels of the original picture: small below the first, large from the second."""


class ReportPart(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SizeRange(ReportPart):
    """The smallest and largest sides of the pictures, in pixels."""

    width: tuple[int, int]
    height: tuple[int, int]


class SplitReport(ReportPart):
    """Counts of one split. Crowd regions and difficult objects are counted as `crowd` and nowhere else."""

    images: int
    boxes: int
    boxes_per_class: dict[str, int]
    crowd: int
    images_without_boxes: int
    small: int
    """Boxes with an area under 32 x 32."""
    medium: int
    large: int
    """Boxes with an area of 96 x 96 or more."""
    sizes: SizeRange
    truncated: int = 0
    """Boxes of objects that reach beyond the picture (VOC's `truncated`)."""


class DataReport(ReportPart):
    """Contents of a data set, warnings for people, and the config with every path filled in."""

    format: Literal["coco", "voc", "yolo"]
    classes: tuple[str, ...]
    train: SplitReport | None
    """None where there is no such split; a model can still be evaluated on another one."""
    val: SplitReport | None
    """None where there is no such split."""
    test: SplitReport | None = None
    """None where there is no such split; few data sets have one."""
    warnings: tuple[Problem, ...]
    resolved: DataConfig
    """The config with format, splits and classes filled in."""

    @property
    def splits(self) -> Mapping[SplitName, SplitReport]:
        """Return the splits that exist, by name."""
        return {name: split for name in SPLITS if (split := getattr(self, name)) is not None}


def check(
    config: DataConfig,
    *,
    needs: Collection[SplitName] | None = None,
    headers: int | None = None,
    decode: bool = False,
    recipe: TrainConfig | None = None,
) -> DataReport:
    """Read the splits as a job would, and describe them.

    Args:
        config: the data set; its paths are absolute or relative to the working directory.
        needs: the splits that must be there and usable, as in `load`.
        headers: read the headers of at most so many pictures of a split; None: of all. All must exist in any case.
        decode: also decode those pictures, which finds truncated files.
        recipe: of the training, if any: objects that are too small at its image size are reported.

    Raises:
        DataError: the data set cannot be used; `problems` says where, what, and what to do.
    """
    needs = needed(config) if needs is None else needs
    return check_layout(
        recognise(config, needs=needs), needs=needs, headers=headers, decode=decode, recipe=recipe
    )


def check_layout(
    layout: Layout,
    *,
    needs: Collection[SplitName],
    headers: int | None = None,
    decode: bool = False,
    recipe: TrainConfig | None = None,
) -> DataReport:
    """Do what `check` does with a layout that was recognised before.

    Raises:
        DataError: as `check`.
    """
    data = load(layout.config, needs=needs, headers=headers, decode=decode)
    told = vanishing(data.train, recipe) if recipe else []
    return describe(layout, replace(data, warnings=(*data.warnings, *told)))


def describe(layout: Layout, data: DataSet) -> DataReport:
    """Return the report of a data set that was read from that layout."""
    resolved = layout.config
    assert resolved.format != "auto"  # find_layout fills it in
    described: dict[str, Any] = {
        name: _describe(data.splits[name]) if name in data.splits else None for name in SPLITS
    }
    left_out = {name: None for name in SPLITS if name not in data.splits}
    return DataReport(
        format=resolved.format,
        classes=data.classes,
        warnings=(*layout.remarks, *data.warnings),
        resolved=resolved.model_copy(update={"classes": data.classes} | left_out),
        **described,
    )


def _describe(split: Split) -> SplitReport:
    targets = [~record.crowd for record in split.images]
    labels = np.concatenate([record.labels[keep] for record, keep in zip(split.images, targets, strict=True)])
    area = np.concatenate([record.area[keep] for record, keep in zip(split.images, targets, strict=True)])
    counts = np.bincount(labels, minlength=len(split.classes) + 1)[1:]
    return SplitReport(
        images=len(split.images),
        boxes=len(labels),
        boxes_per_class=dict(zip(split.classes, counts.tolist(), strict=True)),
        crowd=sum(int(record.crowd.sum()) for record in split.images),
        images_without_boxes=sum(not keep.any() for keep in targets),
        small=int((area < SMALL).sum()),
        medium=int(((area >= SMALL) & (area < LARGE)).sum()),
        large=int((area >= LARGE).sum()),
        sizes=_sizes(split.images),
        truncated=sum(record.truncated for record in split.images),
    )


def _sizes(images: Sequence[ImageRecord]) -> SizeRange:
    widths = [record.width for record in images]
    heights = [record.height for record in images]
    return SizeRange(width=(min(widths), max(widths)), height=(min(heights), max(heights)))
