"""Recognises the layouts of YOLO data sets: from `data.yaml`, or else from the usual places of pictures.

    data.yaml      train and val: folders, text files that list pictures, or several of either
    images/train   images/val, with labels/train and labels/val
    train/images   valid/images or val/images, with labels/ beside (Roboflow)
    images/        labels/ and classes.txt (Label Studio): not divided into splits

Paths in `data.yaml` may be wrong after a download (of another machine); then the usual places are tried,
with a remark.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from gkd_core.config import SPLITS, TO_TRAIN, Split, SplitName
from gkd_core.data.data_yaml import YAML, DataYaml, NamesError, read_names
from gkd_core.data.layout import Found, layout_error
from gkd_core.data.split_names import files_with_suffix, split_folders, subfolder
from gkd_core.data.yolo import CLASSES, label_file
from gkd_core.data.yolo_pictures import possible_places, with_slashes

NAME = "YOLO"
USUAL = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
DARKNET = ("obj.data", "obj.names")
"""Files of CVAT's export for Darknet."""


def find_yolo(place: Path) -> Found | None:
    """Return the layout that a folder or a `data.yaml` has; None where nothing indicates YOLO.

    Raises:
        DataError: there is a `data.yaml`, and it is wrong.
    """
    file = place if place.is_file() else _names_file(place)
    if file is None:
        return _without_names(place)
    try:
        names = read_names(file)
    except NamesError as error:
        raise layout_error(f"{file} {error}") from error
    folder = names.root if file.suffix.lower() in YAML else place
    found = {split: _split(split, names, folder) for split in SPLITS}
    splits = {split: each for split, each in found.items() if each}
    whole = _undivided(folder, names)
    if not splits and whole and not names.splits.get("train"):
        missing = "all pictures are in images/, and the validation split is missing"
        return Found(NAME, {"train": whole}, missing)
    missing = "; ".join(_missing_text(split, names, folder) for split in TO_TRAIN if split not in splits)
    return Found(NAME, splits, missing)


def _names_file(folder: Path) -> Path | None:
    """Return the file that names the classes: data.yaml, another YAML that does, or classes.txt."""
    for name in USUAL:
        if (folder / name).is_file():
            return folder / name
    others = [path for path in files_with_suffix(folder, *YAML) if _has_names(path)]
    if len(others) == 1:
        return others[0]
    lists = [path for path in (folder / CLASSES, folder / "labels" / CLASSES) if path.is_file()]
    laid_out = any(next(_usual_folders(folder, split), None) for split in SPLITS) or subfolder(
        folder, "images"
    )
    return lists[0] if lists and laid_out else None


def _without_names(folder: Path) -> Found | None:
    """Return a layout that lacks the names of the classes where label files exist."""
    darknet = next((name for name in DARKNET if (folder / name).is_file()), None)
    if darknet:
        missing = f"{darknet} is there, data.yaml is missing: export it as YOLO for Ultralytics"
        return Found(f"{NAME} for Darknet", {}, missing)
    places = [labels for parent in _label_parents(folder) if (labels := subfolder(parent, "labels"))]
    inside = [each for place in places for each in (place, *split_folders(place, "train"))]
    if any(files_with_suffix(each, ".txt") for each in inside):
        return Found(NAME, {}, "data.yaml (or classes.txt), which names the classes, is missing")
    return None


def _label_parents(folder: Path) -> Iterator[Path]:
    yield folder
    yield from split_folders(folder, "train")


def _undivided(folder: Path, names: DataYaml) -> Split | None:
    images, labels = subfolder(folder, "images"), subfolder(folder, "labels")
    if images is None or labels is None:
        return None
    return Split(images=str(images), annotations=str(labels), names=str(names.file))


def _has_names(file: Path) -> bool:
    try:
        return any(read_names(file).splits.values())
    except NamesError:
        return False


def _split(split: SplitName, names: DataYaml, folder: Path) -> Split | None:
    """Return the paths of a split; None where it is not found."""
    said = names.splits.get(split, ())
    found = [next(filter(os.path.exists, possible_places(folder, entry)), None) for entry in said]
    there = [place for place in found if place]
    if len(said) > 1:
        if len(there) < len(said):
            missing = said[found.index(None)]
            hint = with_slashes([missing])
            raise layout_error(f"{names.file} names {missing!r} for {split}, which is not in {folder}", hint)
        return Split(images=str(names.file), annotations=str(folder), names=str(names.file))
    place = there[0] if there else next(_usual_folders(folder, split), None)
    if place is None:
        return None
    annotations = _labels_of(place) if place.is_dir() else folder
    return Split(images=str(place), annotations=str(annotations), names=str(names.file))


def _usual_folders(folder: Path, split: SplitName) -> Iterator[Path]:
    """Yield the existing folders where the pictures of a split usually lie."""
    if images := subfolder(folder, "images"):
        yield from split_folders(images, split)
    for place in split_folders(folder, split):
        yield subfolder(place, "images") or place


def _labels_of(images: Path) -> Path:
    """Return the folder of labels for a folder of pictures; the same one where they lie beside their pictures."""
    labels = label_file(images / "x").parent
    if labels == images or labels.is_dir():
        return labels
    beside = (images / "labels").is_dir() or any(path.suffix == ".txt" for path in images.iterdir())
    return images if beside else labels


def _missing_text(split: SplitName, names: DataYaml, folder: Path) -> str:
    """Return the message for a split whose pictures are not found."""
    said = names.splits.get(split, ())
    word = f"'{said[0]}'" if said else "nothing"
    return (
        f"{names.file} names {word} for {split}; in {folder} there is none of it, "
        f"nor images/{split}/, {split}/images/ or {split}/"
        + (f". {back}" if (back := with_slashes(said)) else "")
    )
