"""Recognises the layout of a folder, so that a person need only name it.

    COCO      annotations/ or coco/ or the folder itself with instances_train*.json and instances_val*.json, or
              train.json and val.json; pictures in the folder, images/, JPEGImages/, train*/,
              images/train*/ ...
    Roboflow  train/_annotations.coco.json and valid/_annotations.coco.json, pictures beside them
    VOC       Annotations/, JPEGImages/, ImageSets/Main/train.txt and val.txt
    YOLO      data.yaml, or classes.txt with images/train and images/val (see `find_yolo`)

Where several formats are there, COCO is taken before VOC and VOC before YOLO: COCO says most, and VOC needs no
fractions.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from gkd_core.config import DataConfig, Split
from gkd_core.data.data_yaml import YAML
from gkd_core.data.find_yolo import find_yolo
from gkd_core.errors import DataError, Problem

PROBED = 20
"""File names of a split that are looked for when its folder of pictures is sought."""
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


def find_layout(config: DataConfig, base: Path | None = None) -> DataConfig:
    """The config with the format and both splits filled in and every path under `base`.

    Raises:
        DataError: the folder does not exist or has no known layout; the message says what was looked for.
    """
    base = base or Path()
    if config.path is None:
        return _spelt_out(config, base)
    place = base / config.path
    is_yaml = place.is_file() and place.suffix.lower() in YAML and config.format in ("auto", "yolo")
    if not (place.is_dir() or is_yaml):
        hint = "Paths are relative to the data root. A file can only be the data.yaml of a YOLO data set."
        raise _error(f"no such folder: {place}", hint)
    known = {"yolo": find_yolo} if is_yaml else FORMATS
    for name, find in known.items():
        if config.format in ("auto", name) and (found := find(place)):
            return _filled_in(config, name, *found)
    raise _not_a_data_set(place, config.format)


def _filled_in(config: DataConfig, name: str, train: Split, val: Split) -> DataConfig:
    """The config with what was found in place of `path`."""
    return config.model_copy(update={"format": name, "path": None, "train": train, "val": val})


def _spelt_out(config: DataConfig, base: Path) -> DataConfig:
    assert config.train is not None  # the config's own rule
    assert config.val is not None
    train, val = (
        Split(
            images=str(base / split.images),
            annotations=str(base / split.annotations),
            names=str(base / split.names) if split.names else None,
        )
        for split in (config.train, config.val)
    )
    return _filled_in(config, _format(train) if config.format == "auto" else config.format, train, val)


def _format(split: Split) -> str:
    if not Path(split.annotations).is_dir():
        return "coco"
    named_as_yolo = split.names is not None and Path(split.names).suffix.lower() in YAML
    return "yolo" if named_as_yolo or Path(split.images).is_file() else "voc"


def _coco(folder: Path) -> tuple[Split, Split] | None:
    pair = next(_annotation_pairs(folder), None)
    return None if pair is None else (_with_pictures(folder, pair[0]), _with_pictures(folder, pair[1]))


def _annotation_pairs(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Annotation files of train and val that belong together, the likeliest first."""
    for place in (folder / "annotations", folder / "coco", folder):
        for pattern in ("instances_train*.json", "train*.json", "*train*.json"):
            for train in sorted(place.glob(pattern), reverse=True):  # the newest year first
                for name in ("val", "valid"):
                    yield from _if_there(train, place / train.name.replace("train", name))
    for name in ("valid", "val"):
        file = "_annotations.coco.json"
        yield from _if_there(folder / "train" / file, folder / name / file)


def _if_there(train: Path, val: Path) -> Iterator[tuple[Path, Path]]:
    if train.is_file() and val.is_file():
        yield train, val


def _with_pictures(folder: Path, annotations: Path) -> Split:
    """The split with that folder of pictures that holds most of the first ones named."""
    names = list(islice(_file_names(annotations), PROBED))
    places = list(dict.fromkeys(_places(folder, annotations)))
    hits = {place: sum((place / name).is_file() for name in names) for place in places if place.is_dir()}
    best = max(hits, key=lambda place: hits[place])
    if names and hits[best] == 0:
        looked = ", ".join(_shown(place, folder) for place in hits)
        hint = "Name the folders of pictures in the spec: data.train.images and data.val.images."
        raise _error(f"the pictures of {annotations} are nowhere: looked for {names[0]!r} in {looked}", hint)
    return Split(images=str(best), annotations=str(annotations))


def _file_names(annotations: Path) -> Iterator[str]:
    """The pictures named in a COCO file, without parsing all of it; names that lead elsewhere are passed over."""
    if annotations.stat().st_size == 0:
        return
    with annotations.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for match in _FILE_NAME.finditer(text):
            try:
                name = json.loads(match.group(1))
            except ValueError:
                continue
            if name and "\0" not in name and not os.path.normpath(name).startswith(("/", "..")):
                yield name


def _places(folder: Path, annotations: Path) -> Iterator[Path]:
    """Where the pictures of an annotation file may lie, the likeliest first."""
    split = annotations.stem.removeprefix("instances_")  # train2017
    short = "train" if "train" in split else "val"
    for parent in (folder / "images", folder):
        yield from (parent / split, parent / short)
        yield from sorted(parent.glob(f"{short}*"), reverse=True)
    yield from (annotations.parent, folder / "images", folder / "JPEGImages", folder)


def _voc(folder: Path) -> tuple[Split, Split] | None:
    annotations, images = folder / "Annotations", folder / "JPEGImages"
    lists = [folder / "ImageSets" / "Main" / f"{split}.txt" for split in ("train", "val")]
    if not (annotations.is_dir() and images.is_dir() and all(path.is_file() for path in lists)):
        return None
    train, val = (Split(images=str(images), annotations=str(annotations), names=str(path)) for path in lists)
    return train, val


FORMATS = {"coco": _coco, "voc": _voc, "yolo": find_yolo}
"""What looks for each layout, the first one first."""
LAYOUTS = {
    "coco": "COCO (instances_train*.json and instances_val*.json in annotations/, coco/ or the folder)",
    "voc": "VOC (Annotations/, JPEGImages/, ImageSets/Main/train.txt and val.txt)",
    "yolo": "YOLO (data.yaml, or classes.txt with images/train/ and images/val/)",
}


def _not_a_data_set(folder: Path, wanted: str) -> DataError:
    found = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "") or "nothing"
    looked = [layout for name, layout in LAYOUTS.items() if wanted in ("auto", name)]
    hint = "Name a folder with one of these layouts, or spell out data.train and data.val."
    return _error(f"{folder} is no data set: looked for {' and '.join(looked)}; found {shown}", hint)


def _shown(place: Path, folder: Path) -> str:
    return str(place.relative_to(folder)) + "/" if place != folder else "the folder itself"


def _error(message: str, hint: str = "") -> DataError:
    return DataError([Problem(loc=("data", "path"), message=message, hint=hint)])
