"""Recognises the layouts of YOLO data sets: what `data.yaml` says, or else where the pictures usually lie.

    data.yaml      train, val and test: folders, text files that list pictures, or several of either
    images/train   images/val, with labels/train and labels/val
    train/images   valid/images or val/images, with labels/ beside (Roboflow)

What `data.yaml` says may be wrong after a download (paths of another machine); then the usual places are tried,
and the reader says so.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from gkd_core.config import Split, SplitName
from gkd_core.data.data_yaml import YAML, DataYaml, NamesError, read_names
from gkd_core.data.yolo import CLASSES, label_file, possible_places
from gkd_core.errors import DataError, Problem

USUAL = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
PLACES: dict[SplitName, tuple[str, ...]] = {
    "train": ("images/train", "train/images", "images/train2017", "train"),
    "val": ("images/val", "images/valid", "val/images", "valid/images", "images/val2017", "val", "valid"),
    "test": ("images/test", "test/images", "images/test2017", "test"),
}
"""Where the pictures of a split usually lie."""


def find_yolo(place: Path, needs: Collection[SplitName]) -> dict[SplitName, Split]:
    """Return the splits of a folder or of a `data.yaml` that are there; none where nothing speaks of YOLO.

    Args:
        place: the folder or the file.
        needs: the splits that must be there.

    Raises:
        DataError: there is a `data.yaml`, and it is wrong or the pictures of a needed split are nowhere.
    """
    file = place if place.is_file() else _names_file(place, needs)
    if file is None:
        return {}
    try:
        names = read_names(file)
    except NamesError as error:
        raise _error(f"{file} {error}") from error
    folder = names.root if file.suffix.lower() in YAML else place
    found: dict[SplitName, Split] = {}
    for split in PLACES:
        if there := _split(split, names, folder):
            found[split] = there
        elif split in needs:
            raise _nowhere(split, names, folder)
    return found


def _names_file(folder: Path, needs: Collection[SplitName]) -> Path | None:
    """The file that names the classes: data.yaml, another YAML that does, or classes.txt."""
    for name in USUAL:
        if (folder / name).is_file():
            return folder / name
    others = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in YAML and _has_names(path)]
    if len(others) == 1:
        return others[0]
    lists = [path for path in (folder / CLASSES, folder / "labels" / CLASSES) if path.is_file()]
    there = {split for split in PLACES if next(_usual(folder, split), None)}
    laid_out = there and there.issuperset(needs)
    return lists[0] if lists and laid_out else None


def _has_names(file: Path) -> bool:
    try:
        return any(read_names(file).splits.values())
    except NamesError:
        return False


def _split(split: SplitName, names: DataYaml, folder: Path) -> Split | None:
    """Return where a split lies, None where its pictures are nowhere."""
    said = names.splits.get(split, ())
    found = [next(filter(os.path.exists, possible_places(folder, entry)), None) for entry in said]
    there = [place for place in found if place]
    if len(said) > 1:
        if len(there) < len(said):
            missing = said[found.index(None)]
            raise _error(f"{names.file} names {missing!r} for {split}, which is not in {folder}")
        return Split(images=str(names.file), annotations=str(folder), names=str(names.file))
    place = there[0] if there else next(_usual(folder, split), None)
    if place is None:
        return None
    annotations = _labels_of(place) if place.is_dir() else folder
    return Split(images=str(place), annotations=str(annotations), names=str(names.file))


def _usual(folder: Path, split: SplitName) -> Iterator[Path]:
    return (folder / place for place in PLACES[split] if (folder / place).is_dir())


def _labels_of(images: Path) -> Path:
    """The folder of labels for a folder of pictures; the same one where labels lie beside their pictures."""
    labels = label_file(images / "x").parent
    if labels == images or labels.is_dir():
        return labels
    beside = (images / "labels").is_dir() or any(path.suffix == ".txt" for path in images.iterdir())
    return images if beside else labels


def _nowhere(split: SplitName, names: DataYaml, folder: Path) -> DataError:
    said = f"{names.splits[split][0]!r}" if names.splits.get(split) else "nothing"
    looked = ", ".join(f"{place}/" for place in PLACES[split])
    hint = f"Correct `{split}` in {names.file.name}, or spell out data.train and data.val in the spec."
    return _error(
        f"{names.file} names {said} for {split}; in {folder} there is none of it, nor {looked}", hint
    )


def _error(message: str, hint: str = "") -> DataError:
    return DataError([Problem(loc=("data", "path"), message=message, hint=hint)])
