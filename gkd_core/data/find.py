"""Recognises the layout of a folder, so that a person need only name it.

    COCO      annotations/instances_train*.json and instances_val*.json and the like, or train/ and valid/ with a JSON
              file each (see `find_coco`)
    VOC       Annotations/, JPEGImages/, ImageSets/Main/train.txt and val.txt (see `find_voc`)
    YOLO      data.yaml, or classes.txt with images/train and images/val (see `find_yolo`)

Where several formats are found, COCO is taken before VOC and VOC before YOLO: COCO holds most, and VOC is not in
fractions. Where none is complete, the error says what an incomplete one lacks; a data set with one split only is
divided if `val_share` asks for it. A test split is found in the same places, and may be absent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gkd_core.config import SPLITS, TO_TRAIN, DataConfig, Split, SplitName
from gkd_core.data.data_yaml import YAML
from gkd_core.data.find_coco import find_coco
from gkd_core.data.find_voc import find_voc
from gkd_core.data.find_yolo import find_yolo
from gkd_core.data.layout import Found, layout_error, shown
from gkd_core.data.split_names import subfolders
from gkd_core.errors import DataError, Problem

NEIGHBOURS = 20
"""Limit of the folders inside a folder that are tried when it is no data set itself."""


_Find = Callable[[Path], Found | None]
_Splits = Mapping[SplitName, Split]


class Layout(NamedTuple):
    """A data set with every path filled in, and remarks on how it was found."""

    config: DataConfig
    remarks: tuple[Problem, ...] = ()


def find_layout(
    config: DataConfig, base: Path | None = None, *, needs: Collection[SplitName] = TO_TRAIN
) -> DataConfig:
    """Return the config with the format and its splits filled in and every path under `base`.

    Args:
        config: the data set.
        base: what relative paths are relative to; None: the working directory.
        needs: the splits that must be there; none: at least one, whichever.

    Raises:
        DataError: the folder does not exist, has no known layout, or a split is missing; the message says what was
            looked for.
    """
    return recognise(config, base, needs=needs).config


def recognise(
    config: DataConfig, base: Path | None = None, *, needs: Collection[SplitName] = TO_TRAIN
) -> Layout:
    """Return what `find_layout` does, with remarks on what else could have been meant.

    Raises:
        DataError: as `find_layout`.
    """
    base = base or Path()
    if config.path is None:
        return Layout(_spelt_out(config, base, needs))
    place = base / config.path
    is_yaml = place.is_file() and place.suffix.lower() in YAML and config.format in ("auto", "yolo")
    if not (place.is_dir() or is_yaml):
        hint = "Paths are relative to the data root. A file can only be the data.yaml of a YOLO data set."
        raise layout_error(f"no such folder: {place}", hint)
    known = {"yolo": find_yolo} if is_yaml else FORMATS
    wanted = {name: find for name, find in known.items() if config.format in ("auto", name)}
    name, found = _best_format(wanted, place, config, needs)
    splits = _divided(found, config, place) if config.val_share is not None else found.splits
    resolved = config.model_copy(update={"format": name, "path": None} | dict(splits))
    return Layout(resolved, tuple(_remarks(found, splits, place)))


def _best_format(
    wanted: Mapping[str, _Find], place: Path, config: DataConfig, needs: Collection[SplitName]
) -> tuple[str, Found]:
    """Return the first format that has all the splits that are needed, preferring one with a training split.

    Raises:
        DataError: none has; the message says what is missing.
    """
    all_found = {name: found for name, find in wanted.items() if (found := find(place))}
    for name, found in all_found.items():
        if found.splits.keys() >= {*TO_TRAIN, *needs}:
            return name, found
    for name, found in all_found.items():
        if _will_do(found, config, needs):
            return name, found
    parts = list(all_found.values())
    raise _incomplete(place, parts, needs) if parts else _not_a_data_set(place, config.format)


def _will_do(found: Found, config: DataConfig, needs: Collection[SplitName]) -> bool:
    """Return whether an incomplete layout has the splits that are needed, perhaps once it is divided."""
    if config.val_share is None:
        return bool(found.splits) and found.splits.keys() >= set(needs)
    return found.to_divide is not None and {*found.splits, "val"} >= set(needs)


def _divided(found: Found, config: DataConfig, place: Path) -> dict[SplitName, Split]:
    """Return one and the same split for train and val, of which the reader takes its share for each."""
    if found.to_divide is None:
        raise _has_val(str(place))
    return {**found.splits, "train": found.to_divide, "val": found.to_divide}


def _has_val(name: str) -> DataError:
    message = f"`val_share` divides a data set that has no validation split, and {name} has one"
    return DataError([Problem(loc=("data", "val_share"), message=message, hint="Leave it out.")])


def _remarks(found: Found, splits: _Splits, place: Path) -> Iterator[Problem]:
    """Yield a remark on files that were not read, and one on paths that were replaced."""
    if found.not_read:
        more = f" and {len(found.not_read) - 3} more" if len(found.not_read) > 3 else ""
        listed = ", ".join(found.not_read[:3]) + more
        message = f"{place} has other annotations, too, which are not read: {listed}"
        hint = "If one of them is meant, spell out data.train and data.val."
        yield Problem(loc=("data", "path"), message=message, hint=hint)
    paths = [path for split in splits.values() for path in (split.images, split.annotations)]
    outside = [path for path in dict.fromkeys(paths) if not Path(path).is_relative_to(place)]
    if outside and place.is_dir():
        message = f"read from outside the named folder {place}: {', '.join(outside[:4])}"
        hint = "If its own files are meant, correct the paths in data.yaml."
        yield Problem(loc=("data", "path"), message=message, hint=hint)


def _spelt_out(config: DataConfig, base: Path, needs: Collection[SplitName]) -> DataConfig:
    given = config.splits
    if config.val_share is not None and config.train:
        if config.val not in (
            None,
            config.train,
        ):  # of a registered data set, for which a spec gave the share
            raise _has_val("this one")
        given["val"] = config.train
    if missing := [_missing_split(name) for name in SPLITS if name in needs and name not in given]:
        raise DataError(missing)
    splits = {
        name: Split(
            images=str(base / split.images),
            annotations=str(base / split.annotations),
            names=str(base / split.names) if split.names else None,
        )
        for name, split in given.items()
    }
    first = next(iter(splits.values()))
    format = _format_of(first) if config.format == "auto" else config.format
    return config.model_copy(update={"format": format} | splits)


def _missing_split(name: SplitName) -> Problem:
    hint = f"Spell it out: data.{name}. A single split is enough for a job of kind `evaluate`."
    if name == "val":
        hint += " Or set a share of the training pictures aside: data.val_share, such as 0.2."
    return Problem(loc=("data", name), message=f"there is no `{name}` split", hint=hint)


def _format_of(split: Split) -> str:
    if not Path(split.annotations).is_dir():
        return "coco"
    named_as_yolo = split.names is not None and Path(split.names).suffix.lower() in YAML
    return "yolo" if named_as_yolo or Path(split.images).is_file() else "voc"


FORMATS: Mapping[str, _Find] = {"coco": find_coco, "voc": find_voc, "yolo": find_yolo}
"""The function that finds each format, in order of preference."""
LAYOUTS = {
    "coco": "COCO (instances_train*.json and instances_val*.json in annotations/, coco/ or the folder)",
    "voc": "VOC (Annotations/, JPEGImages/, ImageSets/Main/train.txt and val.txt)",
    "yolo": "YOLO (data.yaml, or classes.txt with images/train/ and images/val/)",
}


def _incomplete(folder: Path, parts: Sequence[Found], needs: Collection[SplitName]) -> DataError:
    """Return what a folder looks like, and what is missing."""
    told = "; ".join(f"{folder} looks like {part.name}: {_missing_text(part, needs)}" for part in parts)
    hint = "Add what is missing, or spell out data.train and data.val."
    if any(part.to_divide for part in parts):
        hint += (
            " Or set some pictures of the split that is there aside to judge on: data.val_share, "
            "such as 0.2 (`gkd data check --val-share 0.2`)."
        )
    return layout_error(told, hint)


def _missing_text(part: Found, needs: Collection[SplitName]) -> str:
    """Return what is missing, in words; only `evaluate` asks for a test split, a training does not."""
    if "test" not in needs or "test" in part.splits or not part.splits:
        return part.missing
    return f"it has no test split, only {' and '.join(part.splits)}"


def _not_a_data_set(folder: Path, wanted: str) -> DataError:
    found = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    listed = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "") or "nothing"
    looked = [layout for name, layout in LAYOUTS.items() if wanted in ("auto", name)]
    hint = "Name a folder with one of these layouts, or spell out data.train and data.val."
    if inside := _data_sets_inside(folder, wanted):
        hint = f"{' and '.join(inside)} inside it can be read: name that folder."
    return layout_error(f"{folder} is no data set: looked for {' and '.join(looked)}; found {listed}", hint)


def _data_sets_inside(folder: Path, wanted: str) -> list[str]:
    """Return the data sets inside a folder, up to two levels deep: archives often nest a folder in a folder."""
    inside = subfolders(folder)[:NEIGHBOURS]
    deeper = [place for each in inside for place in (each, *subfolders(each)[:NEIGHBOURS])]
    finders = [find for name, find in FORMATS.items() if wanted in ("auto", name)]
    return [shown(place, folder) for place in deeper if any(_is_complete(find, place) for find in finders)][
        :3
    ]


def _is_complete(find: _Find, place: Path) -> bool:
    try:
        found = find(place)
    except DataError:
        return False
    return found is not None and found.splits.keys() >= set(TO_TRAIN)
