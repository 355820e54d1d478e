"""Every broken or unusual input of the shared collection gets what its manifest asks for, and never a traceback.

`bench/nasty.py` reads them, each in a process with 1 GiB and 10 seconds; the outcomes are checked here.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "bench" / "nasty.py"
NASTY = Path(os.environ.get("GKD_SHARED", "/nowhere")) / "data" / "nasty"
CASES = json.loads((NASTY / "MANIFEST.json").read_text())["cases"] if NASTY.is_dir() else []

pytestmark = pytest.mark.skipif(not CASES, reason="GKD_SHARED names no folder of sample data")


def run(*arguments: str, folder: Path = NASTY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@cache
def results() -> dict[str, Any]:
    return {result["file"]: result for result in json.loads(run("--json").stdout)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_case_gets_what_the_manifest_asks_for(case: dict[str, Any]) -> None:
    result = results()[case["file"]]
    assert result["ok"], f"expected {case['expected']}, got {result['outcome']}: {result['told']}"


def test_no_case_takes_much_memory_or_time() -> None:
    assert len(results()) == len(CASES) == 189
    assert max(result["peak_mib"] for result in results().values()) < 1024
    assert max(result["seconds"] for result in results().values()) < 10


@pytest.fixture
def one_case(tmp_path: Path) -> Path:
    """Write a collection of one sound file."""
    for folder in ("images", "coco"):
        (tmp_path / folder).symlink_to(NASTY / folder)
    [case] = [case for case in CASES if case["file"] == "coco/ok.json"]
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"cases": [case]}))
    return tmp_path


@pytest.mark.parametrize(
    ("limits", "seen"),
    [((), "1 of 1 get"), (("--seconds", "0"), "over 0 s"), (("--mib", "1"), "0 of 1 get")],
)
def test_the_limits_hold(one_case: Path, limits: tuple[str, ...], seen: str) -> None:
    done = run(*limits, folder=one_case)
    assert seen in done.stdout
    assert done.returncode == (1 if limits else 0)


def test_a_case_that_gets_something_else_is_named(one_case: Path) -> None:
    manifest = one_case / "MANIFEST.json"
    manifest.write_text(manifest.read_text().replace('"expected": "accept"', '"expected": "error"'))
    done = run(folder=one_case)
    assert "WRONG coco/ok.json: expected error, got accept" in done.stdout
    assert done.returncode == 1
