"""Which split a file or folder stands for, by its name: `train2017`, `Validation`, `instances_val.json`, `dev_set`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gkd_core.config import SplitName

WORDS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Usual words for the splits, in any case; `mini` before and `set`, `data` or `split` behind may be added."""
_SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
_WORD = re.compile(rf"(?:mini)?({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})(?:set|data|split)?")
_WORDS = re.compile(r"[a-z]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Named(NamedTuple):
    """A name that holds the word for a split."""

    split: SplitName
    rest: str
    """The name in lower case with {} in place of that word: files of one data set share it."""


def named(name: str) -> Named | None:
    """Return which split a name (without suffix) stands for; None where it names none, or several.

    COCO's `test-dev` is a test split.
    """
    text = _CAMEL.sub("_", name).casefold()
    found = [(word, _SPLIT_OF[match.group(1)]) for word, match in _matches(text)]
    splits = {split for _, split in found}
    if splits == {"test", "val"} and any("dev" in word.group() for word, _ in found):
        found = [each for each in found if each[1] == "test"]
    elif len(splits) != 1:
        return None
    word, split = found[-1]
    return Named(split, text[: word.start()] + "{}" + text[word.end() :])


def _matches(text: str) -> Iterator[tuple[re.Match[str], re.Match[str]]]:
    for word in _WORDS.finditer(text):
        if match := _WORD.fullmatch(word.group()):
            yield word, match


def split_of(name: str) -> SplitName | None:
    """Return `train`, `val` or `test`; None where a name contains none of them, or several."""
    found = named(name)
    return found.split if found else None


def split_folders(folder: Path, split: SplitName) -> Iterator[Path]:
    """Return the folders inside that stand for a split, plain names first, then those of later years."""
    found = [(each, path) for path in subfolders(folder) if (each := named(path.name))]
    found.sort(key=lambda each: each[1].name, reverse=True)
    found.sort(key=lambda each: each[0].rest != "{}")
    return (path for each, path in found if each.split == split)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders inside, in the order of their names; hidden ones are left out."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return [folder / name for name in sorted(names)]


def subfolder(folder: Path, *names: str) -> Path | None:
    """Return the first folder inside that has one of these names, in upper or lower case."""
    found: dict[str, Path] = {}
    for path in subfolders(folder):
        found.setdefault(path.name.casefold(), path)
    exact = next((folder / name for name in names if (folder / name).is_dir()), None)
    return exact or next((found[name.casefold()] for name in names if name.casefold() in found), None)


def files_with_suffix(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files inside with such a suffix, in upper or lower case, in the order of their names."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    return [folder / name for name in sorted(names) if name.lower().endswith(suffixes)]
