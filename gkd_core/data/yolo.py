"""YOLO annotations: one text file a picture, one line an object: class, centre x, centre y, width, height.

The numbers are fractions of the picture. A line of three points or more is a polygon, whose bounding box is taken.
Labels lie where the pictures lie, with the last `images` of the path replaced by `labels`; a picture without a file
of labels has no objects. A list of pictures may not name pictures outside the folders of a split; links in them are
followed.
"""

from __future__ import annotations

import errno
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from gkd_core.config import Split
from gkd_core.data.data_yaml import YAML, DataYaml, NamesError, read_names
from gkd_core.data.findings import Findings, few
from gkd_core.data.folders import LONGEST_PATH, NOWHERE, dead_link_above, files_below, is_picture_name
from gkd_core.data.records import WrittenImage, WrittenObject, WrittenSplit
from gkd_core.errors import DISK_AND_NETWORK
from gkd_core.process.named_files import read_named

MAX_BYTES = 16 * 1024**2
"""Largest size of one file of labels."""
CLASSES = "classes.txt"
"""File in which labelling tools name the classes, one a line, sometimes beside the labels."""
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
REACH = 1.0
"""How far a fraction may lie beyond 0 or 1. Corners of rotated boxes, outlines and boxes of truncated objects reach
over the border, and their bounds are clipped; larger values are no fractions but pixels."""


class _Unusable(Exception):
    """Raised when one file of labels, or one line of it, cannot be used; says why."""


class _Labels(NamedTuple):
    """The data needed to read a line."""

    label_of: Mapping[int, int]
    """Labels by the class numbers of the files."""
    names: Mapping[int, str]
    known: frozenset[str]
    """The class names."""
    keypoints: bool
    findings: Findings


def read_yolo(split: Split, findings: Findings) -> WrittenSplit:
    """Read one split; lines left out and other oddities go to `findings`.

    Pictures are numbered from 1 in the order of their paths, or of the list that names them.

    Raises:
        DataError: there are no pictures or no class names, or a line can mean several things.
    """
    names = _names(split, findings)
    folder, pictures = _pictures(split, names, findings)
    place = Path(os.path.normpath(split.annotations))
    files = [place / label_file(picture.relative_to(folder)) for picture in pictures]
    _remark_on_files(files, pictures, place, findings)
    if place != folder:
        _remark_on_orphans(files, place, findings)
    classes = tuple(dict.fromkeys(names.names.values()))
    position = {name: label for label, name in enumerate(classes, start=1)}
    label_of = {number: position[name] for number, name in names.names.items()}
    labels = _Labels(label_of, names.names, frozenset(classes), names.keypoints, findings)
    written = []
    for number, (picture, file) in enumerate(zip(pictures, files, strict=True), start=1):
        shown = str(file.relative_to(place))
        try:
            objects = list(_objects(file, shown, labels))
            written.append(WrittenImage(number, picture, None, objects, fractions=True))
        except _Unusable as flaw:
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


# ---- pictures ----------------------------------------------------------------------------------------------


def _pictures(split: Split, names: DataYaml, findings: Findings) -> tuple[Path, list[Path]]:
    """Return the folder that all pictures lie in, and the pictures, each once."""
    images, root = Path(os.path.normpath(split.images)), Path(os.path.normpath(split.annotations))
    if images.is_dir():
        return images, list(walk(images, findings)) or _raise_no_pictures(images, findings)
    if images.suffix.lower() in YAML:
        named = list(_pictures_of_entries(root, names.splits.get(findings.split, ()), findings))
    else:
        named = list(_listed_pictures(images, root, findings))
    once = Counter(named)
    _refuse_absent(list(once), images, root, findings)
    for picture, times in once.items() if len(once) < len(named) else ():
        if times > 1:
            findings.add(picture.name, "picture listed twice; used once")
    return root, list(once) or _raise_no_pictures(images, findings)


