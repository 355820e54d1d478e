"""`load`: a config becomes a data set, its annotations compared with its pictures.

A picture that is missing, or whose header cannot be read, is an error, and all such pictures are named at once. A
picture whose header is sound and whose body is not is only found by decoding it (`decode=True`); it is left out
with a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from gkd_core import config as spec
from gkd_core.config import DataConfig
from gkd_core.data.coco import read_coco
from gkd_core.data.find import find_layout
from gkd_core.data.findings import Findings, Gathered, few
from gkd_core.data.records import DataSet, Split, WrittenSplit
from gkd_core.data.settle import settle
from gkd_core.data.voc import read_voc
from gkd_core.errors import DataError, Problem

READERS: dict[str, Callable[[spec.Split, Findings], WrittenSplit]] = {"coco": read_coco, "voc": read_voc}


def load(config: DataConfig, *, headers: int | None = None, decode: bool = False) -> DataSet:
    """Read both splits.

    Args:
        config: the data set; its paths are absolute or relative to the working directory.
        headers: look into at most so many pictures of a split, evenly spread, and into those without a declared
            size; the others only have to exist. None: into all.
        decode: also decode each picture looked into, so that broken ones are left out before any work begins.

    Raises:
        DataError: with everything that is wrong in both splits, as far as it can be known.
    """
    config = find_layout(config)
    splits = {"train": config.train, "val": config.val}
    findings = {name: Findings(name, split.annotations) for name, split in splits.items() if split}
    written: dict[str, WrittenSplit] = {}
    settled: dict[str, Split] = {}
    errors = Gathered()
    for name, split in splits.items():
        with errors.step():
            assert split is not None  # find_layout's promise
            written[name] = READERS[config.format](split, findings[name])
    errors.stop()
    classes, remarks = agree(written["train"].classes, written["val"].classes, config.classes)
    for name in splits:
        with errors.step():
            settled[name] = settle(written[name], classes, findings[name], headers=headers, decode=decode)
    errors.stop()
    train, val = settled["train"], settled["val"]
    warnings = [*findings["train"].problems(), *findings["val"].problems(), *remarks, *_shared(train, val)]
    return DataSet(classes, train, val, tuple(warnings))


def agree(
    train: tuple[str, ...], val: tuple[str, ...], wanted: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[Problem]]:
    """The class names in label order, and remarks.

    `val` may lack classes of `train` (VOC lists none, and a small split may not hold them all); a class of `val`
    that `train` lacks could never be learnt and is mostly a typo.

    Raises:
        DataError: `val` has other classes, or `wanted` is another set than that of `train`.
    """
    problems = []
    if unknown := [name for name in val if name not in train]:
        message = f"val has classes that train does not: {_likely(unknown, train)}; train has {few(train)}"
        loc = ("data", "val", "annotations")
        problems.append(Problem(loc=loc, message=message, hint="Give both splits the same classes."))
    if wanted is not None and (set(wanted) != set(train) or len(set(wanted)) != len(wanted)):
        problems.append(_other_classes(train, wanted))
    if problems:
        raise DataError(problems)
    return wanted or train, list(_class_remarks(train, val))


def _other_classes(train: tuple[str, ...], wanted: tuple[str, ...]) -> Problem:
    unexpected = [name for name in wanted if name not in train]
    missing = [name for name in train if name not in wanted]
    twice = sorted({name for name in wanted if wanted.count(name) > 1})
    parts = [
        f"not in the data set: {_likely(unexpected, train)}" if unexpected else "",
        f"in the data set but not given: {few(missing)}" if missing else "",
        f"given twice: {few(twice)}" if twice else "",
    ]
    message = f"classes differ from those of the data set; {'; '.join(filter(None, parts))}"
    hint = f"Leave `classes` out, or give these in the order you like: {', '.join(train[:100])}."
    return Problem(loc=("data", "classes"), message=message, hint=hint)


def _likely(names: list[str], known: tuple[str, ...]) -> str:
    """The first names, each with the known one that it may stand for."""
    shown = []
    for name in names:
        close = get_close_matches(name.casefold(), [other.casefold() for other in known], n=1)
        meant = next((other for other in known if close and other.casefold() == close[0]), None)
        shown.append(f"{name!r} (did you mean {meant!r}?)" if meant else repr(name))
    return few(shown)


def _class_remarks(train: tuple[str, ...], val: tuple[str, ...]) -> list[Problem]:
    remarks = []
    if lacking := [name for name in train if name not in val]:
        message = f"val has no such class: {few(lacking)}; their AP cannot be told"
        remarks.append(Problem(loc=("data", "val", "annotations"), message=message))
    alike = [name for name in train if sum(name.casefold() == other.casefold() for other in train) > 1]
    if alike:
        message = f"classes differ in upper and lower case only: {few(alike)}"
        loc = ("data", "train", "annotations")
        remarks.append(Problem(loc=loc, message=message, hint="Is this one class? Then write it one way."))
    return remarks


def _shared(train: Split, val: Split) -> list[Problem]:
    """A remark when pictures of `val` are trained on."""
    seen: set[Path] = {record.path for record in train.images}
    both = [record.path.name for record in val.images if record.path in seen]
    if not both:
        return []
    message = f"{len(both)} of {len(val.images)} pictures of val are also in train: {few(both)}"
    hint = "What is measured on them says nothing about new pictures."
    return [Problem(loc=("data", "val"), message=message, hint=hint)]
