"""The ids that a COCO file gives its pictures and categories: detections need them to be compared with it.

A detector counts its classes from 1 and knows no ids of pictures. The file with the ids is either given, or found in
the data set that the pictures lie in.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gkd_core.config import DataConfig
from gkd_core.data.find import find_layout
from gkd_core.errors import DataError, Problem, SpecError
from gkd_core.process.named_files import read_named

ABOVE = 3
"""How many folders above a picture its data set is looked for: `DATA/images/val/1.jpg`."""

ImageId = int | str
"""Image id as written: a number, or in some exports text."""


class Listed(NamedTuple):
    """A picture as its COCO file lists it."""

    image_id: ImageId
    file_name: str


class CocoIds(NamedTuple):
    """The ids of pictures and categories in COCO files."""

    files: tuple[Path, ...]
    by_path: Mapping[Path, Listed]
    """By resolved path, where the folder of pictures is known."""
    by_name: Mapping[str, tuple[Listed, ...]]
    """By the last part of the file name."""
    categories: Mapping[str, int]
    """Category ids by name; the lowest, where several have one name."""

    def of(self, picture: Path) -> Listed | None:
        """Return the entry of a picture; None where there is none, or where several entries could be it."""
        if found := self.by_path.get(picture.resolve()):
            return found
        parts = picture.resolve().parts
        fitting = [
            listed
            for listed in self.by_name.get(picture.name, ())
            if parts[-len(Path(listed.file_name).parts) :] == Path(listed.file_name).parts
        ]
        return fitting[0] if len({listed.image_id for listed in fitting}) == 1 else None


def ids_in(place: Path) -> CocoIds:
    """Return the ids in a COCO file, or in all those of a data set's folder.

    Raises:
        SpecError: there is no such file or folder, or it holds no COCO data.
    """
    try:
        found = [(place, None)] if place.is_file() else list(_files_in(place))
        return _read_ids(found)
    except (DataError, OSError, ValueError) as error:
        why = error.message if isinstance(error, DataError) else error
        hint = "Name the folder of a COCO data set, or one of its JSON files."
        message = f"{place} holds no ids of COCO: {why}"
        raise SpecError([Problem(loc=("--data",), message=message, hint=hint)]) from None


def ids_beside(pictures: Iterable[Path]) -> CocoIds | None:
    """Return the ids of the COCO data set that pictures lie in; None unless it lists one of them by its path."""
    folders = dict.fromkeys(picture.resolve().parent for picture in pictures)
    for place in dict.fromkeys(above for folder in folders for above in (folder, *folder.parents[:ABOVE])):
        try:
            ids = _read_ids(list(_files_in(place)))
        except (DataError, OSError, ValueError):
            continue
        if any(path.parent in folders for path in ids.by_path):
            return ids._replace(by_name={})  # another picture of the same name is another picture
    return None


def _files_in(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the annotation files of a data set's folder, each with its folder of pictures."""
    config = find_layout(DataConfig(format="coco", path=str(folder)), needs=())
    for split in config.splits.values():
        yield Path(split.annotations), Path(split.images)


def _read_ids(files: Sequence[tuple[Path, Path | None]]) -> CocoIds:
    by_path: dict[Path, Listed] = {}
    by_name: dict[str, list[Listed]] = defaultdict(list)
    categories: dict[str, int] = {}
    for file, folder in files:
        root = json.loads(read_named(file).decode("utf-8-sig"))
        for listed in _pictures(root):
            by_name[Path(listed.file_name).name].append(listed)
            if folder is not None:
                by_path[(folder / listed.file_name).resolve()] = listed
        for name, number in _categories(root):
            categories[name] = min(number, categories.get(name, number))
    names = {name: tuple(listed) for name, listed in by_name.items()}
    return CocoIds(tuple(file for file, _ in files), by_path, names, categories)


def _pictures(root: Any) -> Iterator[Listed]:
    for entry in _entries(root, "images"):
        key, name = entry.get("id"), entry.get("file_name")
        if isinstance(key, int | str) and isinstance(name, str) and name:
            yield Listed(key, name)


def _categories(root: Any) -> Iterator[tuple[str, int]]:
    for entry in _entries(root, "categories"):
        key, name = entry.get("id"), entry.get("name")
        if isinstance(key, int) and isinstance(name, str):
            yield name.strip(), key


def _entries(root: Any, key: str) -> Iterator[dict[str, Any]]:
    """Return the objects of a list of the root.

    Raises:
        ValueError: there is no such list.
    """
    entries = root.get(key) if isinstance(root, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"it has no list `{key}`")
    return (entry for entry in entries if isinstance(entry, dict))