def _refuse_absent(pictures: Sequence[Path], file: Path, root: Path, findings: Findings) -> None:
    """Check for missing pictures of a list before their labels are looked for: then the list is what is wrong.

    Raises:
        DataError: one of them is missing.
    """
    absent = [os.path.relpath(picture, root) for picture in pictures if not os.path.exists(picture)]
    if absent:
        names = few([f"{name:.200}" for name in absent])
        message = f"missing in {root}: {len(absent)} of {len(pictures)} pictures ({names}) that {file} names"
        raise findings.error(message, _absent_hint(absent[0], root, file), field="images")


def _absent_hint(name: str, root: Path, file: Path) -> str:
    """Return a hint where the same picture is found under the end of its path."""
    if "\\" in name:
        return with_slashes([name])
    if len(name) < LONGEST_PATH and (link := dead_link_above(root / name)):
        return f"{link} is a link that leads nowhere."
    folders = Path(name).parts
    for count in range(1, len(folders)):
        rest = Path(*folders[count:])
        if len(name) < LONGEST_PATH and (root / rest).is_file():
            return f"{rest} is there: take `{Path(*folders[:count])}/` off the lines of {file.name}."
    return f"Paths in {file.name} are relative to its folder, or to that of the data set."


def _raise_no_pictures(images: Path, findings: Findings) -> NoReturn:
    raise findings.error(f"no pictures: {images} has none", field="images")


def walk(folder: Path, findings: Findings) -> Iterator[Path]:
    """Return all pictures below a folder, also through links; links that are not followed are reported."""

    def passed_over(path: Path, why: str) -> None:
        findings.add(os.path.relpath(path, folder.parent), why)

    return (path for path in files_below(folder, passed_over) if is_picture_name(path.name))


def possible_places(root: Path, entry: str) -> Iterator[Path]:
    """Yield the folders that an entry of data.yaml may mean. Roboflow writes `../train/images` for `train/images`."""
    yield Path(os.path.normpath(root / entry))
    if entry.startswith("../"):
        yield Path(os.path.normpath(root / entry.lstrip("./")))


def with_slashes(entries: Sequence[str]) -> str:
    """Return a hint with slashes for Windows paths; empty where there are none."""
    wrong = [entry for entry in entries if "\\" in entry]
    if not wrong:
        return ""
    right = ", ".join(f"`{entry.replace(chr(92), '/')}`" for entry in wrong[:3])
    return f"Paths with backslashes work on Windows only: write {right}, relative to the data set."


def _pictures_of_entries(root: Path, entries: Sequence[str], findings: Findings) -> Iterator[Path]:
    """Yield the pictures of all entries that data.yaml gives for a split."""
    for entry in entries:
        there = next((place for place in possible_places(root, entry) if os.path.exists(place)), None)
        if there is None:
            raise findings.error(f"there is no {entry!r} in {root}, which data.yaml names", field="images")
        place = _path_below(there, root)
        if place is None:
            raise _leads_out(f"data.yaml names {entry!r}", root, findings)
        if place.is_dir():
            yield from walk(place, findings)
        else:
            yield from _listed_pictures(place, root, findings)


