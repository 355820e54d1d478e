"""The conformance command: golden vectors pass, a changed number fails, a wrong folder is refused with a reason."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gkd_core.errors import DataError
from gkd_core.tools.conformance import run


@pytest.fixture
def golden():
    if "GKD_SHARED" not in os.environ:
        pytest.skip("GKD_SHARED is not set")
    return Path(os.environ["GKD_SHARED"]) / "golden"


@pytest.fixture
def copy(golden, tmp_path):
    folder = tmp_path / "golden"
    folder.mkdir()
    for path in (golden / "manifest.json", *golden.glob("*.npz")):
        shutil.copyfile(path, folder / path.name)
    return folder


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "gkd_core.tools.conformance", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def change(path, **arrays):
    with np.load(path) as case:
        np.savez(path, **{**case, **arrays})


def outcomes(folder):
    return {result.name: result.ok for result in run(folder)}


def test_every_golden_file_passes(golden):
    results = list(run(golden))

    assert sorted(result.name for result in results) == sorted(path.name for path in golden.glob("*.npz"))
    assert [result.line() for result in results if not result.ok] == []
    assert all(result.worst_relative_error <= 1e-5 for result in results if result.name.startswith("rdm"))


def test_the_command_prints_one_line_a_file(golden):
    people, programs = command(golden), command(golden, "--json")

    assert people.returncode == programs.returncode == 0
    assert len(people.stdout.splitlines()) == len(list(golden.glob("*.npz")))
    assert all(json.loads(line)["ok"] for line in programs.stdout.splitlines())


def test_another_index_is_a_miss(copy):
    indices = np.load(copy / "pgm_00.npz")["indices"]
    change(copy / "pgm_00.npz", indices=indices[::-1])

    assert [name for name, ok in outcomes(copy).items() if not ok] == ["pgm_00.npz"]


@pytest.mark.parametrize(
    "key", ["l0_robustness", "l2_global_loss", "l0_mask", "l0_local_foreground", "soft_loss"]
)
def test_a_number_that_is_off_by_a_ten_thousandth_is_a_miss(copy, key):
    change(copy / "rdm_00.npz", **{key: np.load(copy / "rdm_00.npz")[key] * 1.0001})

    (miss,) = [result for result in run(copy) if not result.ok]

    assert miss.name == "rdm_00.npz"
    assert key in miss.compared
    assert miss.worst_relative_error == pytest.approx(1e-4, rel=0.1)


def test_a_file_that_cannot_be_used_is_a_miss_and_hides_no_other(copy):
    (copy / "pgm_01.npz").unlink()
    (copy / "pgm_02.npz").write_bytes(b"not numpy")
    change(copy / "rdm_01.npz", soft_loss=np.zeros(0))
    change(copy / "rdm_02.npz", boxes=np.zeros((7, 3), dtype=np.float32))

    bad = command(copy)

    misses = [line for line in bad.stdout.splitlines() if line.startswith("MISS")]
    assert bad.returncode == 1
    assert [line.split()[1] for line in misses] == [
        "pgm_01.npz:",
        "pgm_02.npz:",
        "rdm_01.npz:",
        "rdm_02.npz:",
    ]
    assert len(bad.stdout.splitlines()) == 10
    assert "Traceback" not in bad.stderr


def test_a_folder_without_a_manifest_is_told_so(tmp_path):
    answer = command(tmp_path / "nowhere")

    assert answer.returncode == 1
    assert "manifest.json" in answer.stderr
    assert "Give the folder" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("text", ["{", "[]", '{"pgm": [{}]}', '{"pgm": []}', '{"pgm": 3}'])
def test_an_unusable_manifest_is_told_so(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)

    with pytest.raises(DataError, match=r"manifest\.json"):
        list(run(tmp_path))
