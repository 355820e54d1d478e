"""Class names: renamed, left out, and the same in all splits.

The order is: what the annotations say, then `rename`, then `only`, then `classes` as a check and an order of labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TypeGuard

from gkd_core.config import DataConfig, SplitName
from gkd_core.data.findings import SHOWN, Findings, few
from gkd_core.data.records import WrittenImage, WrittenSplit
from gkd_core.errors import DataError, Problem


def is_name(value: object) -> TypeGuard[str]:
    """Return whether files and databases can store it as a name: not blank, no NUL, no lone surrogate."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON and YAML can hold a lone surrogate, UTF-8 cannot
        return False
    return True


# ---- rename and only ---------------------------------------------------------------------------------------


def refuse_unknown_names(names: Iterable[str], config: DataConfig) -> None:
    """Check that `rename` and `only` name classes of the data set.

    Args:
        names: the class names as the annotations of all splits give them.
        config: what was asked for.

    Raises:
        DataError: they name others, or nothing would be left.
    """
    written = dict.fromkeys(names)
    renamed = dict.fromkeys(config.rename.get(name, name) for name in written)
    problems = []
    if unknown := [name for name in config.rename if name not in written]:
        problems.append(_no_such_class("rename", unknown, tuple(written)))
    if blank := [name for name, new in config.rename.items() if not is_name(new)]:
        message = f"the new names of {few(blank)} are no names"
        problems.append(Problem(loc=("data", "rename"), message=message, hint="Give them names to show."))
    if config.only is not None and (unknown := [name for name in config.only if name not in renamed]):
        problems.append(_no_such_class("only", unknown, tuple(renamed)))
    if config.only == ():
        problems.append(Problem(loc=("data", "only"), message="no class is kept", hint="None keeps all."))
    if problems:
        raise DataError(problems)


def chosen(written: WrittenSplit, config: DataConfig, findings: Findings) -> WrittenSplit:
    """Return the split under its new names, without the objects of classes that are not kept; its pictures stay."""
    if not config.rename and config.only is None:
        return written
    names = [config.rename.get(name, name) for name in written.classes]
    kept = None if config.only is None else set(config.only)
    classes = tuple(dict.fromkeys(name for name in names if kept is None or name in kept))
    new = {name: label for label, name in enumerate(classes, start=1)}
    label_of = {old: new[name] for old, name in enumerate(names, start=1) if name in new}
    images = [_with_labels(image, label_of) for image in written.images]
    dropped = Counter(
        names[item.label - 1]
        for image in written.images
        for item in image.objects
        if item.label not in label_of
    )
    for name, count in dropped.items():
        findings.add(f"{name}: {count}", "objects left out of classes that `only` does not name")
    return WrittenSplit(classes, written.folder, images)


def _with_labels(image: WrittenImage, label_of: Mapping[int, int]) -> WrittenImage:
    kept = [item._replace(label=label_of[item.label]) for item in image.objects if item.label in label_of]
    return image._replace(objects=kept)


def _no_such_class(field: str, names: list[str], known: tuple[str, ...]) -> Problem:
    message = f"`{field}` names classes that the data set does not have: {likely(names, known)}"
    return Problem(loc=("data", field), message=message, hint=f"It has {', '.join(known[:100]) or 'none'}.")


# ---- all splits --------------------------------------------------------------------------------------------


def agree(
    splits: Mapping[SplitName, tuple[str, ...]], wanted: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[Problem]]:
    """Return the class names in label order, and remarks.

    The first split (`train`, where it is there) says which classes there are. Another one may lack some of them (VOC
    lists none, and a small split may not hold them all); a class that only another one has could never be learnt and
    is mostly a typo.

    Args:
        splits: the class names of each split.
        wanted: the same names as the first split has, in another order.

    Raises:
        DataError: another split has other classes, or `wanted` is another set than that of the first.
    """
    (first, known), *others = splits.items()
    problems = [problem for name, names in others for problem in unknown_classes(name, names, first, known)]
    if wanted is not None and (set(wanted) != set(known) or len(set(wanted)) != len(wanted)):
        problems.append(_other_classes(known, wanted))
    if problems:
        raise DataError(problems)
    remarks = [remark for name, names in others for remark in _unknown_names(name, names, known)]
    return wanted or known, [*remarks, *_alike(first, known)]


def unknown_classes(
    name: SplitName, names: Iterable[str], first: SplitName, known: Sequence[str]
) -> list[Problem]:
    """Return why the classes of a split are none of those of the first split; empty where some are."""
    there = set(known)
    unknown = [each for each in names if each not in there]
    if not unknown:
        return []
    message = f"{name} has classes that {first} does not: {likely(unknown, known)}; {first} has {few(known)}"
    hint = "Give all splits the same classes, or map them with data.rename or data.only."
    return [Problem(loc=("data", name, "annotations"), message=message, hint=hint)]


def _other_classes(train: tuple[str, ...], wanted: tuple[str, ...]) -> Problem:
    known, times = set(train), Counter(wanted)
    unexpected = [name for name in wanted if name not in known]
    missing = [name for name in train if name not in times]
    twice = sorted(name for name, count in times.items() if count > 1)
    parts = [
        f"not in the data set: {likely(unexpected, train)}" if unexpected else "",
        f"in the data set but not given: {few(missing)}" if missing else "",
        f"given twice: {few(twice)}" if twice else "",
    ]
    message = f"classes differ from those of the data set; {'; '.join(filter(None, parts))}"
    hint = (
        f"Leave `classes` out, or give these in the order you like: {', '.join(train[:100])}. "
        "data.only keeps some of the classes."
    )
    return Problem(loc=("data", "classes"), message=message, hint=hint)


def likely(names: Iterable[str], known: Sequence[str]) -> str:
    """Return the first names, each with the known one that was probably meant."""
    unknown = list(names)
    folded: dict[str, str] = {}
    for other in known:
        folded.setdefault(other.casefold(), other)
    shown = [
        _with_guess(name, folded) for name in unknown[:SHOWN]
    ]  # comparing is slow, and few() shows no more
    return few([*shown, *unknown[SHOWN:]])


def _with_guess(name: str, folded: Mapping[str, str]) -> str:
    """Return the name with the closest known one; `folded`: known names by their casefolded form."""
    close = get_close_matches(name.casefold(), folded, n=1)
    return f"{name!r} (did you mean {folded[close[0]]!r}?)" if close else repr(name)


def _unknown_names(name: SplitName, names: Iterable[str], known: Sequence[str]) -> list[Problem]:
    there = set(names)
    lacking = [each for each in known if each not in there]
    message = f"{name} has no such class: {few(lacking)}; their AP cannot be told"
    return [Problem(loc=("data", name, "annotations"), message=message)] if lacking else []


def _alike(first: SplitName, known: Sequence[str]) -> list[Problem]:
    times = Counter(name.casefold() for name in known)
    alike = [name for name in known if times[name.casefold()] > 1]
    message = f"classes differ in upper and lower case only: {few(alike)}"
    hint = "Is this one class? Then give both one name with data.rename."
    return [Problem(loc=("data", first, "annotations"), message=message, hint=hint)] if alike else []
