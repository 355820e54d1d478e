"""What a data set is: frozen values, in pixels, the same whichever format they were read from.

Boxes are x1, y1, x2, y2 in pixels with exclusive ends: a picture of 96 x 64 is covered by (0, 0, 96, 64). Labels
count from 1 (`classes[0]`); 0 is the background. N is the number of boxes of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gkd_core.config import SplitName
from gkd_core.data.findings import Noted
from gkd_core.errors import Problem


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """A picture and its boxes, checked: finite, clipped to the picture, with a positive area.

    Width and height are those of the picture as people see it, after EXIF rotation, and the boxes lie in that
    frame. The arrays cannot be written to.
    """

    image_id: int
    """The number of the picture in its split, from 1, whatever the annotations call it."""
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
    """(N,), square pixels: of the mask where the annotations say so, else of the box. Decides small or large."""
    truncated: int = 0
    """How many of the boxes belong to objects that go on beyond the picture, as VOC says; for reports only."""
    white: int | None = None
    """Which value means white in pictures of 16 or 32 bits that do not say it; None: each picture tells for itself."""
    source_id: int | str | None = None
    """The id of the picture in its annotations, for people and files that they read; None where there is no other."""

    @property
    def told_id(self) -> int | str:
        """The id by which people know the picture."""
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
    """Pictures that cannot be decoded, as far as anybody tried."""


@dataclass(frozen=True)
class DataSet:
    """Its splits, with the same classes in the same order, and what a person should know about them."""

    classes: tuple[str, ...]
    splits: Mapping[SplitName, Split]
    """Those that are there: whoever reads a data set says which must be."""
    warnings: tuple[Problem, ...] = ()
    noted: tuple[Noted, ...] = ()
    """What of the warnings was noticed while reading, with every item by name."""
    white: int | None = None
    """Which value means white in its pictures of 16 or 32 bits; None where it has none that do not say it."""

    @property
    def train(self) -> Split:
        """The split that is learnt from."""
        return self.splits["train"]

    @property
    def val(self) -> Split:
        """The split that models are judged on."""
        return self.splits["val"]


class WrittenObject(NamedTuple):
    """A box as the annotations give it: finite numbers, not yet compared with the picture."""

    name: str
    """What to call it in a message, e.g. `annotation 17`."""
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2."""
    label: int
    crowd: bool
    area: float
    """Square pixels."""
    truncated: bool = False
    """Whether the object goes on beyond the picture."""


class WrittenImage(NamedTuple):
    """A picture as the annotations describe it, before anybody has looked at the file."""

    image_id: int | str
    """As the annotations have it, or a number that the reader gives."""
    path: Path
    size: tuple[int, int] | None
    """Declared width and height; None where the annotations say nothing usable."""
    objects: Sequence[WrittenObject]
    fractions: bool = False
    """Whether boxes and areas count in widths and heights of the picture instead of pixels."""


class WrittenSplit(NamedTuple):
    """A split as the annotations describe it."""

    classes: tuple[str, ...]
    folder: Path
    """Where the pictures lie."""
    images: Sequence[WrittenImage]
