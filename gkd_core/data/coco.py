"""COCO annotations: one JSON file, boxes as x, y, width, height.

A flaw that makes the classes or pictures ambiguous stops the reading; a box with a flaw is left out and
reported. Labels follow the category ids in ascending order, never their position in the file.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gkd_core.config import Split
from gkd_core.data.annotation_flags import read_flag
from gkd_core.data.classes import is_name
from gkd_core.data.findings import Findings, few
from gkd_core.data.records import WrittenImage, WrittenObject, WrittenSplit
from gkd_core.process.named_files import read_named

MAX_BYTES = 1024**3
"""Larger files are refused: twice the annotations of COCO itself, which take some GB of memory to read."""
MAX_ID = 2**63 - 1
"""Largest id: ids are passed in int64 tensors."""
FRACTION = 100
"""An area of at most one pixel that is this many times smaller than its box is not in pixels, but a fraction of a
picture of 10 x 10 or more."""
SLACK = 1.01
"""Factor by which an area may exceed that of its box, both ends of which count as inside."""

_Json = Mapping[str, Any]
_Key = int | str
"""An image id as it is written: a number, or in some exports text."""


def read_coco(split: Split, findings: Findings) -> WrittenSplit:
    """Read one split; boxes left out and other oddities go to `findings`.

    Raises:
        DataError: the file is no COCO data set, or ambiguous.
    """
    root = _read_json(Path(split.annotations), findings)
    categories = _objects_under(root, "categories", findings)
    label_of, classes = _labels(categories, findings)
    images = _images(_objects_under(root, "images", findings), findings)
    objects = _objects(_objects_under(root, "annotations", findings), images, label_of, findings)
    folder = Path(os.path.normpath(split.images))
    written = []
    for key, image in images.items():
        path = picture_path(folder, image["file_name"], findings)
        written.append(WrittenImage(key, path, _size(image, findings), objects[key]))
    return WrittenSplit(classes, folder, written)


def picture_path(folder: Path, name: str, findings: Findings) -> Path:
    """Return the path of a picture below the (normalised) folder.

    Raises:
        DataError: the name leads out of the folder.
    """
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(folder):
        hint = "`file_name` is relative to the folder of pictures and must stay inside it."
        raise findings.error(f"file_name {name!r} leads out of {folder}", hint)
    if ".." in Path(name).parts:
        findings.add(name, "file_name goes up and down again; used as it stands")
    return path


def _read_json(path: Path, findings: Findings) -> _Json:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise findings.error(
                f"{path.stat().st_size} bytes is more than {MAX_BYTES}", "Split the data set."
            )
        root = json.loads(read_named(path).decode("utf-8-sig"))
    except OSError as error:
        raise findings.error(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise findings.error(f"is not UTF-8 at byte {error.start}", "Save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        empty = path.stat().st_size == 0
        raise findings.error("is empty" if empty else f"is not JSON: {error}", "Export it again.") from error
    except (RecursionError, ValueError) as error:  # nested too deep, or a number of thousands of digits
        raise findings.error(f"is not sensible JSON: {error}") from error
    if not isinstance(root, dict):
        kind = "null" if root is None else f"a {type(root).__name__}"
        hint = "Needed: an object with `images`, `annotations` and `categories`; a list holds detections."
        raise findings.error(f"is no COCO data set: its root is {kind}", hint)
    return root


def _objects_under(root: _Json, key: str, findings: Findings) -> list[_Json]:
    """Return the objects under a key of the root."""
    value = root.get(key)
    if not isinstance(value, list):
        found = ", ".join(map(str, list(root)[:8])) or "nothing"
        raise findings.error(f"is no COCO data set: no list `{key}`; it has {found}")
    odd = [f"{key}[{i}]" for i, item in enumerate(value) if not isinstance(item, dict)]
    if odd:
        raise findings.error(f"is no COCO data set: not an object: {few(odd)}")
    return value


def _whole_number(value: object) -> int | None:
    """Return a whole number of 64 bits, also where it is written as a float such as 3.0, as pandas does; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if abs(value) <= MAX_ID else None


