"""`distill`: a student, its control and a report in one call; stopped and called again it goes on."""

import _thread
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.detection import FCOS
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import gkd_core as gkd
from gkd_core.detectors.checkpoint import sha256_of
from gkd_core.errors import DataError, GkdError, SpecError
from gkd_core.events import Gain
from gkd_core.library import distillation
from gkd_core.run_dir import RunDir
from gkd_core.training.trainer import Training

TINY: dict[str, Any] = {"backbone_width": 0.125, "fpn": {"channels": 16}, "head": {"depth": 1}}
RECIPE: dict[str, Any] = {"epochs": 1, "batch_size": 4, "image_size": 64, "workers": 0, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def nothing_drawn() -> Iterator[None]:
    def draw(*_: Any) -> Any:
        yield from ()
        return ()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gkd_core.train.draw_training", draw)
        yield


@pytest.fixture(scope="module")
def student() -> Any:
    return gkd.detector("fcos", "resnet18", **TINY)


@pytest.fixture(scope="module")
def whole(teacher: Path, student: Any, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    data, out = gkd.load_dataset(shapes), tmp_path_factory.mktemp("whole")
    return gkd.distill(gkd.load_detector(teacher, device="cpu"), student, data, out=out, **RECIPE)


def test_a_result_has_a_gain_a_student_and_a_report(whole: Any) -> None:
    assert isinstance(whole.gain, Gain)
    assert str(whole.gain).startswith(f"{whole.gain.ap:+.3f} AP (95 % interval")
    assert gkd.load_detector(whole.student).classes == ("circle", "square", "triangle", "cross")
    assert list(whole.report.models) == ["teacher", "student", "control"]
    assert whole.report.models["teacher"].backbone == "resnet18"


def test_it_writes_the_files_of_a_run_directory(whole: Any) -> None:
    run_dir = RunDir(whole.folder)
    assert run_dir.read_config().kind == "distill"
    assert run_dir.read_report() is not None
    assert b'"kind":"report"' in run_dir.whole_events()


def test_a_teacher_in_memory_teaches_what_its_file_does(
    whole: Any, teacher: Path, student: Any, shapes: Path, tmp_path: Path
) -> None:
    from_file = gkd.distill(teacher, student, shapes, out=tmp_path, **RECIPE)
    assert sha256_of(from_file.student) == sha256_of(whole.student)


def test_a_complete_run_is_not_trained_again(
    whole: Any, teacher: Path, student: Any, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "train", lambda *_: pytest.fail("trained again"))
    assert gkd.distill(teacher, student, shapes, out=whole.folder, **RECIPE) == whole


def test_ctrl_c_saves_and_the_same_call_goes_on_to_the_same_bits(
    whole: Any, teacher: Path, student: Any, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = Training.train_step, []

    def interrupted(training: Training, batch: Any) -> Any:
        steps.append(training.step)
        if len(steps) == 2:
            _thread.interrupt_main(signal.SIGINT)
        return step(training, batch)

    monkeypatch.setattr(Training, "train_step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        gkd.distill(teacher, student, shapes, out=tmp_path, **RECIPE)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(steps) == 2
    assert RunDir(tmp_path).has_begun()
    resumed = gkd.distill(teacher, student, shapes, out=tmp_path, **RECIPE)
    assert sha256_of(resumed.student) == sha256_of(whole.student)


def test_a_folder_of_another_run_is_refused(whole: Any, teacher: Path, student: Any, shapes: Path) -> None:
    with pytest.raises(SpecError, match=r"out: .* holds another run; its train differ"):
        gkd.distill(teacher, student, shapes, out=whole.folder, **{**RECIPE, "epochs": 2})


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"epcohs": 2}, SpecError, "Did you mean `epochs`?"),
        ({"distill": {"globl": {}}}, SpecError, "Did you mean `global`?"),
        ({"distill": {"global": {"form": "cosin"}}}, SpecError, "Did you mean `cosine`?"),
        ({"data": "nowhere"}, DataError, "no such folder"),
        ({"teacher": torch.nn.Linear(2, 2)}, SpecError, "gkd.wrap"),
        ({"student": "resnet18"}, SpecError, "gkd.detector"),
        ({"device": "gpu"}, SpecError, "device"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    change: dict[str, Any],
    error: type[GkdError],
    told: str,
    teacher: Path,
    student: Any,
    shapes: Path,
    tmp_path: Path,
) -> None:
    given = {"teacher": teacher, "student": student, "data": shapes, **RECIPE, **change}
    with pytest.raises(error) as caught:
        gkd.distill(**given, out=tmp_path / "run")
    assert told in f"{caught.value.message} {caught.value.hint}"
    assert not (tmp_path / "run").exists()


def test_a_module_as_student_is_refused_with_the_way_that_takes_it(
    teacher: Path, shapes: Path, tmp_path: Path
) -> None:
    plain = FCOS(resnet_fpn_backbone(backbone_name="resnet18", weights=None), num_classes=5)
    ways = {
        "gkd.Distiller(gkd.wrap(student, data.classes), teacher)": plain,
        "gkd.Distiller(student, teacher)": gkd.wrap(plain, gkd.load_dataset(shapes).classes),
    }
    for way, module in ways.items():
        with pytest.raises(SpecError, match=r"student: a student is a config, got FCOS") as caught:
            gkd.distill(teacher, module, shapes, out=tmp_path / "run", **RECIPE)  # type: ignore[arg-type]
        assert way in str(caught.value.hint)
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_is_refused_with_the_field(
    student: Any, shapes: Path, tmp_path: Path
) -> None:
    other = gkd.build_detector("fcos", "resnet18", classes=["cat"], image_size=64, **TINY)
    with pytest.raises(SpecError, match=r"teacher\.weights: the teacher does not know circle"):
        gkd.distill(other, student, shapes, out=tmp_path, **RECIPE)


def test_progress_is_one_line_on_stderr(
    teacher: Path, student: Any, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gkd.distill(
        teacher, student, shapes, out=tmp_path, **{**RECIPE, "progress": True}, distill={"control": False}
    )
    out, shown = capsys.readouterr()
    assert out == ""
    assert "student, epoch 1: AP" in shown


def test_without_a_control_there_is_no_gain(
    teacher: Path, student: Any, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = gkd.distill(teacher, student, shapes, out=tmp_path, **RECIPE, distill={"control": False})
    assert result.gain is None
    assert capsys.readouterr() == ("", "")


def test_a_wrapped_teacher_is_known_again_by_its_weights(shapes: Path, tmp_path: Path, student: Any) -> None:
    classes = gkd.load_dataset(shapes).classes
    first, second = (
        gkd.build_detector("fcos", "resnet18", classes=classes, image_size=64, **TINY) for _ in range(2)
    )
    assert distillation._called(first) == distillation._called(first)
    assert distillation._called(first) != distillation._called(second)
