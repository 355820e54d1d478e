"""The layout that was found in a folder: complete, or with something missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gkd_core.config import Split, SplitName
from gkd_core.errors import DataError, Problem


class Found(NamedTuple):
    """A layout that was recognised, at least in part."""

    name: str
    """Name of the layout, for people."""
    splits: Mapping[SplitName, Split]
    """The splits that were found. Pictures that are not divided into splits are all `train`."""
    missing: str = ""
    """What a training needs and is missing, in words; empty where nothing is."""
    not_read: tuple[str, ...] = ()
    """Files that could have been meant instead."""

    @property
    def to_divide(self) -> Split | None:
        """Return the split that can be divided into train and val: the training split, if there is no val."""
        return None if "val" in self.splits else self.splits.get("train")


def layout_error(message: str, hint: str = "") -> DataError:
    """Return an error of `data.path` that says why a folder cannot be used."""
    return DataError([Problem(loc=("data", "path"), message=message, hint=hint)])


def shown(path: Path, folder: Path) -> str:
    """Return a path relative to the folder where it lies in it; folders end with a slash."""
    slash = "/" * path.is_dir()
    if path == folder:
        return "the folder itself"
    return f"{path.relative_to(folder)}{slash}" if path.is_relative_to(folder) else f"{path}{slash}"
