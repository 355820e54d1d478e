"""`load`: reads the data set that a config describes, and compares its annotations with its pictures.

A picture that is missing, or whose header cannot be read, is an error, and all such pictures are named at once. A
picture with a sound header and a damaged body is only found by decoding it (`decode=True`); it is left out with a
warning.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

from gkd_core import config as spec
from gkd_core.config import SPLITS, TO_TRAIN, DataConfig, SplitName
from gkd_core.data.class_typos import remark_on_misspelt
from gkd_core.data.classes import agree, chosen, refuse_unknown_names, unknown_classes
from gkd_core.data.coco import read_coco
from gkd_core.data.find import find_layout
from gkd_core.data.findings import Findings, Gathered, few
from gkd_core.data.records import DataSet, Split, WrittenSplit
from gkd_core.data.val_share import divide
from gkd_core.data.validate import validate_split
from gkd_core.data.voc import read_voc
from gkd_core.data.yolo import read_yolo
from gkd_core.errors import DataError, Problem

READERS: dict[str, Callable[[spec.Split, Findings], WrittenSplit]] = {
    "coco": read_coco,
    "voc": read_voc,
    "yolo": read_yolo,
}


def load(
    config: DataConfig,
    *,
    needs: Collection[SplitName] | None = None,
    headers: int | None = None,
    decode: bool | Collection[SplitName] = False,
    broken: Collection[Path] = (),
    white: int | None = None,
) -> DataSet:
    """Read the splits.

    Args:
        config: the data set; its paths are absolute or relative to the working directory.
        needs: the splits that must be there and usable; another one that is not is left out with a remark. None: what
            a training needs, and what the config spells out.
        headers: read the headers of at most so many pictures of a split, evenly spread, and of those without a declared
            size; the others only have to exist. None: of all.
        decode: also decode each of those pictures, so that broken ones are left out before any work begins; of
            all splits, or of those that are named.
        broken: pictures that are left out, since an earlier reading found that they cannot be decoded.
        white: the white value of pictures of 16 or 32 bits; None: estimated from the first split, for all.

    Raises:
        DataError: with all errors of the needed splits, as far as they can be found.
    """
    needs = needed(config) if needs is None else needs
    config = find_layout(config, needs=needs)
    if config.val_share is not None:
        needs = {*needs, "train"}  # which val is a share of
    if isinstance(decode, bool):
        decode = SPLITS if decode else ()
    findings = {name: Findings(name, split.annotations) for name, split in config.splits.items()}
    left_out: list[Problem] = []
    written, told = _read_annotations(config, findings, needs, left_out)
    refuse_unknown_names((each for split in written.values() for each in split.classes), config)
    written = {name: chosen(split, config, findings[name]) for name, split in written.items()}
    written = _of_known_classes(written, needs, left_out)
    classes, remarks = agree({name: split.classes for name, split in written.items()}, config.classes)
    settled: dict[SplitName, Split] = {}
    errors = Gathered()
    for name, each in written.items():
        with errors.step(), _unless_needed(name, needs, left_out):
            settled[name] = validate_split(
                each,
                classes,
                findings[name],
                headers=headers,
                decode=name in decode,
                broken=broken,
                white=white,
            )
            white = settled[name].images[0].white
    errors.stop()
    told += [problem for name in settled for problem in findings[name].problems()]
    noted = tuple(each for name in settled for each in findings[name].noted())
    asked = remark_on_misspelt(settled["train"]) if "train" in settled else []
    return DataSet(classes, settled, (*told, *remarks, *asked, *left_out, *_shared(settled)), noted, white)


def _read_annotations(
    config: DataConfig,
    findings: Mapping[SplitName, Findings],
    needs: Collection[SplitName],
    left_out: list[Problem],
) -> tuple[dict[SplitName, WrittenSplit], list[Problem]]:
    """Return the splits as their annotations describe them, and a remark if val is a share of train.

    Raises:
        DataError: with the errors of all needed splits.
    """
    written: dict[SplitName, WrittenSplit] = {}
    errors = Gathered()
    for name, split in config.splits.items():
        if name == "val" and config.val_share is not None:
            continue  # it is a share of what train reads
        with errors.step(), _unless_needed(name, needs, left_out):
            written[name] = READERS[config.format](split, findings[name])
    errors.stop()
    if config.val_share is None or "train" not in written:
        return written, []
    written["train"], written["val"], remark = divide(
        written["train"], config.val_share, config.val_seed, findings["train"]
    )
    return {name: written[name] for name in SPLITS if name in written}, [remark]


def needed(config: DataConfig) -> tuple[SplitName, ...]:
    """Return the splits that a training needs, and those that the config spells out."""
    return tuple(dict.fromkeys((*TO_TRAIN, *config.splits)))


@contextmanager
def _unless_needed(name: SplitName, needs: Collection[SplitName], left_out: list[Problem]) -> Iterator[None]:
    """Leave a split out with a remark when the block cannot read it, unless it is needed.

    Raises:
        DataError: the block cannot read a split that is needed.
    """
    try:
        yield
    except DataError as error:
        if name in needs:
            raise
        why = "; ".join(problem.message for problem in error.problems)
        message = f"the {name} split is left out: {why}"
        left_out.append(Problem(loc=("data", name), message=message, hint=error.problems[0].hint))


def _of_known_classes(
    written: dict[SplitName, WrittenSplit], needs: Collection[SplitName], left_out: list[Problem]
) -> dict[SplitName, WrittenSplit]:
    """Return the splits without those that are not needed and have none of the first split's classes."""
    first = next(iter(written))
    kept = {}
    for name, split in written.items():
        with _unless_needed(name, {*needs, first}, left_out):
            if name not in needs and (
                problems := unknown_classes(name, split.classes, first, written[first].classes)
            ):
                raise DataError(problems)
            kept[name] = split
    return kept


def _shared(splits: Mapping[SplitName, Split]) -> list[Problem]:
    """Return a remark for every two splits that have pictures in common."""
    remarks = []
    for first, second in combinations(splits, 2):
        seen = {record.path for record in splits[first].images}
        both = [record.path.name for record in splits[second].images if record.path in seen]
        if both:
            count = f"{len(both)} of {len(splits[second].images)}"
            message = f"{count} pictures of {second} are also in {first}: {few(both)}"
            hint = "What is measured on them says nothing about new pictures."
            remarks.append(Problem(loc=("data", second), message=message, hint=hint))
    return remarks
