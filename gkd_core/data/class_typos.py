"""Asks about classes that are probably misspelt: they have one object, and a name one letter from another class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from gkd_core.data.findings import few
from gkd_core.data.records import Split
from gkd_core.errors import Problem

SHORTEST, LONGEST = 3, 64
"""Lengths of the names that are compared, in letters: shorter ones are all similar."""


def remark_on_misspelt(train: Split) -> list[Problem]:
    """Return a question about each class with a single object whose name is one letter from that of a larger class."""
    counts = _objects(train)
    pairs = list(_misspelt(counts))
    if not pairs:
        return []
    asked = few([f"`{name}`: did you mean `{other}`?" for name, other in pairs])
    message = f"classes with a single object, one letter from another class: {asked}"
    name, other = pairs[0]
    hint = f'If so, correct the annotations, or give both one name with data.rename: {{"{name}": "{other}"}}.'
    return [Problem(loc=("data", "train", "annotations"), message=message, hint=hint)]


def _objects(train: Split) -> dict[str, int]:
    counts = dict.fromkeys(train.classes, 0)
    for record in train.images:
        for label in record.labels.tolist():
            counts[train.classes[label - 1]] += 1
    return counts


def _misspelt(counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield each class of one object with the largest class one letter away, in time linear in all names."""
    single = [name for name, count in counts.items() if count == 1 and _is_compared(name)]
    if not single:
        return
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name, count in counts.items():
        if count > 1 and _is_compared(name):
            for shortened in _shortened(name):
                alike[shortened].append(name)
    for name in single:
        near = {other for shortened in _shortened(name) for other in alike.get(shortened, ())}
        if found := [other for other in near if _one_letter_apart(name.casefold(), other.casefold())]:
            yield name, max(found, key=lambda other: (counts[other], other))


def _is_compared(name: str) -> bool:
    return SHORTEST <= len(name) <= LONGEST


def _shortened(name: str) -> set[str]:
    """Return the name, and the name without each of its letters: names one letter apart have one of these in common."""
    folded = name.casefold()
    return {folded, *(folded[:i] + folded[i + 1 :] for i in range(len(folded)))}


def _one_letter_apart(first: str, second: str) -> bool:
    """Return whether one letter was added, left out or replaced, or two were exchanged; a digit is no letter."""
    short, long = sorted((first, second), key=len)
    at = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return short[at:] == long[at + 1 :] and long[at].isalpha()
    if at == len(short) or not (short[at].isalpha() and long[at].isalpha()):
        return False
    exchanged = short[at : at + 2] == long[at : at + 2][::-1] and short[at + 2 :] == long[at + 2 :]
    return short[at + 1 :] == long[at + 1 :] or exchanged
