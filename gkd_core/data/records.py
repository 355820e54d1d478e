"""The values that describe a data set: frozen, in pixels, the same for every format.

Boxes are x1, y1, x2, y2 in pixels with exclusive ends: a picture of 96 x 64 is covered by (0, 0, 96, 64). Labels
count from 1 (`classes[0]`); 0 is the background. N is the number of boxes of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gkd_core.config import SplitName
from gkd_core.data.findings import Noted
from gkd_core.errors import Problem


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """A picture and its boxes, checked: finite, clipped to the picture, with a positive area.

    Width and height are those of the picture as displayed, after EXIF rotation, and the boxes lie in that
    frame. The arrays cannot be written to.
    """

    image_id: int
    """The number of the picture in its split, from 1, independent of its id in the annotations."""
    path: Path
    width: int
    height: int
    boxes: NDArray[np.float32]
    """(N, 4)."""
    labels: NDArray[np.int64]
    """(N,), from 1."""
    crowd: NDArray[np.bool_]
    """(N,). True for COCO's crowd regions and VOC's difficult objects: no target in training, and neither hit nor
    miss in evaluation."""
    area: NDArray[np.float32]
    """(N,), square pixels: of the mask where annotated, else of the box. Decides between small, medium and large."""
    truncated: int = 0
    """How many of the boxes belong to objects that reach beyond the picture (VOC's `truncated`); for reports only."""
    white: int | None = None
    """White value of pictures of 16 or 32 bits that do not declare it; None: estimated for each picture."""
    source_id: int | str | None = None
    """Id of the picture in its annotations, for people and files that they read; None where it has none."""

    @property
    def told_id(self) -> int | str:
        """Return the id that is shown to people."""
        return self.image_id if self.source_id is None else self.source_id

    def __post_init__(self) -> None:
        for array in (self.boxes, self.labels, self.crowd, self.area):
            array.setflags(write=False)


@dataclass(frozen=True)
class Split:
    """One split: the classes in label order and the pictures."""

    classes: tuple[str, ...]
    images: tuple[ImageRecord, ...]
    left_out: tuple[Path, ...] = ()
    """Pictures that cannot be decoded, as far as they were tried."""


class HasImages(Protocol):
    """The pictures of a split, however they are held."""

    @property
    def images(self) -> Sequence[ImageRecord]:
        """Return the pictures with their boxes."""
        ...


@dataclass(frozen=True)
class DataSet:
    """The splits, with the same classes in the same order, and warnings for people."""

    classes: tuple[str, ...]
    splits: Mapping[SplitName, Split]
    """The splits that exist: the caller of `load` says which must."""
    warnings: tuple[Problem, ...] = ()
    noted: tuple[Noted, ...] = ()
    """The remarks of the reading that became warnings, with every item by name."""
    white: int | None = None
    """White value of its pictures of 16 or 32 bits; None where all of them declare theirs."""

    @property
    def train(self) -> Split:
        """Return the training split."""
        return self.splits["train"]

    @property
    def val(self) -> Split:
        """Return the validation split."""
        return self.splits["val"]


class WrittenObject(NamedTuple):
    """A box as the annotations give it: finite numbers, not yet compared with the picture."""

    name: str
    """Its name in messages, e.g. `annotation 17`."""
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2."""
    label: int
    crowd: bool
    area: float
    """Square pixels."""
    truncated: bool = False
    """Whether the object reaches beyond the picture."""


class WrittenImage(NamedTuple):
    """A picture as the annotations describe it, before its file is read."""

    image_id: int | str
    """As the annotations have it, or a number that the reader gives."""
    path: Path
    size: tuple[int, int] | None
    """Declared width and height; None where the annotations give no usable ones."""
    objects: Sequence[WrittenObject]
    fractions: bool = False
    """Whether boxes and areas are fractions of the picture's width and height instead of pixels."""


class WrittenSplit(NamedTuple):
    """A split as the annotations describe it."""

    classes: tuple[str, ...]
    folder: Path
    """Where the pictures lie."""
    images: Sequence[WrittenImage]
