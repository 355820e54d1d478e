"""Pascal VOC annotations: one XML file a picture, and a text file that lists a split.

Coordinates are taken as they stand, without the one-pixel shift of the original data set: most tools that write
this format count from 0. Difficult objects are kept apart like COCO's crowd regions: no targets in training, and
neither hit nor miss in evaluation. Truncated objects, which reach beyond the picture, are objects like any other. A
picture whose XML cannot be used is left out and named.

`<filename>` names the picture of an XML. Where that picture does not exist, or several XMLs name it (as copied files
do), the picture with the stem of the XML is taken.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from gkd_core.config import Split
from gkd_core.data.annotation_flags import read_flag
from gkd_core.data.findings import Findings
from gkd_core.data.folders import is_picture_name
from gkd_core.data.records import WrittenImage, WrittenObject, WrittenSplit
from gkd_core.process.named_files import read_named

MAX_BYTES = 16 * 1024**2
"""Largest size of one XML file."""
XML = ".xml"
PREFERRED = (".jpg", ".jpeg", ".png")
"""Suffixes in order of preference, where several pictures have the stem of an XML and nothing else decides."""
FLAGS = ("-1", "0", "1")
"""Values after a stem in the lists of the original data set: absent, difficult, present."""


class _Unusable(Exception):
    """Raised when one XML file, or one object of it, cannot be used; says why."""


class _Object(NamedTuple):
    """An object before its class has a label."""

    name: str
    class_name: str
    box: tuple[float, float, float, float]
    difficult: bool
    truncated: bool


class _Annotation(NamedTuple):
    """The contents of one XML file."""

    stem: str
    filename: str
    """The picture's file name, without folders; empty where none is given."""
    size: tuple[int, int] | None
    objects: list[_Object]


class _Files:
    """Files of one folder, found by name or by stem; case is ignored where nothing matches exactly.

    Args:
        paths: the files.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._names: defaultdict[str, list[Path]] = defaultdict(list)
        self._stems: defaultdict[str, list[Path]] = defaultdict(list)
        for path in sorted(paths, key=_preference):
            self._names[path.name.casefold()].append(path)
            self._stems[path.stem.casefold()].append(path)

    def stems(self) -> list[str]:
        """Return the stems of all files, in alphabetical order."""
        return sorted(path.stem for paths in self._stems.values() for path in paths)

    def named(self, name: str) -> Path | None:
        """Return the file of that name; None if there is none, or several that differ from it in case."""
        alike = self._names.get(name.casefold(), [])
        exact = [path for path in alike if path.name == name]
        return exact[0] if exact else alike[0] if len(alike) == 1 else None

    def with_stem(self, stem: str) -> list[Path]:
        """Return all files with that stem, the preferred one first."""
        alike = self._stems.get(stem.casefold(), [])
        return [path for path in alike if path.stem == stem] or alike


def _preference(path: Path) -> tuple[int, str]:
    suffix = path.suffix.lower()
    return PREFERRED.index(suffix) if suffix in PREFERRED else len(PREFERRED), path.name


def read_voc(split: Split, findings: Findings) -> WrittenSplit:
    """Read one split; what is left out and other oddities go to `findings`.

    The classes are the names that occur, in alphabetical order: the format has no list of them. Pictures are
    numbered from 1 in the order of the list.

    Raises:
        DataError: there is no list, or nothing on it can be used.
    """
    folder, images = Path(split.annotations), Path(split.images)
    if not folder.is_dir():
        raise findings.error("no such folder of annotations")
    files = _files(folder, "annotations", lambda name: name.lower().endswith(XML), findings)
    stems = _stems(split, files, findings)
    pictures = _files(images, "images", is_picture_name, findings)
    read = [annotation for stem in stems if (annotation := _annotation(stem, files, findings))]
    if not read:
        reasons = "; ".join(problem.message for problem in findings.problems())
        raise findings.error(f"none of the {len(stems)} listed pictures can be used: {reasons}")
    classes = tuple(sorted({item.class_name for annotation in read for item in annotation.objects}))
    label_of = {name: label for label, name in enumerate(classes, start=1)}
    paths = [path or images / _missing_name(xml) for xml, path in _with_pictures(read, pictures, findings)]
    written = [
        _written_image(number, path, annotation, label_of)
        for number, (path, annotation) in enumerate(zip(paths, read, strict=True), start=1)
    ]
    return WrittenSplit(classes, images, written)


def parse_xml(data: bytes) -> Element:
    """Return the root element. Document types are refused, and with them entities and outside files.

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


def _files(folder: Path, field: str, wanted: Callable[[str], bool], findings: Findings) -> _Files:
    try:
        return _Files(path for path in folder.iterdir() if wanted(path.name))
    except OSError as error:
        raise findings.error(f"folder {folder} cannot be read: {error.strerror}", field=field) from error


