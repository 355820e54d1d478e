"""Data sets on the terminal: what is in them, what is odd, and the result of checking a spec."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.show_text import warning_text

if TYPE_CHECKING:  # the check needs numpy, the other commands do not
    from gkd_core.config import SplitName
    from gkd_core.data.check import DataReport
    from gkd_core.data.examine import Examination, How, SplitExamination


def _title(found: DataReport) -> str:
    return f"a data set in {found.format.upper()} format, {len(found.classes)} classes"


def _read_from(found: DataReport) -> RenderableType:
    """Return which annotations belong to which pictures, relative to their common folder."""
    splits = found.resolved.splits
    paths = [path for split in splits.values() for path in (split.images, split.annotations)]
    folder = os.path.commonpath(paths)
    table = Table("read from", "annotations", "pictures", box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for name, split in splits.items():
        listed = f" ({os.path.relpath(split.names, folder)})" if split.names else ""
        places = [os.path.relpath(path, folder) for path in (split.annotations, split.images)]
        table.add_row(name, Text(places[0] + listed), Text(places[1]))
    return Group(Text(f"in {folder}"), table)


def _counts(found: DataReport) -> Table:
    table = Table("", *found.splits, box=None, pad_edge=False)
    splits = tuple(found.splits.values())
    apart = "difficult objects" if found.format == "voc" else "crowd regions"
    rows = {
        "pictures": [split.images for split in splits],
        "without objects": [split.images_without_boxes for split in splits],
        "objects": [split.boxes for split in splits],
        **{f"  {name}": [s.boxes_per_class.get(name, 0) for s in splits] for name in found.classes},
        "small (under 32 x 32)": [split.small for split in splits],
        "medium": [split.medium for split in splits],
        "large (from 96 x 96)": [split.large for split in splits],
        f"{apart}, ignored": [split.crowd for split in splits],
        "truncated": [split.truncated for split in splits],
    }
    for name, counts in rows.items():
        if any(counts) or name.startswith("  ") or name in ("pictures", "objects"):
            table.add_row(Text(name), *map(str, counts))
    return table


def usable(resolved: Mapping[str, Any]) -> Text:
    """Return the result of checking a spec: warnings, and in the last line that it can run, on what and where.

    Args:
        resolved: The answer of `POST /jobs/validate`.
    """
    config, report = resolved["config"], resolved["report"] or {}
    of_data = {warning["message"]: warning["hint"] for warning in report.get("warnings", ())}
    lines = [warning_text(message, of_data.get(message, "")) for message in resolved["warnings"]]
    splits = [report[name]["images"] for name in ("train", "val", "test") if report.get(name)]
    counts = f"{' + '.join(map(str, splits))} pictures, {_counted(len(report['classes']), 'class', 'es')}, "
    device = "CPU" if config["device"] == "cpu" else _counted(config.get("processes", 1), "GPU")
    return Text("\n").join([*lines, Text(f"OK: {counts if splits else ''}{device}")])


def _counted(count: int, what: str, plural: str = "s") -> str:
    return f"{count} {what}{plural if count != 1 else ''}"


def examination(found: Examination) -> RenderableType:
    """Return everything about a data set: counts, sizes, oddities, and pictures shared by splits."""
    parts: list[RenderableType] = [
        _title(found),
        _read_from(found),
        "",
        _counts(found),
        "",
        _picture_sizes(found),
        "",
        _box_sides(found),
    ]
    parts += [_too_small_boxes(name, split) for name, split in found.splits.items() if split.resized]
    parts += [warning_text(warning.message, warning.hint) for warning in found.warnings]
    parts += [*_copies(found), *_shared(found)]
    if not found.decoded:
        parts.append(Text("only headers were read: broken and repeated pictures would not show", style="dim"))
    return Group(*parts)


def _copies(found: Examination) -> Iterator[Text]:
    for name, split in found.splits.items():
        if split.copies:
            groups = [f"{_file(first)} ({len(rest) + 1} times)" for first, *rest in split.copies]
            yield warning_text(
                f"{name} has pictures more than once, byte for byte: {_join_first(groups)}", ""
            )


def _shared(found: Examination) -> Iterator[Text]:
    """Yield warnings of pictures that are in another split under another name.

    Those of equal name are in the warnings.
    """
    both = [(pair.how, pair.train, pair.val) for pair in found.shared]
    yield from _shared_pictures("val", "train", both, found.shared_count, found)
    for split, count in found.test_shared_count.items():
        both = [(pair.how, pair.other, pair.test) for pair in found.test_shared if pair.split == split]
        yield from _shared_pictures("test", split, both, count, found)


def _shared_pictures(
    name: SplitName,
    other: SplitName,
    both: Sequence[tuple[How, str, str]],
    count: Mapping[How, int],
    found: Examination,
) -> Iterator[Text]:
    """Yield warnings of pictures of one split that are in another one, each with its most similar picture there."""
    for how, told in TOLD.items():
        pairs = [f"{_file(first)} and {_file(second)}" for as_, first, second in both if as_ == how]
        if pairs:
            share = f"{count.get(how, 0)} of {found.splits[name].images}"
            yield warning_text(f"{share} pictures of {name} {told.format(other)}: {_join_first(pairs)}", "")


TOLD: dict[Literal["same bytes", "looks the same"], str] = {
    "same bytes": "are in {}, too, byte for byte",
    "looks the same": "look the same as one of {}",
}
"""Phrases for pictures of one split that are in another one."""
SHOWN = 5
"""Maximum number of pictures, or groups of them, that are named; --json names more."""


def _join_first(items: Sequence[str]) -> str:
    return "; ".join(items[:SHOWN]) + ("; and more, see --json" if len(items) > SHOWN else "")


def _file(path: str) -> str:
    return PurePath(path).name


def _picture_sizes(found: Examination) -> Table:
    table = Table("pictures", "smallest", "median", "largest", "most common", box=None, pad_edge=False)
    for name, split in found.splits.items():
        sizes = split.pictures
        common = ", ".join(f"{w} x {h} ({count})" for w, h, count in sizes.most_common)
        ends = [f"{w:g} x {h:g}" for w, h in (sizes.smallest, sizes.median, sizes.largest)]
        table.add_row(name, *ends, common)
    return table


def _box_sides(found: Examination) -> Table:
    """Return a histogram of box sides, in pixels of the file and, if asked for, of resized pictures."""
    lows = next(iter(found.splits.values())).sides.from_pixels
    ends = [f"{low}-{high}" for low, high in pairwise(lows)] + [f"{lows[-1]}+"]
    table = Table("boxes by side", *ends, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, split in found.splits.items():
        table.add_row(name, *map(str, split.sides.boxes))
        if split.resized:
            table.add_row(f"{name} at {split.resized.image_size}", *map(str, split.resized.sides.boxes))
    return table


def _too_small_boxes(name: str, split: SplitExamination) -> Text:
    assert split.resized is not None  # checked by the caller
    count = split.resized.under_8
    told = (
        f"{count} of {split.boxes} boxes of {name} have a side under 8 pixels at {split.resized.image_size}"
    )
    return Text(f"{told}, too small to learn much from" if count else told)
