"""`make demo`, with an engine that trains nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client import demo, demo_specs
from jobs.spec import job_spec


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_engine: None) -> Path:
    """A demo of a few pictures in a folder of its own."""
    monkeypatch.setattr(demo, "HOME", tmp_path / ".demo")
    monkeypatch.setattr(demo_specs, "DRAWING", {"train": 4, "val": 2, "size": 64, "seed": 1})
    return tmp_path / ".demo"


def test_it_ends_with_a_student_and_its_hash(small: Path, capsys: pytest.CaptureFixture[str]):
    assert demo.main([]) == 0
    told = capsys.readouterr().out
    student = small / "student.safetensors"
    assert student.exists()
    assert str(student) in told.replace("\n", "")
    for role in ("teacher", "control", "student"):
        assert role in told


def test_a_job_on_own_pictures_that_fails_fails_the_demo_with_the_reason_and_the_log(
    small: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FAKE_ENGINE", json.dumps({"fail": 1}))
    assert demo.main(["--data", str(data / "shapes")]) == 1
    assert not (small / "shapes").exists()
    told = capsys.readouterr().out
    assert "a bug of epoch 1" in told
    assert "attempt 1 starts" in told


def test_own_pictures_that_are_none_are_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert demo.main(["--data", str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().out


def test_own_pictures_may_be_named_by_a_way_around(
    small: Path, data: Path, capsys: pytest.CaptureFixture[str]
):
    assert demo.main(["--data", str(data / "shapes" / ".." / "shapes")]) == 0


@pytest.mark.parametrize("recipe", ["shapes", "own"])
def test_its_specs_are_job_specs(recipe: str):
    assert job_spec.validate_python(demo_specs.teacher("x", recipe)).kind == "train"
    assert job_spec.validate_python(demo_specs.distillation("x", recipe, "t")).kind == "distill"


@pytest.mark.parametrize(
    ("flags", "expected"), [("fma avx512_bf16", "bfloat16"), ("amx_bf16", "bfloat16"), ("avx2", "float32")]
)
def test_it_computes_in_bfloat16_only_where_the_processor_does(tmp_path: Path, flags: str, expected: str):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    assert demo_specs.precision(tmp_path / "cpuinfo") == expected
    assert demo_specs.precision(tmp_path / "no such file") == "float32"
