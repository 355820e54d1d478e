"""Reading takes twice as many comparisons for twice as many names, not four times: counted, not timed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gkd_core.config import DataConfig
from gkd_core.config import Split as SplitConfig
from gkd_core.data import voc
from gkd_core.data.classes import agree, chosen, refuse_unknown_names
from gkd_core.data.findings import Findings
from gkd_core.data.records import WrittenSplit
from gkd_core.errors import DataError

FEW = 100
MANY = 4 * FEW
"""Number of names: quadratic work would be 16 times as much, even with so few."""


class Name(str):
    """A text that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)  # type: ignore[no-any-return]

    def __hash__(self) -> int:
        return str.__hash__(self)

    def casefold(self) -> str:
        return Name(str.casefold(self))


def _names(count: int) -> tuple[Name, ...]:
    return tuple(Name(f"x{number:06d}") for number in range(count))


def _comparisons(work: Callable[[tuple[Name, ...]], object], count: int) -> int:
    names = _names(count)
    Name.compared = 0
    work(names)
    return Name.compared


def _stems(names: Sequence[str]) -> None:
    files = voc._Files([Path("a1.xml")])
    split = SplitConfig(images="i", annotations="a", names="list.txt")
    assert len(voc._stems(split, files, Findings("train", "a"))) == len(names)


def _agree(names: tuple[Name, ...]) -> None:
    agree({"train": names, "val": tuple(map(Name, names))}, tuple(map(Name, names)))


def _disagree(names: tuple[Name, ...]) -> None:
    with pytest.raises(DataError, match="classes differ from those of the data set"):
        agree({"train": names}, (*map(Name, names[1:]), *names[1:]))


def _unknown(names: tuple[Name, ...]) -> None:
    others = tuple(Name(f"y{number}") for number in range(len(names)))
    with pytest.raises(DataError, match=r"and (97|397) more"):
        agree({"train": names, "val": others}, None)


def _chosen(names: tuple[Name, ...]) -> None:
    config = DataConfig.model_construct(rename=dict(zip(names, names, strict=True)), only=tuple(names))
    refuse_unknown_names((*names, *map(Name, names)), config)
    chosen(WrittenSplit(tuple(map(Name, names)), Path(), []), config, Findings("train", "a"))


@pytest.mark.parametrize("work", [_agree, _disagree, _unknown, _chosen])
def test_classes(work: Callable[[tuple[Name, ...]], object]) -> None:
    assert _comparisons(work, MANY) <= 6 * max(_comparisons(work, FEW), FEW)


def test_a_list_of_stems_with_one_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def comparisons(count: int) -> int:
        names = _names(count)
        lines = [*names, Name(names[0])]
        monkeypatch.setattr(voc, "_lines", lambda *_: lines)
        Name.compared = 0
        _stems(names)
        return Name.compared

    assert comparisons(MANY) <= 6 * max(comparisons(FEW), FEW)