def _value_text(field: str, value: object) -> str:
    """Return the name of a field and its unexpected value, for messages."""
    return f"{field} is {'the text ' if isinstance(value, str) else ''}{value!r:.80}"


def _labels(categories: list[_Json], findings: Findings) -> tuple[dict[int, int], tuple[str, ...]]:
    """Return the label of each category id, and the class names in label order."""
    names: dict[int, str] = {}
    for position, category in enumerate(categories):
        key, name = _whole_number(category.get("id")), category.get("name")
        if key is None:
            seen = _value_text("id", category.get("id"))
            raise findings.error(f"categories[{position}]: {seen}; needed: a whole number: {category!r:.80}")
        if not is_name(name):
            raise findings.error(
                f"categories[{position}] needs a whole number `id` and a `name`: {category!r:.80}"
            )
        if key in names:
            raise findings.error(f"category id {key} is given twice, as {names[key]!r} and {name!r}")
        names[key] = name.strip()
    if not names:
        raise findings.error("lists no categories", "List every class under `categories`.")
    classes = tuple(dict.fromkeys(names[key] for key in sorted(names)))
    position_of = {name: label for label, name in enumerate(classes, start=1)}
    times = Counter(names.values())
    for key, name in names.items():
        if times[name] > 1:
            findings.add(f"id {key}", f"several categories are called {name!r}; taken as one class")
    return {key: position_of[name] for key, name in names.items()}, classes


def _image_id(value: object) -> _Key | None:
    """Return an image id; None where it is neither a whole number nor text."""
    return value if is_name(value) else _whole_number(value)


def _images(images: list[_Json], findings: Findings) -> dict[_Key, _Json]:
    """Return the entries by id, each id once."""
    entries: dict[_Key, _Json] = {}
    files: dict[str, _Key] = {}
    for position, image in enumerate(images):
        key, name = _image_id(image.get("id")), image.get("file_name")
        if key is None:
            seen = repr(image.get("id"))
            raise findings.error(f"images[{position}] has id {seen:.80}; needed: a whole number of 64 bits")
        if not is_name(name):
            raise findings.error(f"image {key} has file_name {name!r:.80}; needed: the name of a file")
        if key in entries:
            _same_image(key, entries[key], image, findings)
            continue
        if name in files:
            findings.add(f"{name} ({files[name]}, {key})", "images with different ids are the same file")
        if isinstance(key, str):
            findings.add(repr(key), "image id is text; used all the same")
        entries[key] = image
        files.setdefault(name, key)
    if not entries:
        raise findings.error("lists no images")
    return entries


def _same_image(key: _Key, first: _Json, second: _Json, findings: Findings) -> None:
    if first["file_name"] != second["file_name"]:
        names = f"{first['file_name']!r} and {second['file_name']!r}"
        raise findings.error(
            f"image id {key} is given twice, for {names}", "Give every picture an id of its own."
        )
    findings.add(f"image {key}", "image listed twice; used once")


def _size(image: _Json, findings: Findings) -> tuple[int, int] | None:
    if "width" not in image and "height" not in image:
        return None
    width, height = _whole_number(image.get("width")), _whole_number(image.get("height"))
    if width and height and width > 0 and height > 0:
        return width, height
    what = "text" if isinstance(image.get("width"), str) else "no whole number above 0"
    findings.add(f"image {image['id']}", f"declared width or height is {what}; the picture's was taken")
    return None


def _objects(
    annotations: list[_Json], images: dict[_Key, _Json], label_of: dict[int, int], findings: Findings
) -> dict[_Key, list[WrittenObject]]:
    """Return the usable boxes by image id."""
    objects: dict[_Key, list[WrittenObject]] = {key: [] for key in images}
    seen: set[object] = set()
    for position, annotation in enumerate(annotations):
        key = _whole_number(annotation.get("id"))
        name = f"annotations[{position}]" if key is None else f"annotation {key}"
        if key is None:
            findings.add(name, "annotation without a whole number as `id`; used all the same")
        elif key in seen:
            findings.add(name, "annotation id given twice; both are used")
        seen.add(key)
        try:
            image_id = _image_of(annotation, images)
            objects[image_id].append(_object(name, annotation, label_of, findings))
        except _LeftOut as flaw:
            findings.add(name, f"box left out: {flaw}")
    return objects


