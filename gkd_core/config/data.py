"""Where the pictures and annotations of a data set are, and how its classes are named."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from gkd_core.config.strict import Strict


class Split(Strict):
    """One split of a data set."""

    images: str
    """Folder of pictures; `file_name` (COCO) or stem (VOC) is relative to it. YOLO: also a text file
    that lists them, or the `data.yaml` where that names several folders."""
    annotations: str
    """COCO: the JSON file. VOC: the folder of XML files. YOLO: the folder of label files, or, where a text file lists
    the pictures, the folder that holds `images/` and `labels/`."""
    names: str | None = None
    """VOC: text file with one stem per line (`ImageSets/Main/train.txt`); None takes every XML file. YOLO: the
    `data.yaml` that names the classes, or a text file with one class a line."""


SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
TO_TRAIN: tuple[SplitName, ...] = ("train", "val")
"""The splits that a training needs."""


class DataConfig(Strict):
    """A data set: either a folder whose layout is recognised (`path`), or its splits one by one.

    In JSON a plain string stands for `{"path": ...}`.
    """

    format: Literal["auto", "coco", "voc", "yolo"] = "auto"
    """`auto` recognises it by the layout; COCO where several are there."""
    path: str | None = None
    """Folder of a data set whose layout is recognised (YOLO: also its `data.yaml`); instead of the splits."""
    train: Split | None = None
    """The split to train on; instead of `path`."""
    val: Split | None = None
    """The split that every model is evaluated on, and that chooses the best epoch."""
    test: Split | None = None
    """Held-out pictures that no choice depends on, not even that of the best epoch: every model is scored on them
    once, at the end. May be absent."""
    val_share: float | None = Field(default=None, gt=0, lt=1)
    """For data without a validation split: the share of its pictures that is set aside as `val`, such as 0.2. With
    `path`, or with `train` alone. Which pictures those are depends on their names and `val_seed`, not their order."""
    val_seed: int = Field(default=0, ge=0, lt=2**63)
    """Decides which pictures `val_share` sets aside. Not the seed of a training, or two trainings would be judged on
    different pictures."""
    classes: tuple[str, ...] | None = None
    """The class names, in label order (label 1 is the first). None takes those of the training split. A list
    that differs from the data set's own (as a set, after `rename` and `only`) is refused: a typo here would silently
    drop objects."""
    rename: dict[str, str] = {}  # noqa: RUF012, pydantic copies it
    """New names by the names that the annotations use; several classes given one name become one class."""
    only: tuple[str, ...] | None = None
    """The classes to keep, by their new names; objects of the others are left out, pictures stay. None keeps all."""

    @model_validator(mode="before")
    @classmethod
    def _a_string_is_a_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _path_or_splits(self) -> DataConfig:
        if (self.path is None) != bool(self.splits):
            raise ValueError(
                "give either `path` (a folder whose layout is recognised), or `train` and `val` and, if there is one, "
                "`test`"
            )
        if self.val_share is not None and self.val not in (None, self.train):
            raise ValueError("give either `val`, or `val_share`, which sets pictures of `train` aside")
        if self.val_share is not None and not (self.path or self.train):
            raise ValueError("`val_share` sets pictures of `train` aside, and there is none")
        if self.val_share is None and self.val_seed:
            raise ValueError(
                "`val_seed` decides which pictures `val_share` sets aside, and that is not given"
            )
        return self

    @property
    def splits(self) -> dict[SplitName, Split]:
        """Return the splits that are given, by name."""
        return {name: split for name in SPLITS if (split := getattr(self, name)) is not None}
