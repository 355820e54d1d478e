"""YOLO annotations: one text file a picture, one line an object: class, centre x, centre y, width, height.

The numbers are fractions of the picture. A line of three points or more is a polygon, whose bounding box is taken.
Labels lie where the pictures lie, with the last `images` of the path replaced by `labels`; a picture without a file
of labels has no objects. A list of pictures may not name pictures outside the folders of a split; links in them are
followed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gkd_core.config import Split
from gkd_core.data.data_yaml import DataYaml, NamesError, read_names
from gkd_core.data.findings import Findings, few
from gkd_core.data.folders import NOWHERE, dead_link_above, files_below
from gkd_core.data.records import WrittenImage, WrittenSplit
from gkd_core.data.yolo_labels import LabelContext, UnusableLabels, read_objects
from gkd_core.data.yolo_pictures import find_pictures, possible_places

CLASSES = "classes.txt"
"""File in which labelling tools name the classes, one a line, sometimes beside the labels."""


def read_yolo(split: Split, findings: Findings) -> WrittenSplit:
    """Read one split; lines left out and other oddities go to `findings`.

    Pictures are numbered from 1 in the order of their paths, or of the list that names them.

    Raises:
        DataError: there are no pictures or no class names, or a line can mean several things.
    """
    names = _names(split, findings)
    folder, pictures = find_pictures(split, names, findings)
    place = Path(os.path.normpath(split.annotations))
    files = [place / label_file(picture.relative_to(folder)) for picture in pictures]
    _remark_on_files(files, pictures, place, findings)
    if place != folder:
        _remark_on_orphans(files, place, findings)
    classes = tuple(dict.fromkeys(names.names.values()))
    position = {name: label for label, name in enumerate(classes, start=1)}
    label_of = {number: position[name] for number, name in names.names.items()}
    labels = LabelContext(label_of, names.names, frozenset(classes), names.keypoints, findings)
    written = []
    for number, (picture, file) in enumerate(zip(pictures, files, strict=True), start=1):
        shown = str(file.relative_to(place))
        try:
            objects = list(read_objects(file, shown, labels))
            written.append(WrittenImage(number, picture, None, objects, fractions=True))
        except UnusableLabels as flaw:
            findings.add(shown, f"picture left out: {flaw}")
    return WrittenSplit(classes, folder, written)


def label_file(picture: Path) -> Path:
    """Return the path of a picture's labels: its last folder called `images` is replaced by `labels`."""
    parts = list(picture.parent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts, f"{picture.stem}.txt")


# ---- classes -----------------------------------------------------------------------------------------------


def _names(split: Split, findings: Findings) -> DataYaml:
    if split.names is None:
        hint = "Name the data.yaml (or a text file with one class a line) in the spec: `names` of this split."
        raise findings.error("nothing names the classes", hint, field="names")
    file = Path(split.names)
    try:
        names = read_names(file)
    except NamesError as error:
        raise findings.error(f"{file} {error}", field="names") from error
    _remark_on_names(names, split, findings)
    return names


def _remark_on_names(names: DataYaml, split: Split, findings: Findings) -> None:
    file = names.file.name
    if names.download:
        findings.add(file, "`download` is ignored: nothing is downloaded or run")
    if names.unnamed:
        findings.add(
            file, "has no names for its classes; they are called by number", "data.rename names them."
        )
    if len(set(names.names.values())) < len(names.names):
        findings.add(file, "several classes have one name; taken as one class")
    said = names.splits.get(findings.split, ())
    places = {os.path.normpath(place) for entry in said for place in possible_places(names.root, entry)}
    if said and os.path.normpath(split.images) not in {*places, os.path.normpath(names.file)}:
        findings.add(
            few(said), f"{file} names another place for the pictures; they were read from {split.images}"
        )


# ---- pictures and their labels ---------------------------------------------------------------------------


def _remark_on_files(
    files: Sequence[Path], pictures: Sequence[Path], place: Path, findings: Findings
) -> None:
    """Remark on pictures and files of labels that do not match each other."""
    without = [
        (picture, file) for picture, file in zip(pictures, files, strict=True) if not os.path.exists(file)
    ]
    missing = [picture.name for picture, _ in without]
    dead = (dead_link_above(folder) for folder in dict.fromkeys(file.parent for _, file in without))
    for link in dict.fromkeys(filter(None, dead)):
        findings.add(os.path.relpath(link, place), NOWHERE)
    if not place.is_dir() or len(missing) == len(files):
        hint = "Labels lie where the pictures lie, with `labels` in place of `images`."
        raise findings.error(f"no file of labels for any of {len(files)} pictures, such as {files[0]}", hint)
    if 2 * len(missing) > len(files):
        message = f"most pictures have no file of labels, and count as empty: {len(missing)} of {len(files)}"
        findings.add(few(missing), message)
    seen: dict[Path, Path] = {}
    for picture, file in zip(pictures, files, strict=True):
        if seen.setdefault(file, picture) != picture:
            findings.add(f"{seen[file].name}, {picture.name}", "pictures share one file of labels")


def _remark_on_orphans(files: Sequence[Path], place: Path, findings: Findings) -> None:
    known = set(files)

    def passed_over(path: Path, why: str) -> None:
        if why != NOWHERE:  # reported where the picture or folder of labels is missing
            findings.add(os.path.relpath(path, place.parent), f"labels: {why}")

    for file in files_below(place, passed_over):
        if file.suffix.lower() == ".txt" and file.name != CLASSES and file not in known:
            findings.add(str(file.relative_to(place)), "file of labels without a picture; not used")
