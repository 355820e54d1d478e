"""Where jobs may read: under the data roots, whatever a path looks like on paper."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from gkd_core.config import DataConfig
from gkd_core.process.named_files import reading_only

_NEIGHBOURS = 1000
"""Names that a misspelt one is compared with: a folder of pictures may hold a million."""

_NAMED = 3
"""Links that a message names before it only counts."""

_LONGEST = 4096
"""Characters of a path; Linux takes no more."""


class DataRootError(Exception):
    """A path in a spec names nothing that a job may read."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class DataRoots:
    """Finds files and folders under the roots.

    Args:
        roots: Folders, tried in order for a relative path.
        confined: Whether a path must lie under a root once symbolic links are followed. False for a person who
            runs the engine on the own machine: then roots only say where relative paths start.
    """

    def __init__(self, roots: Sequence[Path], *, confined: bool = True) -> None:
        self.roots = tuple(root.resolve() for root in roots)
        self.confined = confined

    def find(self, text: str) -> Path:
        """The absolute path, symbolic links followed, of something that is there.

        Raises:
            DataRootError: the path leaves the roots, or nothing lies there.
        """
        if len(text) > _LONGEST:  # to look for half a million folders one by one would take half a minute
            raise DataRootError(f"{text[:200]!r} is no path: File name too long", self._hint())
        try:
            candidates = self._candidates(text)
            reachable = [path for path in candidates if self._allows(path)]
            found = next((path for path in reachable if path.exists()), None)
        except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a NUL
            why = getattr(error, "strerror", None) or error
            raise DataRootError(f"{text[:200]!r} is no path: {why}", self._hint()) from None
        if found:
            return found
        if candidates and reachable == candidates:
            raise DataRootError(
                f"there is no {text!r} {self._under()}", self._meant(candidates) + self._hint()
            )
        raise DataRootError(f"{text!r} leaves the data roots; a job reads {self._under()} only", self._hint())

    def reading(self) -> AbstractContextManager[None]:
        """Let this thread open nothing else meanwhile, whatever was put in the place of what was found."""
        return reading_only(self.roots if self.confined else None)

    def must_allow(self, path: Path) -> None:
        """Refuse a path that was found by looking into an allowed folder but leads out of it by a link.

        Raises:
            DataRootError: it leaves the roots.
        """
        try:
            allowed = self._allows(path.resolve())
        except (OSError, RuntimeError):
            raise DataRootError(f"{str(path)!r} is a link that leads to itself", self._hint()) from None
        if not allowed:
            raise DataRootError(f"{str(path)!r} leads out of the data roots by a link", self._hint())

    def left_by(self, data: DataConfig) -> Iterator[DataRootError]:
        """Why a data set may not be read: what was found inside a given folder may be a link that leads out, at
        whatever depth, and a data.yaml may name any folder.

        Args:
            data: With its splits spelt out.

        Raises:
            OSError: a folder cannot be read.
        """
        named = [(split.images, split.annotations, split.names) for split in data.splits.values()]
        paths = [path for paths in named for path in paths if path]
        for path in map(Path, dict.fromkeys(paths)):
            try:
                self.must_allow(path)
                if path.is_dir():
                    self.must_allow_all_in(path)
            except DataRootError as error:
                yield error

    def must_allow_all_in(self, folder: Path) -> None:
        """Refuse a folder with a link in it, at whatever depth, that leads out of the roots.

        A link that leads to itself is left to who reads the folder: nothing can be read through it.

        Raises:
            DataRootError: there are some; they are named and counted.
            OSError: the folder cannot be read.
        """
        seen: set[Path] = set()
        left: list[Path] = []
        ahead = [folder.resolve()] if self.confined else []
        while ahead:
            here = ahead.pop()
            if here not in seen:
                seen.add(here)
                ahead += self._folders_in(here, left)
        if left:
            raise self._left(left)

    def _folders_in(self, folder: Path, left: list[Path]) -> Iterator[Path]:
        """The folders in one, also those that links lead to; links out of the roots are added to `left`.

        Reading the folder tells links apart, which costs no look at each of a million pictures.
        """
        with os.scandir(folder) as entries:
            for entry in entries:
                path = Path(entry.path)
                if not entry.is_symlink():
                    yield from [path] if entry.is_dir() else []
                elif not self._allows(Path(os.path.realpath(path))):
                    left.append(path)
                elif path.is_dir():
                    yield path.resolve()

    def _left(self, links: Sequence[Path]) -> DataRootError:
        first, *others = sorted(map(str, links))
        if not others:
            return DataRootError(f"{first!r} leads out of the data roots by a link", self._hint())
        names = ", ".join(map(repr, others[: _NAMED - 1]))
        more = f" and {len(links) - _NAMED} more" if len(links) > _NAMED else ""
        return DataRootError(
            f"{len(links)} links lead out of the data roots: {first!r}, {names}{more}", self._hint()
        )

    def _candidates(self, text: str) -> list[Path]:
        path = Path(text)
        if self.confined and ".." in path.parts:
            return []
        return [(root / path).resolve() for root in self.roots]  # an absolute path replaces the root

    def _allows(self, path: Path) -> bool:
        return not self.confined or any(path.is_relative_to(root) for root in self.roots)

    def _meant(self, candidates: Sequence[Path]) -> str:
        """The first neighbour of a missing path whose name is much like it."""
        for path in candidates:
            try:
                beside = [other.name for other in islice(path.parent.iterdir(), _NEIGHBOURS)]
            except OSError:  # no folder, or one that may not be read
                continue
            if close := get_close_matches(path.name, beside, n=1):
                return f"Did you mean {close[0]!r}? "
        return ""

    def _under(self) -> str:
        return "under " + " or ".join(map(str, self.roots))

    def _hint(self) -> str:
        if not self.confined:
            return "Relative paths start at the current folder."
        return "Give a path below one of the folders in GKD_DATA_ROOTS, without `..`."


def renamed(value: Any, folder: str, name: str) -> Any:
    """JSON values in which a folder goes by another name.

    Args:
        value: Texts, lists and objects.
        folder: An absolute path.
        name: What stands for it; empty: what lies in it is named relative to it.
    """
    match value:
        case str():
            inside = f"{name}/" if name else ""
            return value.replace(f"{folder}/", inside).replace(folder, name or ".")
        case list() | tuple():
            return [renamed(each, folder, name) for each in value]
        case dict():
            return {key: renamed(each, folder, name) for key, each in value.items()}
    return value
