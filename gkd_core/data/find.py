"""Recognises the layout of a folder, so that a person need only name it.

    COCO      annotations/ or coco/ or the folder itself with instances_train*.json and instances_val*.json, or
              train.json and val.json; pictures in the folder, images/, JPEGImages/, train*/,
              images/train*/ ...
    Roboflow  train/_annotations.coco.json and valid/_annotations.coco.json, pictures beside them
    VOC       Annotations/, JPEGImages/, ImageSets/Main/train.txt and val.txt
    YOLO      data.yaml, or classes.txt with images/train and images/val (see `find_yolo`)

A test split is found in the same places, called `test`, and may be absent.
Where several formats are there, COCO is taken before VOC and VOC before YOLO: COCO says most, and VOC needs no
fractions.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from pathlib import Path

from gkd_core.config import SPLITS, TO_TRAIN, DataConfig, Split, SplitName
from gkd_core.data.data_yaml import YAML
from gkd_core.data.find_yolo import find_yolo
from gkd_core.errors import DataError, Problem

PROBED = 20
"""File names of a split that are looked for when its folder of pictures is sought."""
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


Found = dict[SplitName, Split]


def find_layout(
    config: DataConfig, base: Path | None = None, *, needs: Collection[SplitName] = TO_TRAIN
) -> DataConfig:
    """Return the config with the format and its splits filled in and every path under `base`.

    Args:
        config: the data set.
        base: what relative paths are relative to; None: the working directory.
        needs: the splits that must be there; none: at least one, whichever.

    Raises:
        DataError: the folder does not exist, has no known layout, or a split is missing; the message says what was
            looked for.
    """
    base = base or Path()
    if config.path is None:
        return _spelt_out(config, base, needs)
    place = base / config.path
    is_yaml = place.is_file() and place.suffix.lower() in YAML and config.format in ("auto", "yolo")
    if not (place.is_dir() or is_yaml):
        hint = "Paths are relative to the data root. A file can only be the data.yaml of a YOLO data set."
        raise _error(f"no such folder: {place}", hint)
    formats = [name for name in (("yolo",) if is_yaml else FORMATS) if config.format in ("auto", name)]
    if (best := _best(place, formats, needs)) is None:
        raise _not_a_data_set(place, config.format)
    return _filled_in(config, *best)


def _best(place: Path, formats: Collection[str], needs: Collection[SplitName]) -> tuple[str, Found] | None:
    """Return the first format that has all the splits that are needed; if none is, one to train on goes first."""
    found = ((name, FORMATS[name](place, needs)) for name in formats)
    enough = ((name, splits) for name, splits in found if splits and splits.keys() >= set(needs))
    if needs:
        return next(enough, None)
    return max(enough, key=lambda each: each[1].keys() >= set(TO_TRAIN), default=None)


def _filled_in(config: DataConfig, name: str, splits: Found) -> DataConfig:
    """Return the config with what was found in place of `path`."""
    return config.model_copy(update={"format": name, "path": None} | dict(splits))


def _spelt_out(config: DataConfig, base: Path, needs: Collection[SplitName]) -> DataConfig:
    if missing := [_missing(name) for name in SPLITS if name in needs and name not in config.splits]:
        raise DataError(missing)
    splits = {
        name: Split(
            images=str(base / split.images),
            annotations=str(base / split.annotations),
            names=str(base / split.names) if split.names else None,
        )
        for name, split in config.splits.items()
    }
    first = next(iter(splits.values()))
    return _filled_in(config, _format(first) if config.format == "auto" else config.format, splits)


def _missing(name: SplitName) -> Problem:
    hint = f"Spell it out: data.{name}. A single split is enough for a job of kind `evaluate`."
    return Problem(loc=("data", name), message=f"there is no `{name}` split", hint=hint)


def _format(split: Split) -> str:
    if not Path(split.annotations).is_dir():
        return "coco"
    named_as_yolo = split.names is not None and Path(split.names).suffix.lower() in YAML
    return "yolo" if named_as_yolo or Path(split.images).is_file() else "voc"


def _coco(folder: Path, needs: Collection[SplitName]) -> Found:
    pair = next(_annotation_pairs(folder), None)
    files = _beside(*pair) if pair else _one_by_one(folder)
    if not files.keys() >= set(needs):
        return {}
    return {name: _with_pictures(folder, file, name) for name, file in files.items()}


def _beside(train: Path, val: Path) -> dict[SplitName, Path]:
    """Return annotation files of train and val by split, with that of test where one lies beside them."""
    roboflow = train.parent.parent / "test" / train.name
    others = [train.with_name(train.name.replace("train", "test")), roboflow, *_without_boxes(train.parent)]
    test = next((file for file in others if file.is_file() and file not in (train, val)), None)
    found: dict[SplitName, Path] = {"train": train, "val": val}
    if test:
        found["test"] = test
    return found


def _without_boxes(place: Path) -> list[Path]:
    """Return files such as COCO's own `image_info_test2017.json`, which lists pictures only: the reader says so."""
    return sorted(place.glob("image_info_test*.json"), reverse=True)


def _one_by_one(folder: Path) -> dict[SplitName, Path]:
    """Return annotation files by split where train and val are not both there."""
    found = {name: next(_annotation_files(folder, name), None) for name in SPLITS}
    return {name: file for name, file in found.items() if file}


def _annotation_files(folder: Path, split: SplitName) -> Iterator[Path]:
    """Return the annotation files of one split, the likeliest first."""
    for place in (folder / "annotations", folder / "coco", folder):
        for pattern in (f"instances_{split}*.json", f"{split}*.json", f"*_{split}*.json"):
            yield from sorted(place.glob(pattern), reverse=True)
    files = [
        folder / name / "_annotations.coco.json" for name in (split, "valid" if split == "val" else split)
    ]
    yield from filter(Path.is_file, files)


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


def _with_pictures(folder: Path, annotations: Path, split: SplitName) -> Split:
    """Return the split with that folder of pictures that holds most of the first ones named.

    Raises:
        DataError: none does. Whether a test split can be used is left to who reads it.
    """
    names = list(islice(_file_names(annotations), PROBED))
    places = list(dict.fromkeys(_places(folder, annotations, split)))
    hits = {place: sum((place / name).is_file() for name in names) for place in places if place.is_dir()}
    best = max(hits, key=lambda place: hits[place])
    if names and hits[best] == 0 and split != "test":
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


def _places(folder: Path, annotations: Path, name: SplitName) -> Iterator[Path]:
    """Where the pictures of an annotation file may lie, the likeliest first."""
    split = annotations.stem.removeprefix("instances_")  # train2017
    for parent in (folder / "images", folder):
        yield from (parent / split, parent / name)
        yield from sorted(parent.glob(f"{name}*"), reverse=True)
    yield from (annotations.parent, folder / "images", folder / "JPEGImages", folder)


def _voc(folder: Path, needs: Collection[SplitName]) -> Found:
    annotations, images = folder / "Annotations", folder / "JPEGImages"
    lists: dict[SplitName, Path] = {split: folder / "ImageSets" / "Main" / f"{split}.txt" for split in SPLITS}
    if not (annotations.is_dir() and images.is_dir()):
        return {}
    return {
        split: Split(images=str(images), annotations=str(annotations), names=str(file))
        for split, file in lists.items()
        if file.is_file()
    }


Finder = Callable[[Path, Collection[SplitName]], Found]
"""Looks for a layout in a folder; gives the splits that are there."""
FORMATS: dict[str, Finder] = {"coco": _coco, "voc": _voc, "yolo": find_yolo}
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
