"""`load`: a config becomes a data set, its annotations compared with its pictures.

A picture that is missing, or whose header cannot be read, is an error, and all such pictures are named at once. A
picture whose header is sound and whose body is not is only found by decoding it (`decode=True`); it is left out
with a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from gkd_core import config as spec
from gkd_core.config import DataConfig
from gkd_core.data.classes import agree, chosen, refuse_unknown_names
from gkd_core.data.coco import read_coco
from gkd_core.data.divide import divide
from gkd_core.data.find import find_layout
from gkd_core.data.findings import Findings, Gathered, few
from gkd_core.data.records import DataSet, Split, WrittenSplit
from gkd_core.data.settle import settle
from gkd_core.data.voc import read_voc
from gkd_core.data.yolo import read_yolo
from gkd_core.errors import Problem

READERS: dict[str, Callable[[spec.Split, Findings], WrittenSplit]] = {
    "coco": read_coco,
    "voc": read_voc,
    "yolo": read_yolo,
}


def load(
    config: DataConfig,
    *,
    headers: int | None = None,
    decode: bool | Collection[str] = False,
    broken: Collection[Path] = (),
) -> DataSet:
    """Read both splits.

    Args:
        config: the data set; its paths are absolute or relative to the working directory.
        headers: look into at most so many pictures of a split, evenly spread, and into those without a declared
            size; the others only have to exist. None: into all.
        decode: also decode each picture looked into, so that broken ones are left out before any work begins; of
            both splits, or of those that are named.
        broken: pictures that are left out, since an earlier reading found that they cannot be decoded.

    Raises:
        DataError: with everything that is wrong in both splits, as far as it can be known.
    """
    config = find_layout(config)
    splits = {"train": config.train, "val": config.val}
    if isinstance(decode, bool):
        decode = splits.keys() if decode else ()
    findings = {name: Findings(name, split.annotations) for name, split in splits.items() if split}
    written: dict[str, WrittenSplit] = {}
    settled: dict[str, Split] = {}
    errors = Gathered()
    told: list[Problem] = []
    for name, split in splits.items():
        with errors.step():
            assert split is not None  # find_layout's promise
            if name != "val" or config.val_share is None:
                written[name] = READERS[config.format](split, findings[name])
    errors.stop()
    if config.val_share is not None:
        whole = written["train"]
        written["train"], written["val"], remark = divide(
            whole, config.val_share, config.val_seed, findings["train"]
        )
        told.append(remark)
    refuse_unknown_names(written["train"].classes, written["val"].classes, config)
    written = {name: chosen(split, config, findings[name]) for name, split in written.items()}
    classes, remarks = agree(written["train"].classes, written["val"].classes, config.classes)
    for name in splits:
        with errors.step():
            settled[name] = settle(
                written[name],
                classes,
                findings[name],
                headers=headers,
                decode=name in decode,
                broken=broken,
            )
    errors.stop()
    train, val = settled["train"], settled["val"]
    warnings = [
        *told,
        *findings["train"].problems(),
        *findings["val"].problems(),
        *remarks,
        *_shared(train, val),
    ]
    noted = (*findings["train"].noted(), *findings["val"].noted())
    return DataSet(classes, train, val, tuple(warnings), noted)


def _shared(train: Split, val: Split) -> list[Problem]:
    """A remark when pictures of `val` are trained on."""
    seen: set[Path] = {record.path for record in train.images}
    both = [record.path.name for record in val.images if record.path in seen]
    if not both:
        return []
    message = f"{len(both)} of {len(val.images)} pictures of val are also in train: {few(both)}"
    hint = "What is measured on them says nothing about new pictures."
    return [Problem(loc=("data", "val"), message=message, hint=hint)]
