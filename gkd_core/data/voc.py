"""Pascal VOC annotations: one XML file a picture, and a text file that lists a split.

Coordinates are taken as they stand, without the one-pixel shift of the original data set: most tools that write
this format count from 0. Difficult objects are kept apart like COCO's crowd regions: no targets in training, and
neither hit nor miss in evaluation. Truncated objects, which go on beyond the picture, are objects like any other. A
picture whose XML cannot be used is left out and named.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from gkd_core.config import Split
from gkd_core.data.findings import Findings
from gkd_core.data.records import WrittenImage, WrittenObject, WrittenSplit

MAX_BYTES = 16 * 1024**2
"""Of one XML file."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".tif", ".tiff", ".webp", ".gif")
FLAGS = ("-1", "0", "1")
"""What the lists of the original data set give after a stem: absent, difficult, present."""


class _Unusable(Exception):
    """Why one XML file, or one object of it, cannot be used."""


class _Object(NamedTuple):
    """An object before its class has a label."""

    name: str
    class_name: str
    box: tuple[float, float, float, float]
    difficult: bool
    truncated: bool


class _Picture(NamedTuple):
    stem: str
    path: Path
    size: tuple[int, int] | None
    objects: list[_Object]


def read_voc(split: Split, findings: Findings) -> WrittenSplit:
    """Read one split; what is left out and other oddities go to `findings`.

    The classes are the names that occur, in alphabetical order: the format has no list of them. Pictures are
    numbered from 1 in the order of the list.

    Raises:
        DataError: there is no list, or nothing on it can be used.
    """
    folder = Path(split.annotations)
    if not folder.is_dir():
        raise findings.error("no such folder of annotations")
    stems = _stems(split, folder, findings)
    files = _files(Path(split.images), findings)
    pictures = [picture for stem in stems if (picture := _picture(stem, folder, files, split, findings))]
    if not pictures:
        reasons = "; ".join(problem.message for problem in findings.problems())
        raise findings.error(f"none of the {len(stems)} listed pictures can be used: {reasons}")
    classes = tuple(sorted({item.class_name for picture in pictures for item in picture.objects}))
    written = [_written(number, picture, classes) for number, picture in enumerate(pictures, start=1)]
    return WrittenSplit(classes, Path(split.images), written)


def parse_xml(data: bytes) -> Element:
    """The root element. Document types are refused, and with them entities and outside files.

    Raises:
        expat.ExpatError: not well-formed.
        ValueError: it has a document type.
    """

    def refuse(*_: object) -> None:
        raise ValueError("it has a document type (DOCTYPE), which annotations do not need")

    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(data, True)
    return builder.close()


def _stems(split: Split, folder: Path, findings: Findings) -> list[str]:
    """The names of the split, each once."""
    if split.names is None:
        stems = sorted(path.stem for path in folder.glob("*.xml"))
    else:
        lines = _lines(Path(split.names), findings)
        stems = [_stem(line, folder, findings) for line in lines]
    for stem in sorted(
        {stem for stem in stems if stems.count(stem) > 1} if len(stems) > len(set(stems)) else ()
    ):
        findings.add(stem, "listed twice; used once")
    if not stems:
        raise findings.error(f"no pictures: {split.names or folder} names none")
    return list(dict.fromkeys(stems))


def _lines(path: Path, findings: Findings) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise findings.error(f"{path} cannot be read: {error}", field="names") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _stem(line: str, folder: Path, findings: Findings) -> str:
    """The stem in a line of a list; a flag after it, or the picture's extension, is taken off."""
    head, _, flag = line.rpartition(" ")
    stem = head.strip() if head and flag in FLAGS else line
    base, suffix = os.path.splitext(stem)
    if suffix in SUFFIXES and not (folder / f"{stem}.xml").exists():
        findings.add(stem, "the list gives a file name; its stem was used")
        return base
    return stem


def _files(folder: Path, findings: Findings) -> dict[str, Path]:
    """The pictures of a folder by stem; of several with one stem the first suffix of SUFFIXES counts."""
    try:
        paths = [path for path in folder.iterdir() if path.suffix in SUFFIXES]
    except OSError as error:
        raise findings.error(f"folder {folder} cannot be read: {error.strerror}", field="images") from error
    paths.sort(key=lambda path: SUFFIXES.index(path.suffix), reverse=True)
    return {path.stem: path for path in paths}


def _picture(
    stem: str, folder: Path, files: dict[str, Path], split: Split, findings: Findings
) -> _Picture | None:
    path = files.get(stem, Path(split.images) / f"{stem}.jpg")
    try:
        root = _root(folder, stem)
    except _Unusable as flaw:
        findings.add(f"{stem}.xml", f"picture left out: {flaw}")
        return None
    declared = root.findtext("filename")
    if declared and os.path.splitext(declared.strip())[0] != stem:
        findings.add(
            f"{stem}.xml", "`filename` names another file; the picture with the stem of the XML was used"
        )
    objects = []
    for position, element in enumerate(root.findall("object"), start=1):
        name = f"{stem}.xml object {position}"
        try:
            objects.append(_object(name, element))
        except _Unusable as flaw:
            findings.add(name, f"box left out: {flaw}")
    return _Picture(stem, path, _size(root, stem, findings), objects)


def _root(folder: Path, stem: str) -> Element:
    if "/" in stem or "\\" in stem or "\0" in stem:
        raise _Unusable("its name is no plain file name")
    path = folder / f"{stem}.xml"
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except OSError as error:
        raise _Unusable(f"its XML cannot be read: {error.strerror}") from error
    if not data:
        raise _Unusable("its XML is empty" if data == b"" else f"its XML is larger than {MAX_BYTES} bytes")
    try:
        root = parse_xml(data)
    except (expat.ExpatError, ValueError) as error:
        raise _Unusable(f"its XML is broken or unsafe: {error}") from error
    if root.tag != "annotation":
        raise _Unusable(f"its XML is no annotation: the root is <{root.tag}>")
    return root


def _object(name: str, element: Element) -> _Object:
    class_name = (element.findtext("name") or "").strip()
    if not class_name:
        raise _Unusable("it has no name")
    x1, y1, x2, y2 = (_number(element, corner) for corner in ("xmin", "ymin", "xmax", "ymax"))
    if x2 <= x1 or y2 <= y1:
        raise _Unusable("its width or height is not above 0")
    return _Object(
        name, class_name, (x1, y1, x2, y2), _flag(element, "difficult"), _flag(element, "truncated")
    )


def _flag(element: Element, name: str) -> bool:
    return (element.findtext(name) or "").strip() == "1"


def _number(element: Element, corner: str) -> float:
    text = element.findtext(f"bndbox/{corner}")
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _Unusable("its `bndbox` is not four finite numbers")
    return number


def _size(root: Element, stem: str, findings: Findings) -> tuple[int, int] | None:
    if root.find("size") is None:
        return None
    try:
        width, height = (int(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    except ValueError:
        width = height = 0
    if width > 0 and height > 0:
        return width, height
    findings.add(f"{stem}.xml", "declared width or height is no number above 0; the picture's was taken")
    return None


def _written(number: int, picture: _Picture, classes: tuple[str, ...]) -> WrittenImage:
    objects = [
        WrittenObject(
            item.name,
            item.box,
            classes.index(item.class_name) + 1,
            item.difficult,
            _area(item.box),
            item.truncated,
        )
        for item in picture.objects
    ]
    return WrittenImage(number, picture.path, picture.size, objects)


def _area(box: tuple[float, float, float, float]) -> float:
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1)
