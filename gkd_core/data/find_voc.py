"""Recognises the layouts of Pascal VOC data sets.

Annotations/   and JPEGImages/ or images/, with ImageSets/Main/train.txt and val.txt
train/         and valid/, each with XML files, pictures beside them (Roboflow) or in a folder inside
no lists       Annotations/ and JPEGImages/ alone, or pictures and XML files in one folder: not divided into splits
"""

from __future__ import annotations

from pathlib import Path

from gkd_core.config import SPLITS, TO_TRAIN, Split, SplitName
from gkd_core.data.layout import Found, shown
from gkd_core.data.split_names import files_with_suffix, named, split_folders, subfolder

NAME = "Pascal VOC"
LISTS = "ImageSets/Main"


def find_voc(folder: Path) -> Found | None:
    """Return the layout that a folder has as a VOC data set; None where nothing indicates one."""
    annotations, images = subfolder(folder, "Annotations"), subfolder(folder, "JPEGImages", "images")
    speaks = (folder / "JPEGImages").is_dir() or subfolder(folder, "ImageSets")
    if annotations and (speaks or files_with_suffix(annotations, ".xml")):
        return _with_lists(folder, annotations, images)
    return _in_split_folders(folder) or _in_one_folder(folder)


def _with_lists(folder: Path, annotations: Path, images: Path | None) -> Found:
    if images is None:
        return Found(NAME, {}, "JPEGImages/ (or images/), the folder of pictures, is missing")
    lists, default = _lists(folder)
    place = Split(images=str(images), annotations=str(annotations))
    splits = {split: place.model_copy(update={"names": str(file)}) for split, file in lists.items()}
    missing = [f"{LISTS}/{split}.txt" for split in TO_TRAIN if split not in lists]
    if lists:
        return Found(NAME, splits, _missing_text(missing, None, folder))
    whole = place.model_copy(update={"names": str(default) if default else None})
    return Found(NAME, {"train": whole}, _missing_text(missing, default, folder))


def _missing_text(missing: list[str], whole: Path | None, folder: Path) -> str:
    if not missing:
        return ""
    there = f"{shown(whole, folder)} is there, " if whole and len(missing) == 2 else ""
    return f"{there}{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"


def _lists(folder: Path) -> tuple[dict[SplitName, Path], Path | None]:
    """Return the list of each split, and one without a split; lists of one class, `cat_train.txt`, are skipped."""
    sets = subfolder(folder, "ImageSets")
    place = (subfolder(sets, "Main") or sets) if sets else None
    files = files_with_suffix(place, ".txt") if place else []
    found: dict[SplitName, Path] = {}
    for file in sorted(files, key=lambda file: file.stem not in SPLITS):
        if (each := named(file.stem)) and each.rest == "{}":
            found.setdefault(each.split, file)
    default = [file for file in files if file.name.lower() == "default.txt"]  # CVAT's
    return found, _only_file(default or files) if not found else None


def _only_file(files: list[Path]) -> Path | None:
    return files[0] if len(files) == 1 else None


def _in_split_folders(folder: Path) -> Found | None:
    splits: dict[SplitName, Split] = {}
    for split in SPLITS:
        for place in split_folders(folder, split):
            annotations = subfolder(place, "Annotations") or place
            if files_with_suffix(annotations, ".xml") and split not in splits:
                images = subfolder(place, "JPEGImages", "images") or place
                splits[split] = Split(images=str(images), annotations=str(annotations))
    if not splits:
        return None
    missing = [
        f"{'valid' if split == 'val' else split}/ with XML files" for split in TO_TRAIN if split not in splits
    ]
    return Found(f"{NAME} (Roboflow)", splits, _missing_text(missing, None, folder))


def _in_one_folder(folder: Path) -> Found | None:
    """Return everything where XML files lie beside their pictures, as labelling tools leave them."""
    if not files_with_suffix(folder, ".xml"):
        return None
    whole = Split(images=str(folder), annotations=str(folder))
    return Found(NAME, {"train": whole}, f"{LISTS}/train.txt and {LISTS}/val.txt are missing")
