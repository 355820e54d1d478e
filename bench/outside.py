"""Data sets as people bring them: runs every folder of a collection and checks the outcome.

    python bench/outside.py FOLDER [--json] [--only TEXT] [--quick]

FOLDER holds CASES.md, which says what must happen with each folder beside it. Each case runs the command that is named
there (`gkd data check`, `gkd run`, `gkd predict`), or reads as a job does, in processes of its own. Exits with 1 unless
every case has its expected outcome.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 1800
"""Time after which a command is taken to hang. The longest trains for half a minute on an idle core."""


class Done(NamedTuple):
    """The outcome of a command."""

    code: int
    said: str
    """Standard output and standard error."""
    report: dict[str, Any]
    """The JSON that it printed, if any."""
    seconds: float
    """Processor time."""

    @property
    def warnings(self) -> list[str]:
        """Return the messages of the report's warnings."""
        return [f"{each['message']} {each['hint']}" for each in self.report.get("warnings", ())]

    @property
    def problems(self) -> str:
        """Return the messages of the report's problems."""
        return " ".join(f"{each['message']} {each['hint']}" for each in self.report.get("problems", ()))

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Return the pictures of train and of val, and the objects of train and of val."""
        train, val = self.report.get("train", {}), self.report.get("val", {})
        return (
            *(split.get("images", -1) for split in (train, val)),
            *(split.get("boxes", -1) for split in (train, val)),
        )


Check = Callable[[Path, Path], Iterator[tuple[str, bool]]]
"""Takes the case's folder and an empty one; yields each condition in words, and whether it holds."""


@dataclass(frozen=True)
class Result:
    """The outcome of one case."""

    case: str
    ok: bool
    failed: tuple[str, ...]
    """The conditions that do not hold."""


def main() -> int:
    """Run every case and print the outcomes; return 0 if all are as expected."""
    arguments = _arguments()
    if arguments.folder is None:
        print("nothing to do: name the folder that holds CASES.md, or set GKD_SHARED", file=sys.stderr)
        return 0
    results = []
    for name, check in CASES.items():
        if arguments.only in name and not (arguments.quick and name.startswith(SLOW)):
            results.append(_result(arguments.folder.resolve() / name, check))
            if not arguments.json:
                print(_line(results[-1]), flush=True)
    right = sum(result.ok for result in results)
    if arguments.json:
        print(json.dumps([asdict(result) for result in results], indent=1, ensure_ascii=False))
    else:
        print(f"{right} of {len(results)}")
    return 0 if right == len(results) else 1


def _arguments() -> argparse.Namespace:
    shared = os.environ.get("GKD_SHARED")
    default = Path(shared) / "data" / "outside" if shared else None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=default)
    parser.add_argument("--json", action="store_true", help="print every case as JSON")
    parser.add_argument("--only", default="", help="only the cases whose name holds this")
    parser.add_argument("--quick", action="store_true", help="leave out the cases that train")
    return parser.parse_args()


def _result(folder: Path, check: Check) -> Result:
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as copy:
        try:
            case = _copied(folder, Path(copy, "case"))
            failed = tuple(words for words, holds in check(case, Path(scratch)) if not holds)
        except Exception as error:  # a case that cannot be run must not keep the others from running
            failed = (f"{type(error).__name__}: {error}",)
    return Result(folder.name, not failed, failed)


def _copied(folder: Path, target: Path) -> Path:
    """Copy a case to a writable folder whose path has none of the words that are looked for in messages."""
    shutil.copytree(folder, target, symlinks=True)
    for place, _, files in os.walk(target):
        os.chmod(place, 0o755)
        for name in files:
            os.chmod(Path(place, name), 0o644)
    return target


def _line(result: Result) -> str:
    return f"right {result.case}" if result.ok else f"WRONG {result.case}: {'; '.join(result.failed)}"


# ---- commands ----------------------------------------------------------------------------------------------


def gkd(*arguments: str | Path, where: Path) -> Done:
    """Run the command line in a folder."""
    command = "import sys; from client.cli import app; sys.argv[0] = 'gkd'; app()"
    return _python(command, *arguments, where=where)


