"""`examine`: a full report of a data set before training, for a person who asks. Without torch.

`check` is what the service runs for every spec. This also decodes every picture, compares the splits picture by
picture, and lists every item of every remark: about a millisecond for a picture of 640 x 480.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gkd_core.config import SPLITS, DataConfig, SplitName
from gkd_core.data.check import DataReport, ReportPart, SplitReport, describe
from gkd_core.data.find import Layout, find_layout, recognise
from gkd_core.data.near_duplicates import How as How
from gkd_core.data.near_duplicates import Pair, copies, pairs_of_splits, same_file
from gkd_core.data.reading import load, needed
from gkd_core.data.records import ImageRecord, Split
from gkd_core.errors import Problem

BINS = (0, 8, 16, 32, 64, 96, 128, 192, 256, 384)
"""Lower ends of the histogram of boxes, in pixels."""
CELL = 8
"""Pixels of the resized picture that one cell of the finest feature level covers; shorter boxes are hardly visible. """
NAMED = 1000
"""Limit of the items of one oddity, pairs of pictures and groups of copies that are listed."""


class PictureSizes(ReportPart):
    """Widths and heights of pictures, in pixels."""

    smallest: tuple[int, int]
    """Width and height of the picture with the fewest pixels."""
    median: tuple[float, float]
    """Median width and median height."""
    largest: tuple[int, int]
    most_common: tuple[tuple[int, int, int], ...]
    """Width, height and number of pictures of the three most common sizes."""


class BoxSides(ReportPart):
    """Histogram of box sizes: the square root of width x height, in pixels."""

    from_pixels: tuple[int, ...] = BINS
    """Lower end of each bin; the last one is open."""
    boxes: tuple[int, ...]
    """How many boxes fall into each bin."""


class Resized(ReportPart):
    """Box sizes after the longer side of each picture is resized to `image_size` pixels."""

    image_size: int
    sides: BoxSides
    under_8: int
    """Boxes whose shorter side is under 8 pixels: less than a cell of the finest feature level."""
    under_8_per_class: dict[str, int]


class SplitExamination(SplitReport):
    """Counts and sizes of one split."""

    pictures: PictureSizes
    sides: BoxSides
    resized: Resized | None = None
    copies: tuple[tuple[str, ...], ...] = ()
    """Groups of pictures of this split with the same bytes, the first thousand."""


class Oddity(ReportPart):
    """A remark of the reading of a split, with the items that it holds for."""

    split: str
    message: str
    hint: str
    count: int
    items: tuple[str, ...]
    """The first thousand, by name."""


class Shared(ReportPart):
    """A picture of `train` that is also in `val`, as a file or by its appearance."""

    how: How
    train: str
    val: str
    likeness: float


class SharedWithTest(ReportPart):
    """A picture of `test` that is also in another split, as a file or by its appearance."""

    split: Literal["train", "val"]
    """The other split."""
    how: How
    other: str
    """The picture of that split."""
    test: str
    likeness: float


class Examination(DataReport):
    """A data report with the results of the slower checks."""

    usable: Literal[True] = True
    train: SplitExamination | None
    val: SplitExamination | None
    test: SplitExamination | None = None
    oddities: tuple[Oddity, ...]
    """Remarks of the reading, each item by its name; `warnings` has them as sentences."""
    shared: tuple[Shared, ...]
    """Pictures of `val` that are also in `train`, each with the most similar one there; the first thousand."""
    shared_count: dict[How, int]
    """How many pictures of `val` those are."""
    test_shared: tuple[SharedWithTest, ...] = ()
    """Pictures of `test` that are also in `train` or in `val`, in the same form."""
    test_shared_count: dict[Literal["train", "val"], dict[How, int]] = Field(default_factory=dict)
    """How many pictures of `test` those are, by the other split."""
    decoded: bool
    """Whether pictures were decoded and compared; otherwise only their headers and names were read."""

    @property
    def splits(self) -> Mapping[SplitName, SplitExamination]:
        """Return the splits that exist, by name."""
        return {name: split for name in SPLITS if (split := getattr(self, name)) is not None}


def examine(
    config: DataConfig,
    *,
    needs: Collection[SplitName] | None = None,
    image_size: int | None = None,
    quick: bool = False,
) -> Examination:
    """Check everything in a data set, slowly.

    Args:
        config: the data set; its paths are absolute or relative to the working directory.
        needs: the splits that must be there and usable, as in `load`; None: `needed_to_look`.
        image_size: also report box sizes when the longer side of a picture is resized to so many pixels.
        quick: read headers only: no picture is decoded, and none is compared with another.

    Raises:
        DataError: the data set can neither be trained on nor, for want of a training split, scored on; `problems`
            says where, what, and what to do.
    """
    needs = needed_to_look(config) if needs is None else needs
    return examine_layout(recognise(config, needs=needs), needs=needs, image_size=image_size, quick=quick)


def examine_layout(
    layout: Layout, *, needs: Collection[SplitName], image_size: int | None = None, quick: bool = False
) -> Examination:
    """Do what `examine` does with a layout that was recognised before.

    Raises:
        DataError: as `examine`.
    """
    data = load(layout.config, needs=needs, decode=not quick)
    report = describe(layout, data)
    files = {name: _paths(split) for name, split in data.splits.items()}
    both = _same_files(files) if quick else pairs_of_splits(files)
    shared = both.get(("train", "val"), [])
    splits = {
        name: _examined(split, data.splits[name], image_size, quick) for name, split in report.splits.items()
    }
    return Examination.model_validate(
        {
            **dict(report),
            **splits,
            "warnings": (*report.warnings, *_cannot_train(report), *_not_divided(report)),
            "oddities": [
                Oddity(
                    split=noted.split,
                    message=noted.message,
                    hint=noted.hint,
                    count=len(noted.items),
                    items=noted.items[:NAMED],
                )
                for noted in data.noted
            ],
            "shared": [
                Shared(
                    how=pair.how, train=str(pair.train), val=str(pair.val), likeness=round(pair.likeness, 4)
                )
                for pair in shared[:NAMED]
            ],
            "shared_count": dict(Counter(pair.how for pair in shared)),
            **_shared_with_test(both),
            "decoded": not quick,
        }
    )


def needed_to_look(config: DataConfig) -> tuple[SplitName, ...]:
    """Return the splits that must be usable: those of a training, or else the first one that exists.

    Raises:
        DataError: there is none.
    """
    found = find_layout(config, needs=())
    unfinished = config.path is not None and found.format == "yolo" and found.val is not None
    if found.train or unfinished:  # a data.yaml names train wherever it names val
        return needed(config)
    return (next(iter(found.splits)), *config.splits)


def needed_to_keep(config: DataConfig) -> tuple[SplitName, ...]:
    """Return the splits that must be usable in a data set that jobs will name.

    As `needed_to_look`, but `train` is enough without `val`, since a job may set a share of it aside.

    Raises:
        DataError: there is none.
    """
    found = find_layout(config, needs=())
    undivided = found.train is not None and found.val is None
    return ("train", *config.splits) if undivided else needed_to_look(config)


def _cannot_train(report: DataReport) -> list[Problem]:
    if report.train is not None:
        return []
    message = f"there is no train split: models can be scored on {' and '.join(report.splits)}, not trained"
    return [Problem(loc=("data", "train"), message=message)]


def _not_divided(report: DataReport) -> list[Problem]:
    if report.train is None or report.val is not None:
        return []
    message = "there is no val split: a training needs a share of train set aside, or models can be scored, not trained"
    hint = "Give data.val_share in the spec, such as 0.2, or name it in a job of kind `evaluate`."
    return [Problem(loc=("data", "val"), message=message, hint=hint)]


def _same_files(files: Mapping[SplitName, Sequence[Path]]) -> dict[tuple[SplitName, SplitName], list[Pair]]:
    """Return the pairs that `pairs_of_splits` would, judged by file names alone."""
    return {(one, other): same_file(files[one], files[other]) for one, other in combinations(files, 2)}


def _shared_with_test(both: Mapping[tuple[SplitName, SplitName], Sequence[Pair]]) -> dict[str, Any]:
    """Return the fields that list the pictures of `test` that are in other splits."""
    with_test = {one: pairs for (one, other), pairs in both.items() if other == "test" and pairs}
    shared = [
        SharedWithTest.model_validate(
            {"split": split, "how": pair.how, "likeness": round(pair.likeness, 4)}
            | {"other": str(pair.train), "test": str(pair.val)}
        )
        for split, pairs in with_test.items()
        for pair in pairs[:NAMED]
    ]
    count = {split: dict(Counter(pair.how for pair in pairs)) for split, pairs in with_test.items()}
    return {"test_shared": shared, "test_shared_count": count}


def _paths(split: Split) -> list[Path]:
    return [record.path for record in split.images]


def _examined(report: SplitReport, split: Split, image_size: int | None, quick: bool) -> SplitExamination:
    sides = np.concatenate([_sides(record) for record in split.images])
    return SplitExamination(
        **dict(report),
        pictures=_picture_sizes(split.images),
        sides=_histogram(sides),
        resized=_resized(split, image_size) if image_size else None,
        copies=() if quick else tuple(tuple(map(str, group)) for group in copies(_paths(split))[:NAMED]),
    )


def _picture_sizes(images: Sequence[ImageRecord]) -> PictureSizes:
    sizes = [(record.width, record.height) for record in images]
    return PictureSizes(
        smallest=min(sizes, key=lambda size: size[0] * size[1]),
        median=(float(np.median([w for w, _ in sizes])), float(np.median([h for _, h in sizes]))),
        largest=max(sizes, key=lambda size: size[0] * size[1]),
        most_common=tuple((*size, count) for size, count in Counter(sizes).most_common(3)),
    )


def _sides(record: ImageRecord) -> NDArray[np.float64]:
    """Return (N, 2): width and height of every box that is a target, in pixels."""
    boxes = record.boxes[~record.crowd].astype(np.float64)
    sides: NDArray[np.float64] = boxes[:, 2:] - boxes[:, :2]
    return sides


def _histogram(sides: NDArray[np.float64]) -> BoxSides:
    counts, _ = np.histogram(np.sqrt(sides.prod(axis=1)), bins=[*BINS, np.inf])
    return BoxSides(boxes=tuple(counts.tolist()))


def _resized(split: Split, image_size: int) -> Resized:
    scaled = [_sides(record) * (image_size / max(record.width, record.height)) for record in split.images]
    sides = np.concatenate(scaled)
    labels = np.concatenate([record.labels[~record.crowd] for record in split.images])
    under = np.bincount(labels[sides.min(axis=1, initial=np.inf) < CELL], minlength=len(split.classes) + 1)[
        1:
    ]
    return Resized(
        image_size=image_size,
        sides=_histogram(sides),
        under_8=int(under.sum()),
        under_8_per_class=dict(zip(split.classes, under.tolist(), strict=True)),
    )