def _stems(split: Split, files: _Files, findings: Findings) -> list[str]:
    """Return the stems listed for the split, each once."""
    if split.names is None:
        stems = files.stems()
    else:
        stems = [_stem(line, files, findings) for line in _lines(Path(split.names), findings)]
    times = Counter(stems)
    for stem in sorted(stem for stem, count in times.items() if count > 1):
        findings.add(stem, "listed twice; used once")
    if not stems:
        raise findings.error(f"no pictures: {split.names or split.annotations} names none")
    return list(times)


def _lines(path: Path, findings: Findings) -> list[str]:
    try:
        text = read_named(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise findings.error(f"{path} cannot be read: {error}", field="names") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _stem(line: str, files: _Files, findings: Findings) -> str:
    """Return the stem in a line of a list, without a flag after it or the picture's suffix."""
    head, _, flag = line.rpartition(" ")
    stem = head.strip() if head and flag in FLAGS else line
    if is_picture_name(stem) and not files.with_stem(stem):
        findings.add(stem, "the list gives a file name; its stem was used")
        return os.path.splitext(stem)[0]
    return stem


# ---- which picture -----------------------------------------------------------------------------------------


def _with_pictures(
    read: Sequence[_Annotation], pictures: _Files, findings: Findings
) -> Iterator[tuple[_Annotation, Path | None]]:
    """Yield each annotation with its picture; None where there is none."""
    named = [pictures.named(annotation.filename) for annotation in read]
    times = Counter(named)
    for annotation, picture in zip(read, named, strict=True):
        yield annotation, _picture(annotation, picture, times[picture] > 1, pictures, findings)


def _picture(
    annotation: _Annotation, named: Path | None, shared: bool, pictures: _Files, findings: Findings
) -> Path | None:
    """Return the picture of an XML; None where there is none.

    Args:
        annotation: the contents of the XML.
        named: the picture that its `filename` names.
        shared: whether other XMLs name the same one.
        pictures: all of the folder.
        findings: receives the remarks.
    """
    xml = f"{annotation.stem}.xml"
    own = pictures.with_stem(annotation.stem)
    elsewhere = named is not None and named not in own
    if shared and elsewhere and own:
        findings.add(
            xml, "`filename` names the picture of another XML too; the one with the XML's stem was used"
        )
    elif named is not None:
        if elsewhere:
            findings.add(xml, "`filename` has another stem than the XML; the picture that it names was used")
        elif len(own) > 1:
            findings.add(named.name, "several pictures share a stem; the one that `filename` names was used")
        return named
    elif own and annotation.filename not in ("", annotation.stem):
        findings.add(xml, "`filename` names no picture that is there; the one with the XML's stem was used")
    if len(own) > 1:
        findings.add(
            own[0].name, "several pictures share a stem and `filename` names none; the first was used"
        )
    return own[0] if own else None


def _missing_name(annotation: _Annotation) -> str:
    """Return the name of a missing picture for messages."""
    return annotation.filename if is_picture_name(annotation.filename) else f"{annotation.stem}.jpg"


# ---- one XML -----------------------------------------------------------------------------------------------


def _annotation(stem: str, files: _Files, findings: Findings) -> _Annotation | None:
    try:
        root = _xml_root(stem, files)
    except _Unusable as flaw:
        findings.add(f"{stem}.xml", f"picture left out: {flaw}")
        return None
    objects = []
    for position, element in enumerate(root.findall("object"), start=1):
        name = f"{stem}.xml object {position}"
        try:
            objects.append(_object(name, element, findings))
        except _Unusable as flaw:
            findings.add(name, f"box left out: {flaw}")
    filename = re.split(r"[/\\]", (root.findtext("filename") or "").strip())[-1]
    return _Annotation(stem, filename, _size(root, stem, findings), objects)


def _xml_root(stem: str, files: _Files) -> Element:
    if "/" in stem or "\\" in stem or "\0" in stem:
        raise _Unusable("its name is no plain file name")
    found = files.with_stem(stem)
    if not found:
        raise _Unusable("there is no such XML")
    path = found[0]
    try:
        data = read_named(path) if path.stat().st_size <= MAX_BYTES else None
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


def _object(name: str, element: Element, findings: Findings) -> _Object:
    class_name = (element.findtext("name") or "").strip()
    if not class_name:
        raise _Unusable("it has no name")
    x1, y1, x2, y2 = (_number(element, corner) for corner in ("xmin", "ymin", "xmax", "ymax"))
    if x2 <= x1 or y2 <= y1:
        raise _Unusable("its width or height is not above 0")
    difficult, truncated = (
        read_flag(name, flag, element.findtext(flag, default="0"), findings)
        for flag in ("difficult", "truncated")
    )
    return _Object(name, class_name, (x1, y1, x2, y2), difficult, truncated)


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


def _written_image(
    number: int, path: Path, annotation: _Annotation, label_of: Mapping[str, int]
) -> WrittenImage:
    objects = [
        WrittenObject(
            item.name,
            item.box,
            label_of[item.class_name],
            item.difficult,
            _area(item.box),
            item.truncated,
        )
        for item in annotation.objects
    ]
    return WrittenImage(number, path, annotation.size, objects)


def _area(box: tuple[float, float, float, float]) -> float:
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1)