class _LeftOut(Exception):
    """Raised for one box that cannot be used; says why."""


def _image_of(annotation: _Json, images: Mapping[_Key, _Json]) -> _Key:
    key = _image_id(annotation.get("image_id"))
    if key is not None and key in images:
        return key
    if isinstance(key, str) and key.strip().isdecimal() and int(key) in images:
        raise _LeftOut(f"its image_id is the text {key!r}, where `images` has the number")
    if str(key) in images:
        raise _LeftOut(f"its image_id is the number {key}, where `images` has the text")
    raise _LeftOut("its `image_id` is not listed under `images`")


def _object(name: str, annotation: _Json, label_of: dict[int, int], findings: Findings) -> WrittenObject:
    x, y, width, height = _numbers(annotation.get("bbox"))
    if width <= 0 or height <= 0:
        raise _LeftOut("its width or height is not above 0")
    if "category_id" not in annotation:
        raise _LeftOut("it has no `category_id`")
    label = _label(name, annotation["category_id"], label_of, findings)
    area = _area(name, annotation, (width, height), findings)
    return WrittenObject(
        name, (x, y, x + width, y + height), label, _is_apart(name, annotation, findings), area
    )


def _label(name: str, category: object, label_of: dict[int, int], findings: Findings) -> int:
    key = _whole_number(category)
    if key is not None and key in label_of:
        return label_of[key]
    known = few([str(each) for each in sorted(label_of)])
    if isinstance(category, str):
        seen = _value_text("category_id", category)
        message = f"{name}: {seen}; needed: a number listed under `categories` ({known})"
        raise findings.error(message, "Write ids as numbers, without quotes.")
    message = f"{name} has category_id {category!r:.80}, which is not listed under `categories` ({known})"
    raise findings.error(message, "List the category, or leave the annotation out.")


def _is_apart(name: str, annotation: _Json, findings: Findings) -> bool:
    """Return whether an object is neither target, hit nor miss: a crowd region, or one to ignore."""
    crowd = read_flag(name, "iscrowd", annotation.get("iscrowd", 0), findings)
    ignore = read_flag(name, "ignore", annotation.get("ignore", 0), findings)
    if ignore and not crowd:
        findings.add(
            name, "`ignore` is set: kept apart like a crowd region, no target and neither hit nor miss"
        )
    return crowd or ignore


def _area(name: str, annotation: _Json, sides: tuple[float, float], findings: Findings) -> float:
    """Return the area of the mask as written; that of the box, where the written one cannot belong to this box."""
    width, height = sides
    box = width * height
    if "area" not in annotation:
        return box
    area = _finite(annotation["area"])
    if isinstance(annotation["area"], str):
        findings.add(name, "area is text; the box's area counts")
    elif area is None or area <= 0:
        findings.add(name, "area is not above 0; taken from the box")
    elif area <= 1 and area * FRACTION < box:
        hint = "Areas are in pixels, as boxes are."
        findings.add(
            name, "area is as small as if it were a fraction of the picture; the box's area counts", hint
        )
    elif area > SLACK * (width + 1) * (height + 1):
        findings.add(
            name, "area is larger than its box; the box's area counts", "Areas are in pixels of the mask."
        )
    else:
        return area
    return box


def _numbers(bbox: object) -> list[float]:
    if isinstance(bbox, str):
        raise _LeftOut("its `bbox` is text")
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise _LeftOut("its `bbox` is not four numbers")
    if texts := [value for value in bbox if isinstance(value, str)]:
        raise _LeftOut(f"its `bbox` has text, such as {texts[0]!r:.20}, where numbers belong")
    numbers = [number for number in map(_finite, bbox) if number is not None]
    if len(numbers) != 4:
        raise _LeftOut("its `bbox` is not four finite numbers")
    return numbers


def _finite(value: object) -> float | None:
    """Return a number as a float; None for text, null, NaN, infinity and numbers beyond the range of floats."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
