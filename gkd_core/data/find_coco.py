"""Recognises the layouts of COCO data sets.

    annotations/   or coco/ or the folder itself, with instances_train*.json and instances_val*.json, train.json and
                   val.json, or any two files that differ in the word for their split only (CVAT: instances_Train.json)
    train/         and valid/, each with one JSON file, such as _annotations.coco.json (Roboflow)
    one file       without a split in its name (CVAT: instances_default.json, Label Studio: result.json)

Pictures lie beside the annotations, or in a folder that is named after the split, or in images/ and the like.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from gkd_core.config import SPLITS, TO_TRAIN, Split, SplitName
from gkd_core.data.layout import Found, layout_error, shown
from gkd_core.data.split_names import files_with_suffix, named, split_folders, split_of, subfolder, subfolders
from gkd_core.process.named_files import NotToBeRead, open_named

PROBED = 20
"""File names of a split that are looked up to find its folder of pictures."""
PEEKED = 64
"""Limit of the files without a split in their name that are opened: folders may hold a JSON file for every picture."""
STANDARD = "instances_{}"
UNDIVIDED = ("instances_default", "result")
"""Name of the file of all pictures in exports of CVAT and Label Studio."""
IMAGE_INFO = "image_info_{}"
"""COCO's own lists of the pictures of its test splits, which have no boxes; the reader reports that."""
ROBOFLOW = "_annotations.coco"
BESIDE = re.compile(r"captions_|person_keypoints_|stuff_|panoptic_")
"""Other files in COCO's folder of annotations: no candidates where a file with a standard name exists."""
PICTURES = ("images", "imgs", "img", "JPEGImages", "data")
"""Names of folders of pictures that are not named after a split."""
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_ROOT = re.compile(rb'"(?:images|annotations|categories)"\s*:\s*\[')


class _Candidate(NamedTuple):
    """A file that may hold the annotations of a split."""

    file: Path
    rest: str
    """The part of its name that files of other splits have too."""

    @property
    def rank(self) -> tuple[int, int]:
        """Return the sort key: exact standard names first, then later years, then all others."""
        if self.rest in (STANDARD, ROBOFLOW):
            return 0, 0
        if self.rest == "{}":
            return 1, 0
        if self.rest.startswith(IMAGE_INFO):
            return 5, 0
        if match := re.fullmatch(r"(instances_)?\{\}[-_]?((?:19|20)\d\d)", self.rest):
            return 2 if match.group(1) else 3, -int(match.group(2))
        return 4, 0

    @property
    def is_standard(self) -> bool:
        return self.rank[0] < 4


_BySplit = dict[SplitName, list[_Candidate]]


def find_coco(folder: Path) -> Found | None:
    """Return the layout that a folder has as a COCO data set; None where nothing indicates one.

    Raises:
        DataError: several files may be meant, or the pictures are nowhere.
    """
    parts = []
    for candidates in _places(folder):
        if {"train", "val"} <= candidates.keys():
            return _found(folder, candidates)
        if candidates:
            parts.append(candidates)
    if parts:
        return _found(folder, parts[0])
    return _undivided(folder)


def _places(folder: Path) -> Iterator[_BySplit]:
    """Yield the candidates of each place, the likeliest place first."""
    for place in _annotation_folders(folder):
        candidates: _BySplit = {}
        for file in files_with_suffix(place, ".json"):
            if (each := named(file.stem)) and not BESIDE.match(each.rest):
                candidates.setdefault(each.split, []).append(_Candidate(file, each.rest))
        yield candidates
    yield _in_split_folders(folder)


def _annotation_folders(folder: Path) -> Iterator[Path]:
    for name in ("annotations", "annotation", "coco", "labels"):
        if place := subfolder(folder, name):
            yield place
    yield folder


def _in_split_folders(folder: Path) -> _BySplit:
    """Return the files of folders that are named after a split, such as Roboflow's."""
    candidates: _BySplit = {}
    for split in SPLITS:
        for place in split_folders(folder, split):
            inside = [place, subfolder(place, "annotations")]
            files = [file for each in inside if each for file in _looks_like_coco(each)]
            if files and split not in candidates:
                candidates[split] = [_Candidate(file, _name_without_split(file)) for file in files]
    return candidates


def _name_without_split(file: Path) -> str:
    each = named(file.stem)
    return each.rest if each else file.stem.casefold()


def _looks_like_coco(place: Path) -> list[Path]:
    """Return the JSON files of a folder that are COCO's by their names or their first bytes."""
    files = files_with_suffix(place, ".json")
    exact = [file for file in files if file.stem.casefold() == ROBOFLOW]
    return exact or [file for file in files[:PEEKED] if _is_coco(file)]


def _is_coco(file: Path) -> bool:
    """Return whether a file has COCO's lists, without parsing it."""
    if file.stat().st_size == 0:
        return False
    try:
        with open_named(file) as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return len({match.group() for match in islice(_ROOT.finditer(text), 8)}) > 1
    except NotToBeRead:  # a FIFO, or a link that leads out
        return False


# ---- which files -------------------------------------------------------------------------------------------


def _found(folder: Path, candidates: _BySplit) -> Found:
    chosen = _chosen_files(folder, candidates)
    splits = {split: _with_pictures(folder, each.file, split) for split, each in chosen.items()}
    others = [each for split in chosen for each in candidates[split] if each != chosen[split]]
    not_read = tuple(shown(each.file, folder) for each in others if each.rest != IMAGE_INFO)
    roboflow = any(each.rest == ROBOFLOW for each in chosen.values())
    return Found("COCO" + " (Roboflow)" * roboflow, splits, _missing_files(folder, chosen), not_read=not_read)


