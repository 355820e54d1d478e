"""Every broken or unusual input of the shared collection gets what its manifest asks for, and never a traceback."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from gkd_core.config import DataConfig, Split
from gkd_core.data.check import check
from gkd_core.data.pictures import PictureError, inspect, read_header, read_picture
from gkd_core.errors import GkdError

NASTY = Path(os.environ.get("GKD_SHARED", "/nowhere")) / "data" / "nasty"
CASES = json.loads((NASTY / "MANIFEST.json").read_text())["cases"] if NASTY.is_dir() else []
ALLOWED = {
    "accept": {"accept"},
    "accept_with_warning": {"accept_with_warning"},
    "skip_with_warning": {
        "accept_with_warning",
        "error",
    },  # the manifest: an error that names the item is as good
    "error": {"error"},
}
EXCEPTIONS = {
    # taken without a word: nothing can be known about them
    "images/corrupt_scan.jpg": "accept",
    "images/ycck_inverted.jpg": "accept",
    "coco/box_two_classes.json": "accept",
    # taken with a word, because it may be news to somebody
    "coco/category_unused.json": "accept_with_warning",
    "coco/empty_first_batch.json": "accept_with_warning",
    "coco/exif_stored.json": "accept_with_warning",
    # an error only where a class list is given, as the test below does
    "voc/Annotations/unknown.xml": "accept",
}


def _cases(*folders: str) -> list[object]:
    chosen = [case for case in CASES if case["file"].startswith(folders)]
    return [pytest.param(case["file"], case["expected"], id=case["name"]) for case in chosen]


pytestmark = pytest.mark.skipif(not CASES, reason="GKD_SHARED names no folder of sample data")


@pytest.mark.parametrize(("file", "expected"), _cases("images/"))
def test_a_picture_gets_what_the_manifest_asks_for(file: str, expected: str) -> None:
    outcome = _picture_outcome(NASTY / file)
    if outcome == "error":
        with pytest.raises(PictureError):
            read_picture(NASTY / file)
    else:
        width, height = read_header(NASTY / file)
        pixels = read_picture(NASTY / file)
        assert (pixels.shape, pixels.dtype) == ((height, width, 3), np.uint8)
    assert outcome in ALLOWED[EXCEPTIONS.get(file, expected)]


@pytest.mark.parametrize(("file", "expected"), _cases("coco/"))
def test_a_coco_file_gets_what_the_manifest_asks_for(file: str, expected: str) -> None:
    split = Split(images=str(NASTY / "images"), annotations=str(NASTY / file))
    assert _outcome(DataConfig(train=split, val=split)) in ALLOWED[EXCEPTIONS.get(file, expected)]


@pytest.mark.parametrize(("file", "expected"), _cases("voc/"))
def test_a_voc_file_gets_what_the_manifest_asks_for(file: str, expected: str, tmp_path: Path) -> None:
    names = NASTY / file
    if names.suffix != ".txt":  # a file of one picture: beside a sound one
        names = tmp_path / "names.txt"
        names.write_text("\n".join(dict.fromkeys(["ok", Path(file).stem])))
    assert _outcome(_voc(names)) in ALLOWED[EXCEPTIONS.get(file, expected)]


def test_a_class_that_is_not_on_the_given_list_is_refused(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("ok\nunknown\n")
    with pytest.raises(GkdError, match="not given: hexagon"):
        check(_voc(names).model_copy(update={"classes": ("square", "disc")}))


def _voc(names: Path) -> DataConfig:
    folder = NASTY / "voc"
    split = Split(
        images=str(folder / "JPEGImages"), annotations=str(folder / "Annotations"), names=str(names)
    )
    return DataConfig(format="voc", train=split, val=split)


def _picture_outcome(path: Path) -> str:
    try:
        return "accept_with_warning" if inspect(path) else "accept"
    except PictureError as error:
        return "error" if str(path) in error.message else f"an error that does not name the file: {error}"


def _outcome(config: DataConfig) -> str:
    try:
        report = check(config, decode=True)
    except GkdError as error:
        return "error" if error.message else "an error without a message"
    told = [problem for problem in report.warnings if problem.loc[1] == "train"]
    return "accept_with_warning" if told else "accept"
