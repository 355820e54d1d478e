"""`data.yaml`, which names classes and splits of a YOLO data set; a text file of class names does for one, too.

Every scalar is read as text: YAML would turn a class called `no` into False and one called `1e3` into a number.
Aliases, deep nesting and large files are refused, tags are ignored, and `download` is never followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from gkd_core.data.classes import is_name
from gkd_core.process.named_files import read_named

try:
    import yaml
except ModuleNotFoundError:  # without PyYAML, COCO and VOC can still be read
    yaml = None

MAX_BYTES = 256 * 1024
"""Larger files are refused: the 1203 classes of LVIS take 30 KB, and reading this much takes about two seconds."""
MAX_DEPTH = 8
"""Levels of nesting; a data set needs two."""
YAML = (".yaml", ".yml")
SPLIT_KEYS = {"train": ("train",), "val": ("val", "valid", "validation", "dev"), "test": ("test",)}

_Tree = str | list["_Tree"] | dict[str, "_Tree"]


class NamesError(Exception):
    """Raised when a file does not name the classes; the message says what was seen, not in which file."""


@dataclass(frozen=True)
class DataYaml:
    """The contents of a `data.yaml`, as written."""

    file: Path
    names: Mapping[int, str]
    """Class name by the number that label files use."""
    path: str = ""
    """Folder of the data set; empty where the file does not name it."""
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Folders of pictures, or text files that list pictures, by `train`, `val` and `test`."""
    download: bool = False
    """Whether it asks for something to be downloaded or run."""
    keypoints: bool = False
    """Whether key points follow each box."""
    unnamed: bool = False
    """Whether it gives only the number of classes."""

    @property
    def root(self) -> Path:
        """Return the folder that the splits are relative to: `path` where it exists, else that of the file."""
        folder = self.file.parent
        named = Path(os.path.normpath(folder / self.path))
        return named if self.path and os.path.isdir(named) else folder


def read_names(file: Path) -> DataYaml:
    """Read a `data.yaml`, or a text file with one class name a line.

    Raises:
        NamesError: it cannot be read, or names no classes.
    """
    text = _text(file)
    if file.suffix.lower() not in YAML:
        return DataYaml(file, _listed([line for line in map(str.strip, text.splitlines()) if line]))
    tree = parse(text)
    if not isinstance(tree, dict):
        raise NamesError("is no data.yaml: it has no keys at its top")
    names, unnamed = _names(tree)
    return DataYaml(
        file=file,
        names=names,
        path=_scalar(tree, "path"),
        splits={split: _entries(tree, split) for split in SPLIT_KEYS},
        download=bool(tree.get("download")),
        keypoints="kpt_shape" in tree,
        unnamed=unnamed,
    )


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise NamesError(f"is larger than {MAX_BYTES} bytes")
        return read_named(file).decode("utf-8-sig")
    except OSError as error:
        raise NamesError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise NamesError(f"is not UTF-8 at byte {error.start}") from error


# ---- YAML as text, lists and mappings --------------------------------------------------------------------------


@lru_cache(maxsize=4)  # called three times for one data set, and a large file takes seconds
def parse(text: str) -> _Tree:
    """Return the first document, every scalar as it is written; an empty document is "".

    The result is cached: do not change it.

    Raises:
        NamesError: it is no YAML, nests too deep, repeats a key, or uses aliases.
    """
    if yaml is None:
        raise NamesError("is YAML, and PyYAML is not installed")
    events = yaml.parse(text, Loader=yaml.BaseLoader)
    try:
        for event in events:
            if isinstance(event, yaml.NodeEvent):
                return _tree(event, events, depth=0)
    except yaml.MarkedYAMLError as error:
        line = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise NamesError(f"is not YAML: {error.problem}{line}") from error
    except yaml.YAMLError as error:
        raise NamesError(f"is not YAML: {error}") from error
    return ""


def _tree(event: yaml.NodeEvent, events: Iterator[yaml.Event], depth: int) -> _Tree:
    line = event.start_mark.line + 1
    if isinstance(event, yaml.ScalarEvent):
        return str(event.value)
    if isinstance(event, yaml.AliasEvent):
        raise NamesError(f"uses an alias at line {line}; write it out")
    if depth == MAX_DEPTH:
        raise NamesError(f"nests deeper than {MAX_DEPTH} levels at line {line}")
    children = _children(events, depth + 1)
    if isinstance(event, yaml.SequenceStartEvent):
        return list(children)
    mapping: dict[str, _Tree] = {}
    for key in children:
        if not isinstance(key, str):
            raise NamesError(f"has a key that is no text below line {line}")
        if key in mapping:
            raise NamesError(f"has the key {key!r:.80} twice below line {line}")
        mapping[key] = next(children)
    return mapping


def _children(events: Iterator[yaml.Event], depth: int) -> Iterator[_Tree]:
    """Yield the nodes up to the end of the list or mapping that `events` is in."""
    for event in events:
        if not isinstance(event, yaml.NodeEvent):
            return
        yield _tree(event, events, depth)


# ---- names and splits --------------------------------------------------------------------------------------


def _names(tree: Mapping[str, _Tree]) -> tuple[dict[int, str], bool]:
    """Return the names by number, and whether they had to be made up."""
    given, count = tree.get("names"), _scalar(tree, "nc")
    if count and not (count.isdecimal() and len(count) < 7):
        raise NamesError(f"`nc` is {count!r:.80}; needed: how many classes there are")
    if not given:
        if not count:
            raise NamesError("has no `names`: the classes, as a list or by number")
        return {number: f"class {number}" for number in range(int(count))}, True
    if isinstance(given, str):
        raise NamesError("`names` is neither a list nor a mapping from numbers")
    names = _listed(given) if isinstance(given, list) else _numbered(given)
    if count and int(count) not in (len(names), max(names) + 1):
        raise NamesError(f"`nc` says {count} classes, `names` has {len(names)}")
    return names, False


def _listed(names: list[_Tree] | list[str]) -> dict[int, str]:
    return _numbered({str(number): name for number, name in enumerate(names)})


def _numbered(names: Mapping[str, _Tree]) -> dict[int, str]:
    numbers: dict[int, str] = {}
    for key, name in names.items():
        if not (key.isdecimal() and len(key) < 10) or int(key) in numbers:
            raise NamesError(f"`names` has the key {key!r:.80}; needed: numbers from 0, each once")
        if not isinstance(name, str) or not is_name(name):
            raise NamesError(f"class {key} has the name {name!r:.80}; needed: a text to show")
        numbers[int(key)] = name.strip()
    if not numbers:
        raise NamesError("names no classes")
    return dict(sorted(numbers.items()))


def _scalar(tree: Mapping[str, _Tree], key: str) -> str:
    value = tree.get(key, "")
    if not isinstance(value, str):
        raise NamesError(f"`{key}` is a list or a mapping; needed: one text")
    return "" if value in ("~", "null") else value.strip()


def _entries(tree: Mapping[str, _Tree], split: str) -> tuple[str, ...]:
    """Return the paths that are given for the pictures of a split."""
    given = {key.casefold(): value for key, value in tree.items()}
    value = next((given[key] for key in SPLIT_KEYS[split] if given.get(key)), "")
    entries = [value] if isinstance(value, str) else list(value)
    texts = [entry.strip() for entry in entries if isinstance(entry, str)]
    if len(texts) != len(entries) or isinstance(value, dict):
        raise NamesError(f"`{split}` is neither a text nor a list of texts")
    return tuple(text for text in texts if text not in ("", "~", "null"))
