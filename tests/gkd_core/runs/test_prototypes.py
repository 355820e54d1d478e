"""Runs of kind `prototypes`: PGM alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from gkd_core.config import run_config
from gkd_core.detectors.checkpoint import load_model, publish_model, sha256_of
from gkd_core.detectors.model_card import ModelCard
from gkd_core.errors import SpecError, StoppedError
from gkd_core.events import Event, Report
from gkd_core.train import carry_out
from gkd_core.training.progress_meter import ProgressMeter

LEVELS = ("8", "16", "32", "64", "128")


def select(
    teacher: Path, student: Path, data: Path, folder: Path, stop: bool = False, **settings: Any
) -> list[Event]:
    folder.mkdir(exist_ok=True)
    spec = {
        "kind": "prototypes",
        "data": {"path": str(data)},
        "teacher": {"weights": str(teacher)},
        "student": {"weights": str(student)},
        "prototypes": {"min_box_side": 4, **settings},
        "device": "cpu",
    }
    return list(carry_out(run_config.validate_python(spec), folder, lambda: stop))


@pytest.fixture
def student(teacher: Path, tmp_path: Path) -> Path:
    """Publish a model with the teacher's form and other weights."""
    detector, card = load_model(teacher)
    generator = torch.Generator().manual_seed(1)
    noisy = {
        name: value + 0.02 * torch.randn(value.shape, generator=generator)
        if value.is_floating_point()
        else value
        for name, value in detector.state_dict().items()
        if "running_var" not in name
    }
    path = tmp_path / "student.safetensors"
    publish_model(path, detector.state_dict() | noisy, card)
    return path


def test_prototypes_are_told_written_and_counted(
    teacher: Path, student: Path, shapes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    events = select(teacher, student, shapes, folder, per_class=3)
    kinds = [event.kind for event in events if event.kind not in ("progress", "warning")]
    assert kinds == ["prototypes", *["file"] * 4, "report"]
    (selected,) = [event for event in events if event.kind == "prototypes"]
    assert set(selected.prototypes.values()) == {3}
    files = {event.file: event for event in events if event.kind == "file"}
    assert {name: sha256_of(folder / name) for name in files} == {n: e.sha256 for n, e in files.items()}
    assert set(json.loads((folder / "student-prototypes.json").read_bytes())["levels"]) == set(LEVELS)
    report = events[-1]
    assert isinstance(report, Report)
    assert report.models == {}
    assert report.figures == ("student-prototypes.png", "student-least-alike.png")
    assert report.notes[0].startswith("Prototypes out of the objects of each class: circle 3 of")


def test_the_vectors_can_be_used_by_programs(
    teacher: Path, student: Path, shapes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    select(teacher, student, shapes, folder, per_class=3)
    path = folder / "student-prototypes.safetensors"
    tensors = load_file(path)
    assert set(tensors) == {
        f"{level}.{name}" for level in LEVELS for name in ("teacher", "student", "class_start")
    }
    for level in LEVELS:
        assert tensors[f"{level}.teacher"].shape == tensors[f"{level}.student"].shape == (12, 16)
        assert tensors[f"{level}.class_start"].tolist() == [0, 3, 6, 9, 12]
        assert not torch.equal(tensors[f"{level}.teacher"], tensors[f"{level}.student"])
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["classes"]) == ["circle", "square", "triangle", "cross"]


def test_the_same_seed_chooses_the_same(teacher: Path, student: Path, shapes: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"per_class": 3, "max_instances": 6, "selection": "random"}
    digests = []
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(number)
        select(teacher, student, shapes, folder, seed=seed, **settings)
        digests.append(sha256_of(folder / "student-prototypes.safetensors"))
    assert digests[0] == digests[1] != digests[2]


def test_a_teacher_that_lacks_a_class_is_refused(
    teacher: Path, student: Path, shapes: Path, tmp_path: Path
) -> None:
    detector, card = load_model(teacher)
    strange = ModelCard.model_validate(
        card.model_dump() | {"classes": ("circle", "square", "triangle", "crow")}
    )
    publish_model(tmp_path / "strange.safetensors", detector.state_dict(), strange)
    with pytest.raises(SpecError, match="does not know cross") as raised:
        select(tmp_path / "strange.safetensors", student, shapes, tmp_path / "run")
    assert raised.value.problems[0].loc == ("teacher", "weights")
    select(
        teacher, tmp_path / "strange.safetensors", shapes, tmp_path / "run"
    )  # only features count of a student


def test_progress_grows_with_the_pictures(
    teacher: Path, student: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProgressMeter, "progress_due", lambda clock: True)
    events = select(teacher, student, shapes, tmp_path / "run", batch_size=4)
    told = [event for event in events if event.kind == "progress" and event.activity == "prototypes"]
    assert [event.fraction for event in told] == [4 / 14, 8 / 14, 12 / 14, 1.0]


def test_it_stops_when_asked(teacher: Path, student: Path, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        select(teacher, student, shapes, tmp_path / "run", stop=True)


@pytest.mark.parametrize("part", ["teacher", "student"])
def test_a_model_that_cannot_be_read_is_named_by_its_part(
    teacher: Path, shapes: Path, tmp_path: Path, part: str
) -> None:
    models = {"teacher": teacher, "student": teacher, part: tmp_path / "none.safetensors"}
    with pytest.raises(SpecError, match=rf"^{part}\.weights: "):
        select(data=shapes, folder=tmp_path / "run", **models)


def test_the_last_progress_before_the_report_says_that_all_is_done(
    teacher: Path, student: Path, shapes: Path, tmp_path: Path
) -> None:
    for number, due in enumerate((False, True)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ProgressMeter, "progress_due", lambda clock, due=due: due)
            events = select(teacher, student, shapes, tmp_path / f"run{number}")
        told = [event for event in events if event.kind == "progress"]
        assert events[-1].kind == "report"
        assert (told[-1].fraction, told[-1].run) == (1.0, "student")
        fractions = [event.fraction for event in told]
        assert fractions == sorted(fractions)
