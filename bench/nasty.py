"""Broken and unusual input: reads every case of a collection in a process with little memory and time.

    python bench/nasty.py FOLDER [--json]

FOLDER holds MANIFEST.json, which says what each file should get: `accept`, `accept_with_warning`, `skip_with_warning`
or `error`. Each case runs in a process of its own, with an address space of 1 GiB and 10 seconds. Exits with 1 unless
every case has its expected outcome.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gkd_core.config import DataConfig

SECONDS, MIB = 10.0, 1024
ALLOWED = {
    "accept": {"accept"},
    "accept_with_warning": {"accept_with_warning"},
    "skip_with_warning": {
        "accept_with_warning",
        "error",
    },  # the manifest: an error that names the item is as good
    "error": {"error"},
}
BY_DETAIL = {
    "images/corrupt_scan.jpg": "accept",  # "accepting is normal": JPEG has no checksum
    "images/ycck_inverted.jpg": "accept",  # "colours cannot be known"
    "coco/category_unused.json": "accept_with_warning",  # "its AP is undefined", which is said
    "coco/empty_first_batch.json": "accept_with_warning",  # as above: one of its classes has no box
    "coco/exif_stored.json": "accept_with_warning",  # "if applied, the size differs: warn"
}
"""Expected outcomes where the manifest's `detail` is more exact than its `expected`."""


@dataclass(frozen=True)
class Result:
    """The outcome of one case."""

    file: str
    name: str
    expected: str
    outcome: str
    """One of the values of `expected`, or what went wrong."""
    told: str
    seconds: float
    peak_mib: float
    """Peak memory of the process, interpreter and libraries included."""
    ok: bool


def main() -> int:
    """Read every case and print the outcomes; return 0 if all are as expected."""
    arguments = _arguments()
    if arguments.folder is None:
        print("nothing to do: name the folder that holds MANIFEST.json, or set GKD_SHARED", file=sys.stderr)
        return 0
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # its threads would take address space, and break forks
    importlib.import_module("gkd_core.data.reading")  # imported once, before all the forks

    cases = json.loads((arguments.folder / "MANIFEST.json").read_text())["cases"]
    results = [_result(arguments.folder, case, arguments.seconds, arguments.mib) for case in cases]
    if arguments.json:
        print(json.dumps([asdict(result) for result in results], indent=1, ensure_ascii=False))
    else:
        _print(results)
    return 0 if all(result.ok for result in results) else 1


def _arguments() -> argparse.Namespace:
    shared = os.environ.get("GKD_SHARED")
    default = Path(shared) / "data" / "nasty" if shared else None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=default)
    parser.add_argument("--json", action="store_true", help="print every case as JSON")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for a case")
    parser.add_argument("--mib", type=int, default=MIB, help="address space for a case")
    return parser.parse_args()


# ---- one case ----------------------------------------------------------------------------------------------


def _result(folder: Path, case: dict[str, Any], seconds: float, mib: int) -> Result:
    file = case["file"]
    with tempfile.TemporaryDirectory() as scratch:
        outcome, told, took, peak = _alone(lambda: _outcome(folder, file, Path(scratch)), seconds, mib)
    allowed = {BY_DETAIL[file]} if file in BY_DETAIL else ALLOWED[case["expected"]]
    return Result(file, case["name"], case["expected"], outcome, told, took, peak, outcome in allowed)


def _alone(call: Callable[[], tuple[str, str]], seconds: float, mib: int) -> tuple[str, str, float, float]:
    """Return the outcome of a call in a process of its own, its seconds and its peak memory in MiB."""
    inlet, outlet = os.pipe()
    start = time.perf_counter()
    if (child := os.fork()) == 0:
        _as_child(call, outlet, mib)
    os.close(outlet)
    with os.fdopen(inlet, "rb") as answers:
        in_time = bool(select.select([answers], [], [], seconds)[0])
        if not in_time:
            os.kill(child, signal.SIGKILL)
        answer = answers.read()
    _, status, usage = os.wait4(child, 0)
    took, peak = time.perf_counter() - start, usage.ru_maxrss / 1024
    if answer and in_time:
        outcome, told = json.loads(answer)
        return outcome, told, took, peak
    return ("it died" if in_time else f"over {seconds:g} s"), f"status {status}", took, peak


def _as_child(call: Callable[[], tuple[str, str]], outlet: int, mib: int) -> None:
    """Make the call and write its outcome to the pipe; never returns."""
    try:
        resource.setrlimit(resource.RLIMIT_AS, (mib * 2**20, mib * 2**20))
        answer = call()
    except BaseException as error:
        answer = ("a traceback", f"{type(error).__name__}: {error}"[:500])
    os.write(outlet, json.dumps(answer).encode())
    os._exit(0)


