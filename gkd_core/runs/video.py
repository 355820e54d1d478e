"""Frames of videos, through PyAV: `pip install 'gkd[video]'`. PyAV is imported only when a video is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from gkd_core.data.pictures import PictureError
from gkd_core.errors import Problem, SpecError
from gkd_core.process.named_files import open_named

SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ts"))
"""Suffixes of video files."""


def is_video(path: Path) -> bool:
    """Return whether a file is a video, by its name."""
    return path.suffix.lower() in SUFFIXES


def require_av() -> Any:
    """Return PyAV.

    Raises:
        SpecError: it is not installed.
    """
    try:
        import av
    except ImportError:
        message, hint = (
            "reading videos needs av, which is not installed",
            "Install it: pip install 'gkd[video]'.",
        )
        raise SpecError([Problem(loc=("images",), message=message, hint=hint)]) from None
    return av


def frames(video: Path, every: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """Yield the frames of a video, upright and RGB, each with its number from 1.

    Args:
        video: the file.
        every: take every n-th frame, beginning with the first.

    Raises:
        SpecError: PyAV is not installed.
        PictureError: it is no video, or broken from some frame on; those before it were yielded.
    """
    av = require_av()
    try:
        with open_named(video) as file, av.open(file) as container:
            if not container.streams.video:
                raise PictureError(f"{video}: holds no pictures", "Is it sound only?")
            for number, frame in enumerate(container.decode(video=0)):
                if number % every == 0:
                    yield number + 1, _upright(frame)
    except (av.FFmpegError, OSError) as error:
        raise PictureError(f"{video}: cannot be read as a video: {error}", "Is the file complete?") from error


def _upright(frame: Any) -> Image.Image:
    """Return a frame rotated as its container says; phones record their orientation."""
    image: Image.Image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
