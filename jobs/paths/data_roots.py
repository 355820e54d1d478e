"""The data roots: the only folders that jobs may read, also if a path contains symbolic links."""

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
"""Number of links that a message names before it only counts."""

_LONGEST = 4096
"""Maximum length of a path in characters, as on Linux."""


class DataRootError(Exception):
    """A path in a spec that does not exist or that a job may not read."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class DataRoots:
    """Lookup of files and folders under the data roots.

    Args:
        roots: Folders, tried in order for a relative path.
        confined: Whether a path must be under a root after symbolic links are resolved. False for a user who
            runs the engine on the local machine: then roots only resolve relative paths.
    """

    def __init__(self, roots: Sequence[Path], *, confined: bool = True) -> None:
        self.roots = tuple(root.resolve() for root in roots)
        self.confined = confined

    def find(self, text: str) -> Path:
        """Return the absolute path of an existing file or folder, symbolic links resolved.

        Raises:
            DataRootError: the path leaves the roots, or does not exist.
        """
        if len(text) > _LONGEST:  # looking for half a million folders one by one would take half a minute
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
                f"there is no {text!r} {self._format_roots()}", self._suggest(candidates) + self._hint()
            )
        raise DataRootError(
            f"{text!r} leaves the data roots; a job reads {self._format_roots()} only", self._hint()
        )

    def reading(self) -> AbstractContextManager[None]:
        """Return a context in which this thread can open files under the roots only.

        This holds even if a path is replaced by a link after it was checked.
        """
        return reading_only(self.roots if self.confined else None)

    def must_allow(self, path: Path) -> None:
        """Check that a path found inside an allowed folder does not leave the roots by a link.

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
        """Yield why a data set may not be read: links at any depth, or a data.yaml, may lead out of the roots.

        Args:
            data: With explicit splits.

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
        """Check that no link in a folder, at any depth, leaves the roots.

        A link to itself is left to the reader of the folder: nothing can be read through it.

        Raises:
            DataRootError: some do; they are named and counted.
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
            raise self._links_error(left)

    def _folders_in(self, folder: Path, left: list[Path]) -> Iterator[Path]:
        """Yield the subfolders, also behind links; links out of the roots are added to `left`.

        Reading the folder tells which entries are links, so that a million pictures need no `stat` each.
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

    def _links_error(self, links: Sequence[Path]) -> DataRootError:
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

    def _suggest(self, candidates: Sequence[Path]) -> str:
        """Return the suggestion "Did you mean ...": the first similar name beside a missing path."""
        for path in candidates:
            try:
                beside = [other.name for other in islice(path.parent.iterdir(), _NEIGHBOURS)]
            except OSError:  # no folder, or not readable
                continue
            if close := get_close_matches(path.name, beside, n=1):
                return f"Did you mean {close[0]!r}? "
        return ""

    def _format_roots(self) -> str:
        return "under " + " or ".join(map(str, self.roots))

    def _hint(self) -> str:
        if not self.confined:
            return "Relative paths start at the current folder."
        return "Give a path below one of the folders in GKD_DATA_ROOTS, without `..`."


def renamed(value: Any, folder: str, name: str) -> Any:
    """Return JSON values in which a folder is replaced by another name.

    Args:
        value: Strings, lists and objects.
        folder: An absolute path.
        name: The replacement; empty: paths become relative to the folder.
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
