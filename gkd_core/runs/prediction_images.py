"""The images that `gkd predict` runs a model on: files, folders and frames of videos, with their ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from gkd_core.data.coco_ids import CocoIds, ImageId
from gkd_core.data.folders import files_below, is_picture_name
from gkd_core.errors import GkdError, Problem, SpecError
from gkd_core.runs.video import frames, is_video


class Source(NamedTuple):
    """An image to run the model on."""

    file: Path
    """The file of the image; a frame of a video is named after the video."""
    image_id: ImageId
    file_name: str = ""
    """Name in its data set; empty: the file's own name."""
    frame: Image.Image | None = None
    """The pixels, if they are not those of the file."""
    flaw: GkdError | None = None
    """Why no more frames of a video can be read."""


def find_pictures(
    given: Sequence[Path], out: Path, *, recursive: bool = False
) -> tuple[list[Path], list[str]]:
    """Return the images and videos that were named, each once, and problems with the names.

    Args:
        given: files, and folders whose images are taken.
        out: folder for the drawn images.
        recursive: take those of subfolders, too.

    Raises:
        SpecError: `out` is the folder of the images: drawn ones would replace them.
    """
    files, wrong = [], []
    for path in given:
        found = _in_folder(path, recursive, out) if path.is_dir() else [path]
        files += found
        if not found:
            wrong.append(f"{path}: a folder without pictures{_subfolder_hint(path, recursive, out)}")
    files = list(dict.fromkeys(files))
    if any(file.parent.resolve() == out.resolve() for file in files):
        hint = "Name another folder with --out."
        message = f"{out} is where pictures lie that would be replaced by drawn ones"
        raise SpecError([Problem(loc=("--out",), message=message, hint=hint)])
    return files, wrong


def _in_folder(folder: Path, recursive: bool, out: Path) -> list[Path]:
    """Return the images of a folder, without those that an earlier call drew into a subfolder."""
    paths = files_below(folder) if recursive else folder.iterdir()
    found = (path for path in paths if is_picture_name(path.name))
    drawn = out.resolve()
    return sorted(path for path in found if path.parent == folder or drawn not in path.resolve().parents)


def _subfolder_hint(folder: Path, recursive: bool, out: Path) -> str:
    """Return a hint if only subfolders have images."""
    has_some = not recursive and _in_folder(folder, True, out)
    return "; its subfolders have some, see --recursive" if has_some else ""


def sources_of(files: Sequence[Path], ids: CocoIds | None, every: int = 1) -> Iterator[Source]:
    """Yield the images, and the frames of the videos, with ids.

    Args:
        files: pictures and videos.
        ids: those of a data set; pictures that it does not list get numbers above its own.
        every: take every n-th frame of a video.
    """
    pictures = [file for file in files if not is_video(file)]
    numbered = dict(zip(pictures, ids_for(pictures), strict=True))
    listed = {file: ids.of(file) for file in pictures} if ids else {}
    known = [each.image_id for each in listed.values() if each]
    above = max((number for number in known if isinstance(number, int)), default=0) if known else 0
    later = count(above + max(numbered.values(), default=0) + 1)
    for file in files:
        if is_video(file):
            yield from (source._replace(image_id=next(later)) for source in _frames(file, every))
        elif entry := listed.get(file):
            yield Source(file, entry.image_id, entry.file_name)
        else:
            yield Source(file, above + numbered[file])


def _frames(video: Path, every: int) -> Iterator[Source]:
    try:
        for number, image in frames(video, every):
            yield Source(video.with_name(f"{video.stem}-{number:06}.jpg"), 0, frame=image)
    except GkdError as error:
        yield Source(video, 0, flaw=error)


def ids_for(files: Sequence[Path]) -> list[int]:
    """Return image ids: the file names where all are numbers, as in COCO, else 1, 2, 3, ..."""
    stems = [file.stem for file in files]
    numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdecimal()]
    return numbers if len(set(numbers)) == len(files) else list(range(1, len(files) + 1))