def data_check(folder: Path, *options: str) -> Done:
    """Run `gkd data check FOLDER --json`."""
    return gkd("data", "check", folder, *options, "--json", where=folder)


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the records of both splits as a job does, with the mean and spread of the pictures that the model sees."""
    return _python(READ, folder, where=folder).report


READ = """
import dataclasses, json, sys
from gkd_core.config import DataConfig
from gkd_core.data.loading import eval_batches
from gkd_core.data.reading import load
data = load(DataConfig(path=sys.argv[1]), decode=True)
told = {}
for name, split in (("train", data.train), ("val", data.val)):
    seen = [sample.image.float() for batch in eval_batches(split.images, 96, 1) for sample in batch]
    told[name] = [
        {"path": str(record.path), "boxes": record.boxes.tolist(), "area": record.area.tolist(),
         "mean": float(image.mean()), "spread": float(image.std())}
        for record, image in zip(split.images, seen, strict=True)
    ]
print(json.dumps(told))
"""


def _python(code: str, *arguments: str | Path, where: Path) -> Done:
    here = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {
        "PYTHONPATH": here,
        "COLUMNS": "1000",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
    }
    before = _processor_seconds()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = {}
    said, seconds = done.stdout + done.stderr, _processor_seconds() - before
    return Done(done.returncode, said, report if isinstance(report, dict) else {}, seconds)


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# ---- what is right -----------------------------------------------------------------------------------------


def _accepted(done: Done, *counts: int) -> Iterator[tuple[str, bool]]:
    """Yield the conditions of an accepted data set, with these pictures and objects of train and val."""
    yield f"it is accepted ({done.problems or done.said[-300:] if done.code else ''})", done.code == 0
    for name, expected, found in zip(
        ("train pictures", "val pictures", "train objects", "val objects"), counts, done.counts, strict=True
    ):
        yield f"{expected} {name}, not {found}", found == expected


def _warns(done: Done, *words: str) -> tuple[str, bool]:
    """Return the condition that one warning has all these words."""
    holds = any(all(word.lower() in told.lower() for word in words) for told in done.warnings)
    return f"a warning says {', '.join(map(repr, words))}", holds


def _refused(done: Done, *words: str) -> Iterator[tuple[str, bool]]:
    """Yield the conditions of a refusal in these words, without a traceback."""
    yield "it is refused", done.code == 1
    yield "without a traceback", "Traceback" not in done.said
    told = f"{done.problems} {done.said}".lower()
    for word in words:
        yield f"{word!r} is said", word.lower() in told


def _pair(done: Done, split: str) -> tuple[str, str]:
    """Return the annotations and the folder of pictures that were chosen."""
    chosen = done.report.get("resolved", {}).get(split, {})
    return chosen.get("annotations", ""), chosen.get("images", "")


def _same_names(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    done = data_check(folder)
    yield from _accepted(done, 24, 24, 48, 48)
    printed = gkd("data", "check", folder, where=folder).said
    for split, place in (("train", "train"), ("val", "valid")):
        file, pictures = f"{folder}/{place}/_annotations.coco.json", f"{folder}/{place}"
        yield f"{split} is read from {place}/", _pair(done, split) == (file, pictures)
        lines = [line for line in printed.splitlines() if f"{place}/_annotations.coco.json" in line]
        yield (
            f"both places of {split} are printed",
            any(line.count(place) >= 2 for line in lines),
        )
    yield "no picture is said to be in both splits", "also in train" not in printed


def _images_subfolder(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    done = data_check(folder)
    yield from _accepted(done, 4, 3, 8, 6)
    yield "pictures of train/images/", _pair(done, "train")[1] == f"{folder}/train/images"
    yield "pictures of valid/images/", _pair(done, "val")[1] == f"{folder}/valid/images"


def _capital(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    done = data_check(folder)
    yield from _accepted(done, 4, 2, 8, 4)
    yield "pictures of images/Train/", _pair(done, "train")[1] == f"{folder}/images/Train"
    yield "pictures of images/Validation/", _pair(done, "val")[1] == f"{folder}/images/Validation"


def _one_split(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    yield from _refused(data_check(folder), "instances_default.json", "validation", "missing", "val_share")
    once, again = (data_check(folder, "--val-share", "0.25") for _ in range(2))
    yield from _accepted(once, 3, 1, 6, 2)
    yield "the same split again", once.report == again.report


def _upper_bmp(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    yield from _accepted(data_check(folder), 4, 2, 8, 4)


def _floats(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    yield from _accepted(data_check(folder), 4, 2, 8, 4)


def _crowd_as_text(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    done = data_check(folder)
    yield from _accepted(done, 4, 2, 8, 4)
    for split in ("train", "val"):
        yield f"no crowd in {split}", done.report.get(split, {}).get("crowd") == 0


def _absent_list(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    done = data_check(folder)
    yield from _refused(done, "train.txt", "data/images/train/i01.jpg", "4 of 4", "missing")
    yield "labels are not blamed", "no file of labels" not in done.problems


def _backslash(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    yield from _refused(data_check(folder), "data.yaml", "backslash", "set_a/images")


def _linked(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    """Check the folder that holds both as the data root; outside of it the link is named and counted."""
    done = gkd("data", "check", "ds", "--json", where=folder)
    if done.counts[0] == 6:
        yield from _accepted(done, 6, 2, 12, 4)
    else:
        yield from _accepted(done, 2, 2, 4, 4)
        yield _warns(done, "link", "siteA", "1")


def _corners_outside(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    done = data_check(folder)
    yield from _accepted(done, 4, 2, 8, 4)
    yield "no picture became empty", done.report.get("train", {}).get("images_without_boxes") == 0
    yield _warns(done, "clip", "i01.txt")


def _own_ids(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    trained = gkd("run", "spec.json", "--out", scratch / "run", where=folder)
    yield f"it trains ({trained.said[-300:] if trained.code else ''})", trained.code == 0
    model = next((scratch / "run").rglob("*best*.safetensors"), None) or next(
        (scratch / "run").rglob("*.safetensors")
    )
    found = gkd("predict", model, folder / "images" / "val", "--out", scratch, "--score", "0", where=folder)
    yield f"it predicts ({found.said[-300:] if found.code else ''})", found.code == 0
    rows = json.loads((scratch / "predictions.json").read_text())
    own = json.loads((folder / "annotations" / "instances_val.json").read_text())
    yield "something is found", bool(rows)
    for key, listed in (("category_id", "categories"), ("image_id", "images")):
        known = {entry["id"] for entry in own[listed]}
        unknown = sorted({row[key] for row in rows} - known)[:5]
        yield f"{key} as in the data set's own file, not {unknown}", not unknown
    names = {entry["id"]: entry["file_name"] for entry in own["images"]}
    yield "ids of their own pictures", all(names.get(row["image_id"]) == row["file_name"] for row in rows)


def _white_tiff(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    done, seen = data_check(folder), read(folder)
    told = any(_warns(done, word)[1] for word in ("constant", "one colour", "white"))
    flat = [each["path"] for split in seen.values() for each in split if each["spread"] < 5]
    refused = done.code == 1 and "32" in done.problems
    yield "the pictures can be seen, or it is said that not", refused or (bool(seen) and (told or not flat))


def _hot_pixel(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    yield from _accepted(data_check(folder), 3, 2, 6, 4)
    means = [each["mean"] for split in read(folder).values() for each in split]
    yield "the pictures can be read", len(means) == 5
    yield (
        f"one scale for all pictures: means {[round(mean) for mean in means]}",
        max(means) < 2 * min(means),
    )


def _large_ids(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    """Train on it, and evaluate its own boxes: it is chance whether a short training detects anything."""
    pictures = folder / "images"
    pictures.unlink()  # was a link to pictures of another case; the copy holds a text file in its place
    for split, number, colour in (("train", 48, "red"), ("val", 8, "blue")):
        _draw(pictures / split, number, colour)
    done = gkd("run", "train.json", "--out", scratch / "run", "--json", where=folder)
    yield f"it trains and evaluates ({done.said[-500:] if done.code else ''})", done.code == 0
    yield "without a traceback", "Traceback" not in done.said
    events = [json.loads(line) for line in done.said.splitlines() if line.startswith("{")]
    scores = [event["metrics"].get("AP", -1) for event in events if event.get("kind") == "evaluation"]
    yield f"each evaluation has an AP: {scores}", bool(scores) and min(scores) >= 0
    found = _python(SCORE, folder, where=folder)
    yield f"its own boxes have AP 1: {found.report or found.said[-300:]}", found.report == {"AP": 1.0}


def _draw(folder: Path, number: int, colour: str) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for name in range(1, number + 1):
        Image.new("RGB", (96, 64), colour).save(folder / f"img_{name:03}.jpg")


SCORE = """
import json, sys
import numpy as np
from gkd_core.config import DataConfig
from gkd_core.data.reading import load
from gkd_core.evaluation.coco import score
data = load(DataConfig(path=sys.argv[1]))
found = {
    record.image_id: {"boxes": record.boxes, "labels": record.labels,
                      "scores": np.ones(len(record.labels), dtype=np.float32)}
    for record in data.val.images
}
print(json.dumps({"AP": round(score(data.val.images, data.classes, found).metrics["AP"], 6)}))
"""


def _tiny(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    done = gkd("run", "spec.json", "--out", scratch / "run", where=folder)
    yield "it is refused", done.code not in (0, 75)
    yield "without a traceback", "Traceback" not in done.said
    yield "image size and number are said", all(word in done.said for word in ("image_size", "64", "15"))
    yield "no step was trained", not list((scratch / "run").rglob("*.safetensors"))


def _long_list(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    """Compare with the same list without its duplicate: seconds depend on the machine."""
    done = data_check(folder)
    yield from _accepted(done, 1, 1, 2, 2)
    yield _warns(done, "listed twice", "a1")
    names = folder / "ImageSets" / "Main" / "train.txt"
    lines = names.read_text().splitlines()
    names.write_text("\n".join(dict.fromkeys(lines)))
    once = data_check(folder)
    yield (
        f"{done.seconds:.1f} s with a duplicate, {once.seconds:.1f} s without",
        done.seconds < 2 * once.seconds,
    )


def _several_json(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    done = data_check(folder)
    yield from _accepted(done, 4, 2, 8, 4)
    for split in ("train", "val"):
        yield f"the standard name of {split}", _pair(done, split)[0].endswith(f"/instances_{split}.json")


def _same_stem(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    yield from _accepted(data_check(folder), 3, 2, 6, 4)
    pictures = [each["path"] for split in read(folder).values() for each in split]
    yield (
        "the files that `filename` names",
        len(pictures) == 5 and all(path.endswith(".png") for path in pictures),
    )


def _stored_frame(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    done = data_check(folder)
    yield from _accepted(done, 3, 2, 6, 4)
    yield _warns(done, "EXIF", "i01.jpg")


def _suffixes(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    done = data_check(folder)
    yield from _accepted(done, 6, 2, 12, 4)
    yield "no label is without a picture", not _warns(done, "without a picture")[1]
    code = "import sys, json, pathlib; from gkd_core.runs.prediction_images import find_pictures as find; "
    code += "files, wrong = find([pathlib.Path(sys.argv[1])], pathlib.Path('/nowhere')); "
    code += "print(json.dumps({'files': len(files)}))"
    found = _python(code, folder / "images" / "train", where=folder).report
    yield f"predict takes all of them: {found}", found == {"files": 6}


def _sibling(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    done = data_check(folder / "second")
    yield from _accepted(done, 3, 2, 6, 4)
    yield _warns(done, "outside", "second")
    yield "the other data set has nothing to be said", not data_check(folder).warnings


def _normalised_area(folder: Path, scratch: Path) -> Iterator[tuple[str, bool]]:
    done = data_check(folder)
    yield from _accepted(done, 4, 2, 8, 4)
    yield _warns(done, "area", "8: annotation 1")
    areas = [
        (area, (x2 - x1) * (y2 - y1))
        for split in read(folder).values()
        for each in split
        for area, (x1, y1, x2, y2) in zip(each["area"], each["boxes"], strict=True)
    ]
    yield "the boxes' areas count", len(areas) == 12 and all(area == box for area, box in areas)


CASES: dict[str, Check] = {
    "01-roboflow-coco-same-names": _same_names,
    "02-roboflow-coco-images-subfolder": _images_subfolder,
    "03-cvat-subsets-capital": _capital,
    "04-cvat-default-only": _one_split,
    "06-voc-upper-bmp": _upper_bmp,
    "08-coco-pandas-floats": _floats,
    "09-iscrowd-as-text": _crowd_as_text,
    "14-cvat-ultralytics-data-prefix": _absent_list,
    "15b-windows-yaml-backslash": _backslash,
    "18-symlinked-subfolders": _linked,
    "19-obb-corners-outside": _corners_outside,
    "25-predictions-against-own-json": _own_ids,
    "31-tiff-int32": _white_tiff,
    "33-12bit-one-hot-pixel": _hot_pixel,
    "45b-image-ids-above-2-53-mixed-classes": _large_ids,
    "61-tiny-objects-vanish": _tiny,
    "66-voc-long-list-one-duplicate": _long_list,
    "73-several-json": _several_json,
    "80-voc-mixed-jpg-png-same-stem": _same_stem,
    "81-yolo-exif6-stored-frame": _stored_frame,
    "91-yolo-jfif-mpo-pgm": _suffixes,
    "93-roboflow-sibling-dataset": _sibling,
    "94-area-normalised": _normalised_area,
}
SLOW = ("25-", "45b-", "61-")
"""Cases that train."""


if __name__ == "__main__":
    sys.exit(main())
