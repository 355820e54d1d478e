"""`make demo`, with an engine that trains nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client import demo, demo_specs, show_text
from client.demo_budget import Pace, Plan, seconds
from jobs.specs.spec import job_spec

FAST = Pace(
    threads=2,
    start=0.01,
    teacher_step=0.002,
    student_step=0.001,
    teacher_picture=0.0002,
    student_picture=0.0001,
    steps=40,
    train=320,
    val=80,
)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_engine: None) -> Path:
    """Return a demo of a few pictures in a folder of its own."""
    monkeypatch.setattr(demo, "HOME", tmp_path / ".demo")
    monkeypatch.setattr(demo_specs, "DRAWING", {"train": 4, "val": 2, "size": 64, "seed": 1})
    # tests/gkd_core/runs/test_pace.py measures real steps
    monkeypatch.setattr(demo, "measure", lambda *_: FAST)
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


def epochs_of(small: Path) -> list[int]:
    """Return the epochs of the teacher's and the student's job, as the engines got them."""
    configs = [json.loads(path.read_text()) for path in small.rglob("config.json")]
    return [
        config["train"]["epochs"]
        for config in sorted(configs, key=lambda config: config["kind"], reverse=True)
    ]


def test_on_a_slow_machine_epochs_are_fitted_and_it_says_so(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(demo, "measure", lambda *_: FAST.times(300))
    assert demo.main([]) == 0
    teacher, student = epochs_of(small)
    assert 1 <= teacher < 8
    assert 1 <= student < 10
    told = capsys.readouterr().out
    assert f"{teacher} epochs of the teacher, " in told
    assert "of 8 and 10, to be done in time" in told


def test_on_a_fast_machine_nothing_is_left_out(small: Path, capsys: pytest.CaptureFixture[str]):
    assert demo.main([]) == 0
    assert epochs_of(small) == [8, 10]
    assert "with 2 threads" in capsys.readouterr().out


def test_epochs_that_were_given_are_taken_and_nothing_is_measured(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(demo, "measure", lambda *_: pytest.fail("it was measured"))
    assert demo.main(["--epochs", "3"]) == 0
    assert epochs_of(small) == [3, 3]


def test_own_pictures_keep_their_epochs_unless_minutes_are_given(
    small: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    slow = FAST.times(1000)
    monkeypatch.setattr(demo, "measure", lambda *_: slow)
    assert demo.main(["--data", str(data / "shapes")]) == 0
    assert epochs_of(small) == [24, 30]
    assert f"about {show_text.duration(seconds(slow, Plan(24, 30)))}" in capsys.readouterr().out, (
        "it says how long"
    )
    assert demo.main(["--data", str(data / "shapes"), "--minutes", "5"]) == 0
    assert epochs_of(small)[1] < 30


def test_engines_compute_with_as_many_threads_as_were_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert demo._environment(tmp_path, tmp_path, 1, 1)["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in demo._environment(tmp_path, tmp_path, 1)
    assert demo.threads_to_try()[-1] == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert demo.threads_to_try() == [3], "who sets it knows why"


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
    assert job_spec.validate_python(demo_specs.control("x", recipe)).kind == "train"
    assert job_spec.validate_python(demo_specs.distillation("x", recipe, "t")).kind == "distill"


@pytest.mark.parametrize(
    ("flags", "expected"), [("fma avx512_bf16", "bfloat16"), ("amx_bf16", "bfloat16"), ("avx2", "float32")]
)
def test_it_computes_in_bfloat16_only_where_the_processor_does(tmp_path: Path, flags: str, expected: str):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    assert demo_specs.precision(tmp_path / "cpuinfo") == expected
    assert demo_specs.precision(tmp_path / "no such file") == "float32"