def _chosen_files(folder: Path, candidates: _BySplit) -> dict[SplitName, _Candidate]:
    """Return one file for each split, whose names match each other if any do.

    Raises:
        DataError: several files may be meant, and none of them has a standard name.
    """
    learning = [candidates[split] for split in ("train", "val") if split in candidates]
    shared = set.intersection(*({each.rest for each in pool} for pool in learning or candidates.values()))
    chosen: dict[SplitName, _Candidate] = {}
    for split in SPLITS:
        pool = [each for each in candidates.get(split, ()) if each.rest in shared] or candidates.get(split)
        if not pool:
            continue
        best = min(pool, key=lambda each: each.rank)
        if len(pool) > 1 and not best.is_standard and split != "test":
            raise _ambiguous_files(folder, [each.file for each in pool], f"of the {split} split ")
        chosen[split] = best
    return chosen


def _ambiguous_files(folder: Path, files: Sequence[Path], of: str = "") -> Exception:
    listed = ", ".join(shown(file, folder) for file in files[:5]) + " and more" * (len(files) > 5)
    message = f"{folder} has several files that may be the annotations {of}(COCO): {listed}"
    hint = "Spell out data.train and data.val with the right ones, or move the others elsewhere."
    return layout_error(message, hint)


def _missing_files(folder: Path, chosen: dict[SplitName, _Candidate]) -> str:
    """Return the names of the files that are missing beside those that exist."""
    lacking = [split for split in TO_TRAIN if split not in chosen]
    if not lacking:
        return ""
    there = next(iter(chosen.values()))
    names = " and ".join(_name_for(split, there) for split in lacking)
    words = " and ".join(f"the {WHICH[split]} split" for split in lacking)
    return f"{shown(there.file, folder)} is there, the annotations of {words} ({names}) are missing"


WHICH = {"train": "training", "val": "validation"}


def _name_for(split: SplitName, beside: _Candidate) -> str:
    if "{}" in beside.rest:
        return beside.rest.replace("{}", split) + ".json"
    return f"{'valid' if split == 'val' else split}/{beside.file.name}"


def _undivided(folder: Path) -> Found | None:
    """Return the contents of the only COCO file where no name says a split."""
    for place in _annotation_folders(folder):
        files = [file for file in _looks_like_coco(place) if split_of(file.stem) is None]
        exact = [file for file in files if file.stem.casefold() in UNDIVIDED]
        if len(files) > 1 and len(exact) != 1:
            raise _ambiguous_files(folder, files)
        if files:
            file = (exact or files)[0]
            missing = (
                f"all pictures are in one file, {shown(file, folder)}, and the validation split is missing"
            )
            others = tuple(shown(each, folder) for each in files if each != file)
            return Found("COCO", {"train": _with_pictures(folder, file, None)}, missing, others)
    return None


# ---- where the pictures lie --------------------------------------------------------------------------------


def _with_pictures(folder: Path, annotations: Path, split: SplitName | None) -> Split:
    """Return the split with the folder of pictures that holds the first ones named.

    Folders beside the annotations come first; of the other places, the one that holds most is taken.

    Raises:
        DataError: no place holds any of them. A test split raises none: its reader decides whether it can be used.
    """
    names = list(islice(_file_names(annotations), PROBED))
    beside = [place for place in _beside(annotations) if place.is_dir()]
    places = list(dict.fromkeys([*beside, *_elsewhere(folder, annotations, split)]))
    hits = {place: sum((place / name).is_file() for name in names) for place in places}
    best = max(hits, key=lambda place: (place in beside and 2 * hits[place] >= len(names), hits[place]))
    if names and hits[best] == 0 and split != "test":
        looked = ", ".join(shown(place, folder) for place in hits)
        backslashes = "\\" in names[0]
        hint = "Name the folders of pictures in the spec: data.train.images and data.val.images."
        hint = "Its `file_name`s have backslashes; write / in their place. " * backslashes + hint
        raise layout_error(
            f"the pictures of {annotations} are nowhere: looked for {names[0]!r} in {looked}", hint
        )
    return Split(images=str(best), annotations=str(annotations))


def _file_names(annotations: Path) -> Iterator[str]:
    """Yield the pictures named in a COCO file, without parsing all of it; names that leave the folder are skipped."""
    if annotations.stat().st_size == 0:
        return
    with open_named(annotations) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for match in _FILE_NAME.finditer(text):
            try:
                name = json.loads(match.group(1))
            except ValueError:
                continue
            if name and "\0" not in name and not os.path.normpath(name).startswith(("/", "..")):
                yield name


def _beside(annotations: Path) -> Iterator[Path]:
    """Yield the folder of the annotations and those inside it that may hold their pictures, such as train/images/."""
    yield annotations.parent
    for name in PICTURES:
        if place := subfolder(annotations.parent, name):
            yield place


def _elsewhere(folder: Path, annotations: Path, split: SplitName | None) -> Iterator[Path]:
    """Yield the other places where the pictures may lie, the likeliest first; never those of another split."""
    subset = annotations.stem.removeprefix("instances_")  # train2017, default
    parents = [place for name in PICTURES if (place := subfolder(folder, name))]
    for parent in (*parents, folder):
        if exact := subfolder(parent, subset):
            yield from _and_inside(exact)
        for place in split_folders(parent, split) if split else ():
            yield from _and_inside(place)
    yield from parents
    yield folder
    for parent in parents:
        yield from (place for place in subfolders(parent) if split_of(place.name) is None)


def _and_inside(place: Path) -> Iterator[Path]:
    yield place
    if images := subfolder(place, "images"):
        yield images
