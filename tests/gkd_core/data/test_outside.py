"""Every folder of the shared collection of data sets as people bring them has the outcome that CASES.md names.

`bench/outside.py` runs the commands; the outcomes of those that do not train are checked here.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "bench" / "outside.py"
OUTSIDE = Path(os.environ.get("GKD_SHARED", "/nowhere")) / "data" / "outside"
TRAIN = ("25-", "45b-", "61-")
FOLDERS = sorted(folder.name for folder in OUTSIDE.iterdir() if folder.is_dir()) if OUTSIDE.is_dir() else []

pytestmark = [
    pytest.mark.skipif(not FOLDERS, reason="GKD_SHARED names no folder of sample data"),
    pytest.mark.timeout(1200),
]


@cache
def results() -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), str(OUTSIDE), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {result["case"]: result for result in json.loads(done.stdout)}


@pytest.mark.parametrize("folder", [name for name in FOLDERS if not name.startswith(TRAIN)])
def test_a_folder_gets_what_its_case_says(folder: str) -> None:
    assert results()[folder]["failed"] == []
