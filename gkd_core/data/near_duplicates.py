"""Finds pictures that are in two splits: the same file, the same bytes, or nearly the same appearance.

Pictures look the same when their thumbnails, 16 x 16 in grey, correlate by 0.97 or more. That finds copies that were
scaled, saved again, made brighter or darker or grey, and shifts and cuts of up to about two percent of a side. It
does not find mirrored or turned copies, larger shifts, or parts of one scene (docs/decisions/0038).
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gkd_core.config import SplitName
from gkd_core.data.pictures import PictureError, read_image
from gkd_core.process.named_files import open_named

SIDE = 16
"""Of a thumbnail. With 24, a shift of two percent is often missed; with 12, different pictures come closer."""
LIKENESS = 0.97
"""Limit. On 364 blood smears one pair reaches .99 (shifted by 4 pixels), the next .75; on 137 photographs none .82."""
FLAT = 2.0
"""Standard deviation in grey levels (of 255) under which a thumbnail is too uniform to be compared."""
AT_ONCE = 2048
"""Pictures of `train` that are compared at once with all of `val`: if `val` has 10 000, that takes 80 MB."""
THREADS = min(8, os.cpu_count() or 1)

How = Literal["same file", "same bytes", "looks the same"]


class Pair(NamedTuple):
    """A picture of one split, here called `train`, and one of another, here called `val`, that are the same."""

    how: How
    train: Path
    val: Path
    likeness: float
    """Correlation of the thumbnails, up to 1; 1 for one file and for the same bytes."""


def pairs(train: Sequence[Path], val: Sequence[Path]) -> list[Pair]:
    """Return one pair, of the surest kind, for every picture of `val` that is also in `train`.

    Args:
        train: files that can be decoded.
        val: the others.
    """
    return pairs_of_splits({"train": train, "val": val})["train", "val"]


def pairs_of_splits(
    splits: Mapping[SplitName, Sequence[Path]],
) -> dict[tuple[SplitName, SplitName], list[Pair]]:
    """Return the `pairs` of every two splits, each picture decoded once.

    Args:
        splits: files that can be decoded, by the name of their split.
    """
    thumbnails = {name: _thumbnails(files) for name, files in splits.items()}
    pairs: dict[tuple[SplitName, SplitName], list[Pair]] = {}
    for one, other in combinations(splits, 2):
        train, val = splits[one], splits[other]
        alike = _look_the_same(train, val, thumbnails[one], thumbnails[other])
        found: dict[Path, Pair] = {}
        for pair in (*same_file(train, val), *_same_bytes(train, val), *alike):
            found.setdefault(pair.val, pair)
        pairs[one, other] = list(found.values())
    return pairs


def same_file(train: Iterable[Path], val: Iterable[Path]) -> list[Pair]:
    """Return the files that are in both splits."""
    seen = set(train)
    return [Pair("same file", path, path, 1.0) for path in dict.fromkeys(val) if path in seen]


def copies(paths: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Return groups of files with the same bytes. Only files of equal size are read."""
    by_size: defaultdict[int, list[Path]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        by_size[path.stat().st_size].append(path)
    by_content: defaultdict[bytes, list[Path]] = defaultdict(list)
    for path in (path for same in by_size.values() if len(same) > 1 for path in same):
        with open_named(path) as file:
            by_content[hashlib.file_digest(file, "sha256").digest()].append(path)
    return [tuple(same) for same in by_content.values() if len(same) > 1]


def _same_bytes(train: Sequence[Path], val: Sequence[Path]) -> Iterator[Pair]:
    in_train, in_val = set(train), set(val)
    for group in copies([*train, *val]):
        first = next((path for path in group if path in in_train), None)
        if first:
            yield from (Pair("same bytes", first, path, 1.0) for path in group if path in in_val)


def _look_the_same(
    train: Sequence[Path], val: Sequence[Path], of_train: NDArray[np.float32], of_val: NDArray[np.float32]
) -> Iterator[Pair]:
    """Yield for each picture of `val` the most similar one of `train`, if it is similar enough."""
    best, likeness = np.zeros(len(val), dtype=np.int64), np.zeros(len(val), dtype=np.float32)
    for start in range(0, len(train), AT_ONCE):
        block = of_train[start : start + AT_ONCE] @ of_val.T  # (AT_ONCE, V)
        highest = block.max(axis=0)
        best = np.where(highest > likeness, block.argmax(axis=0) + start, best)
        likeness = np.maximum(highest, likeness)
    for column in np.flatnonzero(likeness >= LIKENESS).tolist():
        yield Pair("looks the same", train[best[column]], val[column], float(likeness[column]))


def _thumbnails(paths: Sequence[Path]) -> NDArray[np.float32]:
    """Return (N, SIDE * SIDE), each row of mean 0 and length 1; zeros where there is nothing to compare."""
    with ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(_thumbnail, paths))
    return np.array(rows, dtype=np.float32).reshape(-1, SIDE * SIDE)


def _thumbnail(path: Path) -> NDArray[np.float32]:
    try:
        image = read_image(path, at_least=4 * SIDE)
    except PictureError:
        return np.zeros(SIDE * SIDE, dtype=np.float32)
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.float32).ravel()
    grey -= grey.mean()
    return grey / max(float(np.linalg.norm(grey)), 1e-6) * float(grey.std() >= FLAT)