def _listed_pictures(file: Path, root: Path, findings: Findings) -> Iterator[Path]:
    """Yield the pictures that a text file lists, relative to its folder or to that of the data set."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise findings.error(f"{file} is larger than {MAX_BYTES} bytes", field="images")
        lines = read_named(file).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise findings.error(f"{file} cannot be read: {error.strerror}", field="images") from error
    except UnicodeDecodeError as error:
        hint = "`images` is a folder of pictures, or a text file that lists them."
        raise findings.error(f"{file} is not UTF-8 at byte {error.start}", hint, field="images") from error
    for line in filter(None, map(str.strip, lines)):
        places = [Path(os.path.normpath(folder / line)) for folder in (file.parent, root)]
        inside = [place for place in (_path_below(place, root) for place in places) if place]
        if not inside:
            raise _leads_out(f"{file} names {line!r:.200}", root, findings)
        yield next((place for place in inside if os.path.exists(place)), inside[0])


def _path_below(place: Path, root: Path) -> Path | None:
    """Return the path below `root`, also where it is written with an alias of that folder; None outside of it."""
    if "\0" in str(place):
        return None
    if place.is_relative_to(root):
        return place
    real_root = Path(os.path.realpath(root))
    named = place if place.is_dir() else place.parent  # a picture may itself be a link
    real = Path(os.path.realpath(named), "" if named == place else place.name)
    return root / real.relative_to(real_root) if real.is_relative_to(real_root) else None


def _leads_out(what: str, root: Path, findings: Findings) -> Exception:
    hint = "A list of pictures stays inside the folder that holds images/ and labels/ (`annotations` in the spec)."
    return findings.error(f"{what}, which leads out of {root}", hint, field="images")


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


# ---- lines -------------------------------------------------------------------------------------------------


def _objects(file: Path, shown: str, labels: _Labels) -> Iterator[WrittenObject]:
    for number, line in enumerate(_lines(file), start=1):
        name = f"{shown} line {number}"
        if not line.strip():
            continue
        try:
            yield _object(name, line, labels)
        except _Unusable as flaw:
            labels.findings.add(name, f"box left out: {flaw}")


def _lines(file: Path) -> list[str]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise _Unusable(f"its labels are larger than {MAX_BYTES} bytes")
        return read_named(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise _Unusable("its labels are no text") from error
    except OSError as error:
        if error.errno in NO_FILE and not os.path.islink(file):
            return []
        if error.errno in DISK_AND_NETWORK:
            raise
        raise _Unusable(f"its labels cannot be read: {error.strerror}") from error


def _object(name: str, line: str, labels: _Labels) -> WrittenObject:
    if "," in line:
        hint = (
            "Each line is: class, centre x, centre y, width, height, with blanks between and decimal points."
        )
        raise labels.findings.error(f"{name} has commas in or between its numbers", hint)
    columns = line.split()
    if len(columns) < 5:
        raise _Unusable("it has fewer than five numbers")
    if labels.keypoints and len(columns) > 5:
        labels.findings.add(name, "key points behind the box are not used")
        columns = columns[:5]
    number, numbers = _class_number(columns[0], labels), [_number(text) for text in columns[1:]]
    label = _label(name, number, labels)
    if len(numbers) == 5:
        labels.findings.add(name, "the sixth number (a score?) is not used")
        numbers = numbers[:4]
    if len(numbers) % 2:
        raise _Unusable("its numbers are neither a box nor a polygon")
    if not all(-REACH <= fraction <= 1 + REACH for fraction in numbers):
        raise _Unusable("its numbers are no fractions of the picture (0 to 1)")
    if len(numbers) > 4:
        labels.findings.add(name, "polygon; its bounding box was taken")
        return WrittenObject(name, _bounds(numbers), label, False, _polygon_area(numbers))
    return WrittenObject(name, _corners(*numbers), label, False, numbers[2] * numbers[3])


def _class_number(text: str, labels: _Labels) -> int:
    try:
        number = float(text)
    except ValueError:
        why = "its class is a name" if text in labels.known else "its class is no number"
        raise _Unusable(f"{why}; needed: the number that `names` gives it") from None
    if not number.is_integer():
        raise _Unusable("its class is no whole number")
    return int(number)


def _label(name: str, number: int, labels: _Labels) -> int:
    if number not in labels.label_of:
        known = few([f"{key} {text}" for key, text in labels.names.items()])
        message = f"{name} has class {str(number)[:20]}, which `names` does not list ({known})"
        raise labels.findings.error(message, "List the class, or take the line out.")
    return labels.label_of[number]


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _Unusable("it has something else than finite numbers")
    return number


def _corners(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    if width <= 0 or height <= 0:
        raise _Unusable("its width or height is not above 0")
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _bounds(points: Sequence[float]) -> tuple[float, float, float, float]:
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def _polygon_area(points: Sequence[float]) -> float:
    """Return the area of a polygon (shoelace formula); that of its bounding box where it is folded to nothing."""
    xs, ys = points[::2], points[1::2]
    doubled = sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))
    x1, y1, x2, y2 = _bounds(points)
    return abs(doubled) / 2 or (x2 - x1) * (y2 - y1)