def _outcome(folder: Path, file: str, scratch: Path) -> tuple[str, str]:
    kind = file.partition("/")[0]
    return _picture(folder / file) if kind == "images" else _data_set(CONFIGS[kind](folder, file, scratch))


def _picture(path: Path) -> tuple[str, str]:
    from gkd_core.data.pictures import PictureError, inspect, read_header, read_picture

    try:
        remarks = inspect(path)
        width, height = read_header(path)
    except PictureError as error:
        return ("error" if str(path) in error.message else "an error that does not name it"), error.message
    if read_picture(path).shape != (height, width, 3):
        return "a picture of another size than its header", ""
    return ("accept_with_warning" if remarks else "accept"), "; ".join(remarks)


def _data_set(config: DataConfig) -> tuple[str, str]:
    """Read a data set as a job would, the pictures too."""
    import numpy as np

    from gkd_core.data.pictures import read_picture
    from gkd_core.data.reading import load
    from gkd_core.errors import GkdError

    try:
        data = load(config, decode=True)
    except GkdError as error:
        return ("error" if error.message else "an error without a message"), error.message[:500]
    for record in data.train.images:
        if read_picture(record.path).shape != (record.height, record.width, 3):
            return "a picture of another size than its record", str(record.path)
        if not np.isfinite(record.boxes).all():
            return "boxes that are not finite", str(record.path)
    told = [problem.message for problem in data.warnings if problem.loc[1] == "train"]
    return ("accept_with_warning" if told else "accept"), "; ".join(told)[:500]


# ---- what each kind of case is read with -------------------------------------------------------------------


def _coco(folder: Path, file: str, scratch: Path) -> DataConfig:
    return _both("coco", images=folder / "images", annotations=folder / file)


def _voc(folder: Path, file: str, scratch: Path) -> DataConfig:
    """Return the config of a list as it is, or of a file of one picture beside a sound one.

    The case of an unknown class needs the list of classes.
    """
    names = folder / file
    if names.suffix != ".txt":
        names = scratch / "names.txt"
        names.write_text("\n".join(dict.fromkeys(["ok", Path(file).stem])))
    place = folder / "voc"
    config = _both("voc", images=place / "JPEGImages", annotations=place / "Annotations", names=names)
    given = ("square", "disc") if file.endswith("unknown.xml") else None  # the case asks for it
    return config.model_copy(update={"classes": given})


def _yolo(folder: Path, file: str, scratch: Path) -> DataConfig:
    """Return the config of a picture's labels beside a sound picture."""
    place = folder / "yolo"
    listed = [place / "images" / f"{stem}.jpg" for stem in dict.fromkeys(["ok", Path(file).stem])]
    (scratch / "list.txt").write_text("\n".join(map(str, listed)))
    (scratch / "data.yaml").write_text("nc: 2\nnames: [square, disc]\n")
    return _both("yolo", images=scratch / "list.txt", annotations=place, names=scratch / "data.yaml")


CONFIGS = {"coco": _coco, "voc": _voc, "yolo": _yolo}


def _both(format: str, **paths: Path) -> DataConfig:
    from gkd_core.config import DataConfig, Split

    split = Split.model_validate({name: str(path) for name, path in paths.items()})
    return DataConfig.model_validate({"format": format, "train": split, "val": split})


# ---- printing ----------------------------------------------------------------------------------------------


def _print(results: list[Result]) -> None:
    kinds = list(dict.fromkeys(result.file.partition("/")[0] for result in results))
    print(f"{'':8}" + "".join(f"{expected:>22}" for expected in ALLOWED))
    for kind in kinds:
        print(f"{kind:8}" + "".join(f"{_count(results, kind, expected):>22}" for expected in ALLOWED))
    for result in results:
        if not result.ok:
            print(f"WRONG {result.file}: expected {result.expected}, got {result.outcome} ({result.told})")
    slow, large = max(results, key=lambda r: r.seconds), max(results, key=lambda r: r.peak_mib)
    print(f"slowest: {slow.seconds:.2f} s, {slow.file}; most memory: {large.peak_mib:.0f} MiB, {large.file}")
    by_detail = sum(result.ok and result.file in BY_DETAIL for result in results)
    print(
        f"{sum(result.ok for result in results)} of {len(results)} get what the manifest expects "
        f"({by_detail} of them by the words of its `detail`)"
    )


def _count(results: list[Result], kind: str, expected: str) -> str:
    chosen = [r for r in results if r.file.startswith(f"{kind}/") and r.expected == expected]
    return f"{sum(r.ok for r in chosen)} of {len(chosen)}" if chosen else "-"


if __name__ == "__main__":
    sys.exit(main())
