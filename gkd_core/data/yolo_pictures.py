"""The pictures of a YOLO split: a folder of them, a text file that lists them, or the places that data.yaml names.

A list may not name pictures outside the folders of a split; links in them are followed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from gkd_core.config import Split
from gkd_core.data.data_yaml import YAML, DataYaml
from gkd_core.data.findings import Findings, few
from gkd_core.data.folders import LONGEST_PATH, dead_link_above, files_below, is_picture_name
from gkd_core.data.yolo_labels import MAX_BYTES
from gkd_core.process.named_files import read_named


def find_pictures(split: Split, names: DataYaml, findings: Findings) -> tuple[Path, list[Path]]:
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
