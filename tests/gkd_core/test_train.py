"""The main flow on drawn pictures: its results, what stops it, and that interruptions do not change them."""

import json
import random
import shutil
from collections.abc import Callable, Generator, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from gkd_core.config import DistillRun, TrainRun
from gkd_core.data.find import find_layout
from gkd_core.data.loading import eval_batches
from gkd_core.data.reading import load
from gkd_core.data.records import DataSet
from gkd_core.detectors.build import pyramid
from gkd_core.detectors.checkpoint import load_model, sha256_of
from gkd_core.detectors.detector import Detector
from gkd_core.detectors.model_card import read_card
from gkd_core.errors import DataError, DivergedError, FailureClass, SpecError, StoppedError
from gkd_core.evaluation.coco import detect_batches
from gkd_core.events import Event, Progress, Report
from gkd_core.process.engine import StopRequest, serve_run
from gkd_core.run_dir import FAILED, RunDir
from gkd_core.runs.session import Session
from gkd_core.train import train
from gkd_core.training.progress_meter import ProgressMeter
from gkd_core.training.trainer import Training

Make = Callable[..., TrainRun | DistillRun]

TINY = {"backbone_width": 0.125, "fpn": {"channels": 16}, "head": {"depth": 1}}


def of_kind(events: list[Event], kind: str) -> list:
    return [event for event in events if event.kind == kind]


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in folder.glob("*.safetensors")}


class Whole(NamedTuple):
    """An uninterrupted run."""

    folder: Path
    events: list[Event]
    hashes: dict[str, str]


def carried_out(run: TrainRun | DistillRun, folder: Path) -> Whole:
    events = list(train(run, folder))
    return Whole(folder, events, hashes(folder))


@pytest.fixture(scope="module", autouse=True)
def nothing_drawn() -> Iterator[None]:
    """Switch figures off, which take a third of such a run; test_figures.py tests them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gkd_core.train.draw_training", lambda *_: _nothing())
        yield


def _nothing() -> Generator[Event, None, tuple[str, ...]]:
    yield from ()
    return ()


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def distilled(distill: Make, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return carried_out(distill(), tmp_path_factory.mktemp("distilled"))


@pytest.fixture(scope="module")
def trained(plain: Make, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return carried_out(plain(), tmp_path_factory.mktemp("trained"))


# ---- what comes out --------------------------------------------------------------------------------------


def test_the_recipe_says_how_much_memory_decoded_pictures_take(
    plain: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kept(Exception): ...

    def cache(image_size: int, limit_mb: float) -> None:
        raise Kept(limit_mb)

    monkeypatch.setattr("gkd_core.runs.session.PictureCache", cache)
    with pytest.raises(Kept, match=r"^7$"):
        list(train(plain(cache_mb=7), tmp_path))


def test_a_distill_run_reports_teacher_student_and_control(distilled: Whole) -> None:
    (report,) = of_kind(distilled.events, "report")
    assert list(report.models) == ["teacher", "student", "control"]
    assert report.gain is not None
    student = report.models["student"]
    assert student.sha256 == distilled.hashes["student.safetensors"]
    assert student.parameters > 1e5
    assert student.gflops > 0
    assert 0 < student.latency_ms.low <= student.latency_ms.median <= student.latency_ms.high
    assert report.gain.ap == pytest.approx(student.metrics["AP"] - report.models["control"].metrics["AP"])
    assert Report.model_validate(RunDir(distilled.folder).read_report()) == report


def test_models_are_scored_on_a_test_split_once_at_the_end(
    distill: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[str, str]] = []
    detect = Session.detect

    def noted(
        session: Session,
        detector: Detector,
        base: Progress,
        labels: Any,
        split: str = "val",
        *size: int | None,
    ) -> Any:
        scored.append((base.run, split))
        return detect(session, detector, base, labels, split, *size)

    monkeypatch.setattr(Session, "detect", noted)
    run = distill(epochs=1)
    layout = find_layout(run.data)
    data = layout.model_copy(update={"test": layout.train})
    (report,) = of_kind(list(train(run.model_copy(update={"data": data}), tmp_path)), "report")
    roles = ["teacher", "student", "control"]
    assert scored[-6:] == [(role, split) for role in roles for split in ("val", "test")]
    assert all(split == "val" for _, split in scored[:-6])
    assert report.pictures == {"val": 4, "test": 14}
    on_test = {role: report.models[role].test for role in roles}
    assert all(scores is not None and scores.metrics.keys() >= {"AP", "AP50"} for scores in on_test.values())
    difference = on_test["student"].metrics["AP"] - on_test["control"].metrics["AP"]
    assert report.gain_on_test is not None
    assert report.gain_on_test.ap == pytest.approx(difference)
    assert "14 test pictures" in report.gain_on_test.verdict
    assert any("on the 14 pictures of the test split" in note for note in report.notes)
    told = Report.model_validate(RunDir(tmp_path).read_report())
    assert told == report


def test_without_a_test_split_a_report_has_nothing_of_it(distilled: Whole) -> None:
    (report,) = of_kind(distilled.events, "report")
    assert report.gain_on_test is None
    assert [model.test for model in report.models.values()] == [None, None, None]
    assert not any("test split" in note for note in report.notes)


def test_losses_are_named_and_weighted_and_prototypes_are_counted_by_class(distilled: Whole) -> None:
    student = [event for event in of_kind(distilled.events, "progress") if event.run == "student"]
    named = {name for event in student for name in event.losses}
    assert {"distill_global", "distill_foreground", "distill_background", "distill_response"} <= named
    selected = of_kind(distilled.events, "prototypes")
    assert [event.epoch for event in selected] == [0, 1]
    assert all(0 < count <= 10 for count in selected[0].prototypes.values())
    assert set(selected[0].reconstruction_error) == {"8", "16", "32", "64", "128"}


@pytest.mark.parametrize("source", ["pass", "bank"])
def test_prototypes_can_be_looked_at(distill: Make, shapes: Path, tmp_path: Path, source: str) -> None:
    parts = {"control": False, "prototypes": {"source": source}}
    list(train(distill(distill=parts), tmp_path))
    told = json.loads((tmp_path / "student-prototypes.json").read_bytes())
    truth = json.loads((shapes / "annotations" / "instances_train.json").read_bytes())
    names = {category["id"]: category["name"] for category in truth["categories"]}
    known = {
        (a["image_id"], names[a["category_id"]], *map(float, a["bbox"][:2])) for a in truth["annotations"]
    }
    assert (told["epoch"], told["source"]) == (1, source)
    for prototypes in told["levels"].values():
        places = [(p["image_id"], p["class"], *p["box"][:2]) for p in prototypes]
        assert set(places) <= known
        assert len(set(places)) == len(places)
        assert all(0 <= prototype["share"] <= 1 for prototype in prototypes)
        assert any(prototype["share"] > 0.01 for prototype in prototypes)


def test_progress_only_grows_and_tells_when_work_is_safe(distilled: Whole) -> None:
    progress = [e for e in of_kind(distilled.events, "progress") if e.run != "teacher"]
    trained = [event for event in progress if event.activity == "train"]
    fractions = [event.fraction for event in trained]
    assert fractions == sorted(fractions)
    assert [(e.run, e.epoch) for e in trained if e.saved] == [
        ("student", 1),
        ("student", 2),
        ("control", 1),
        ("control", 2),
    ]


def test_the_best_and_the_last_model_are_kept(trained: Whole) -> None:
    checkpoints = of_kind(trained.events, "checkpoint")
    assert {event.file for event in checkpoints} == {"model.safetensors", "model-last.safetensors"}
    newest = {event.file: event for event in checkpoints}
    for file, event in newest.items():
        assert event.sha256 == trained.hashes[file]
        assert event.size == (trained.folder / file).stat().st_size
        load_model(trained.folder / file)
    scores = [event.metrics["AP"] for event in checkpoints if event.best]
    assert newest["model.safetensors"].metrics["AP"] == max(scores)


def test_distillation_leaves_the_teacher_as_it_was(distill: Make, teacher: Path, tmp_path: Path) -> None:
    before = sha256_of(teacher)
    list(train(distill(epochs=1), tmp_path))
    assert sha256_of(teacher) == before
    assert not any("teacher" in name for name in load_model(tmp_path / "student.safetensors")[0].state_dict())


def test_what_a_teacher_finds_is_scored_under_the_labels_of_the_data(
    distill: Make, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = distill(epochs=1, distill={"control": False})
    data = run.data.model_copy(update={"classes": tuple(reversed(read_card(teacher).classes))})
    asked: list[list[int] | None] = []

    def remember(detector: object, batches: Iterator, device: object, labels: np.ndarray | None) -> Iterator:
        asked.append(None if labels is None else labels.tolist())
        return detect_batches(detector, batches, device, labels)

    monkeypatch.setattr("gkd_core.runs.session.detect_batches", remember)
    list(train(run.model_copy(update={"data": data}), tmp_path))
    # the teacher when it is met, the student after its epoch, then both in the report
    assert asked == [[0, 4, 3, 2, 1], None, [0, 4, 3, 2, 1], None]


# ---- same start, same order ------------------------------------------------------------------------------


NO_GLOBAL = {"global": {"weight": 0}}
NO_PARTS = {"local": {"foreground": 0, "background": 0}}


@pytest.mark.parametrize("local", [{"local": {"weight": 0}}, NO_PARTS], ids=["weight", "parts"])
def test_a_student_without_any_distilling_loss_is_the_plain_student(
    distill: Make, trained: Whole, tmp_path: Path, local: dict
) -> None:
    whole = carried_out(distill(distill={**NO_GLOBAL, **local, "response": {"weight": 0}}), tmp_path)
    assert not of_kind(whole.events, "prototypes")
    assert any("nothing is distilled" in event.message for event in of_kind(whole.events, "warning"))
    for which in ("", "-last"):
        plain = trained.hashes[f"model{which}.safetensors"]
        assert whole.hashes[f"student{which}.safetensors"] == plain
        assert whole.hashes[f"control{which}.safetensors"] == plain


def test_where_the_only_loss_is_one_that_cannot_be_the_student_is_its_control(
    distill: Make, tmp_path: Path
) -> None:
    student = {"architecture": "retinanet", **TINY}
    parts = {**NO_GLOBAL, "local": {"weight": 0}, "response": {"weight": "auto"}}
    whole = carried_out(distill(epochs=1, student=student, distill=parts), tmp_path)
    assert not of_kind(whole.events, "prototypes")
    assert whole.hashes["student.safetensors"] == whole.hashes["control.safetensors"]


def test_distilling_changes_the_student_and_not_the_control(distilled: Whole, trained: Whole) -> None:
    made = distilled.hashes
    for which in ("", "-last"):
        assert made[f"student{which}.safetensors"] != made[f"control{which}.safetensors"]
        assert made[f"control{which}.safetensors"] == trained.hashes[f"model{which}.safetensors"]


def test_what_the_student_inherits_the_control_inherits_too_and_both_are_told(
    distill: Make, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore, starts = Training.restore, {}

    def remember(self: Training, folder: Path, warn: Callable[[str], None]) -> bool:
        starts[self.name] = {name: value.clone() for name, value in self.detector.state_dict().items()}
        return restore(self, folder, warn)

    monkeypatch.setattr(Training, "restore", remember)
    events = list(train(distill(epochs=1, student={**TINY, "inherit": ["fpn", "head"]}), tmp_path))
    given = load_model(str(teacher))[0].state_dict()
    own = [name for name in given if not name.startswith("backbone.body.") and "num_batches" not in name]
    assert all(torch.equal(starts["student"][name], given[name]) for name in own)
    assert all(torch.equal(value, starts["control"][name]) for name, value in starts["student"].items())
    told = [event.message for event in of_kind(events, "warning") if "the whole" in event.message]
    assert told == 2 * ["the whole fpn starts from the teacher's", "the whole head starts from the teacher's"]
    ends = hashes(tmp_path)
    assert ends["student.safetensors"] != ends["control.safetensors"]
    assert read_card(tmp_path / "student.safetensors").fpn.channels == 16


def test_a_teacher_that_sees_larger_pictures_changes_the_student_alone_and_resumes_with_the_same_bits(
    distill: Make, tmp_path: Path, trained: Whole, distilled: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def remember(images: Any, size: int, *how: Any) -> Any:
        sizes.append(size)
        return eval_batches(images, size, *how)

    monkeypatch.setattr("gkd_core.runs.session.eval_batches", remember)
    run = distill()
    assert isinstance(run, DistillRun)
    run = run.model_copy(update={"teacher": run.teacher.model_copy(update={"image_size": 128})})
    whole = carried_out(run, tmp_path / "undisturbed")
    assert sizes == [128, 64, 64, 64, 64, 128, 64, 64]  # the teacher, two epochs each, and the report
    assert whole.hashes["control.safetensors"] == trained.hashes["model.safetensors"]
    assert whole.hashes["student.safetensors"] != distilled.hashes["student.safetensors"]
    go_on_until_done(run, tmp_path / "stopped", iter([9, 5, 10**6]))
    assert hashes(tmp_path / "stopped") == whole.hashes
    (report,) = of_kind(whole.events, "report")
    (before,) = of_kind(distilled.events, "report")
    assert report.models["teacher"].gflops == pytest.approx(4 * before.models["teacher"].gflops, rel=0.01)
    assert report.models["student"].gflops == before.models["student"].gflops
    assert report.models["teacher"].metrics == of_kind(whole.events, "evaluation")[0].metrics


def test_until_distillation_starts_the_student_is_its_control_to_the_bit(
    distill: Make, tmp_path: Path
) -> None:
    events = list(train(distill(distill={"start_epoch": 1}), tmp_path))
    first = {e.run: e.sha256 for e in of_kind(events, "checkpoint") if e.epoch == 1}
    assert first["student"] == first["control"]
    assert hashes(tmp_path)["student-last.safetensors"] != hashes(tmp_path)["control-last.safetensors"]
    assert [event.epoch for event in of_kind(events, "prototypes")] == [1]


def test_once_distillation_has_stopped_no_prototypes_are_renewed_and_no_teacher_runs(
    distill: Make, tmp_path: Path
) -> None:
    parts = {"stop_epoch": 1, "control": False}
    events = list(train(distill(epochs=3, distill=parts), tmp_path))
    assert [event.epoch for event in of_kind(events, "prototypes")] == [0]
    late = [e for e in of_kind(events, "progress") if e.run == "student" and e.epoch > 1 and e.losses]
    assert late
    assert not any("distill" in name for event in late for name in event.losses)


def test_a_response_loss_that_is_left_out_is_told(distill: Make, tmp_path: Path) -> None:
    student = {"architecture": "retinanet", **TINY}
    events = list(train(distill(epochs=1, student=student, distill={"control": False}), tmp_path))
    (warning,) = [e for e in of_kind(events, "warning") if "response loss" in e.message]
    assert "retinanet student and a fcos teacher" in warning.message


# ---- interruptions ---------------------------------------------------------------------------------------


def stop_after(questions: int) -> Callable[[], bool]:
    """Return a `should_stop` that answers yes after that many questions."""
    asked = iter(range(questions + 1000))
    return lambda: next(asked) >= questions


def go_on_until_done(run: TrainRun | DistillRun, folder: Path, patience: Iterator[int]) -> int:
    """Run again and again, stopped after as many questions as `patience` gives; return the number of attempts."""
    attempts = 0
    while True:
        attempts += 1
        try:
            for _ in train(run, folder, stop_after(next(patience))):
                pass
        except StoppedError:
            continue
        return attempts


def test_a_run_that_is_stopped_at_random_steps_ends_with_the_same_bits(
    distill: Make, tmp_path: Path, distilled: Whole
) -> None:
    draw = random.Random(0)
    # in the end it is left alone: the report asks at every draw of the bootstrap
    patience = chain((draw.randint(8, 24) for _ in range(8)), repeat(10**6))
    assert go_on_until_done(distill(), tmp_path, patience) > 4
    assert hashes(tmp_path) == distilled.hashes


@pytest.mark.usefixtures("two_threads")
def test_so_does_one_that_computes_with_two_threads(distill: Make, tmp_path: Path) -> None:
    run = distill(epochs=1, distill={"control": False})
    list(train(run, tmp_path / "undisturbed"))
    assert go_on_until_done(run, tmp_path / "stopped", iter([8, 3, 10**6])) == 3
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "undisturbed")


def test_a_run_that_is_killed_between_events_ends_with_the_same_bits(
    distill: Make, tmp_path: Path, distilled: Whole
) -> None:
    for killed_after in (1, 4, 7, 11):  # dropping the generator is as sudden as a kill, seen from the files
        events = train(distill(), tmp_path)
        for _ in range(killed_after):
            next(events, None)
        events.close()
    list(train(distill(), tmp_path))
    assert hashes(tmp_path) == distilled.hashes


def test_a_torn_newest_checkpoint_is_reported_and_changes_no_bit(
    plain: Make, tmp_path: Path, trained: Whole
) -> None:
    events = train(plain(), tmp_path)
    saved = 0
    while saved < 2:
        saved += getattr(next(events), "saved", False)
    events.close()
    newest = sorted((tmp_path / "checkpoints").glob("*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    events_again = list(train(plain(), tmp_path))
    assert "cannot be read" in of_kind(events_again, "warning")[0].message
    assert hashes(tmp_path) == trained.hashes


def test_a_finished_run_is_finished_and_tells_again_of_the_files_as_they_stand(
    plain: Make, trained: Whole, tmp_path: Path
) -> None:
    shutil.copytree(trained.folder, tmp_path, dirs_exist_ok=True)
    again = carried_out(plain(), tmp_path)
    assert not [event for event in of_kind(again.events, "progress") if event.activity == "train"]
    assert of_kind(again.events, "report")
    assert again.hashes == trained.hashes
    newest = {event.file: event for event in of_kind(trained.events, "checkpoint")}
    assert {event.file: event for event in of_kind(again.events, "checkpoint")} == newest


@pytest.mark.parametrize("architecture", ["retinanet", "faster_rcnn"])
def test_other_families_resume_with_the_same_bits_too(plain: Make, tmp_path: Path, architecture: str) -> None:
    run = plain(epochs=1, model={"architecture": architecture})
    list(train(run, tmp_path / "undisturbed"))
    patience = iter([2, 1, 10**6])
    assert go_on_until_done(run, tmp_path / "stopped", patience) == 3
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "undisturbed")


def test_a_distilled_faster_rcnn_resumes_with_the_same_bits_too(distill: Make, tmp_path: Path) -> None:
    student = {"architecture": "faster_rcnn", **TINY}
    run = distill(epochs=1, student=student, distill={"control": False, "response": {"weight": 0}})
    list(train(run, tmp_path / "undisturbed"))
    assert go_on_until_done(run, tmp_path / "stopped", iter([6, 3, 10**6])) == 3
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "undisturbed")


def test_a_run_with_a_bank_resumes_with_the_same_bits_too(distill: Make, tmp_path: Path) -> None:
    parts = {"control": False, "prototypes": {"source": "bank", "selection": "kmeans"}}
    run = distill(epochs=3, distill=parts)
    undisturbed = list(train(run, tmp_path / "undisturbed"))
    assert [event.epoch for event in of_kind(undisturbed, "prototypes")] == [0, 1, 2]
    in_the_middle = iter([15, 5, 10**6])  # of the second epoch, then of the third
    assert go_on_until_done(run, tmp_path / "stopped", in_the_middle) == 3
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "undisturbed")


def test_passes_run_the_teacher_once_a_job_in_the_precision_of_the_training(
    distill: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []  # whether it was the teacher, and whether in half precision

    def looked(detector: Detector, pictures: list[Tensor]) -> object:
        teacher = not any(weights.requires_grad for weights in detector.parameters())
        seen.append((teacher, torch.is_autocast_enabled("cpu")))
        return pyramid(detector, pictures)

    monkeypatch.setattr("gkd_core.distill.instances.pyramid", looked)
    parts = {"control": False, "prototypes": {"source": "pass", "every": 1}}
    events = list(train(distill(epochs=2, precision="bfloat16", distill=parts), tmp_path))

    assert [event.epoch for event in of_kind(events, "prototypes")] == [0, 1]
    of_teacher = sum(teacher for teacher, _ in seen)
    assert len(seen) - of_teacher == 2 * of_teacher > 0
    assert all(half for _, half in seen)


def test_a_stop_while_evaluating_costs_no_step(plain: Make, tmp_path: Path) -> None:
    run = plain(epochs=1)
    with pytest.raises(StoppedError):
        list(train(run, tmp_path, stop_after(3)))  # asked once in each of three steps, then while evaluating
    again = list(train(run, tmp_path))
    assert (
        min(event.step for event in of_kind(again, "progress") if event.run == "model" and event.steps) == 3
    )


# ---- when it is over -------------------------------------------------------------------------------------


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], float]:
    """Return the AP of evaluations by run and epoch; a test may set some, the others are real."""
    planned: dict[tuple[str, int], float] = {}
    evaluate = Session.evaluate

    def planned_score(self: Session, detector: object, base: Progress, *rest: Any, **named: Any) -> Generator:
        found = yield from evaluate(self, detector, base, *rest, **named)
        ap = planned.get((base.run, base.epoch), found.metrics["AP"])
        return found._replace(metrics=found.metrics | {"AP": ap})

    monkeypatch.setattr(Session, "evaluate", planned_score)
    return planned


def test_student_and_control_stop_early_each_by_itself(
    distill: Make, tmp_path: Path, scores: dict[tuple[str, int], float]
) -> None:
    scores |= {("student", epoch): ap for epoch, ap in enumerate((0.2, 0.3, 0.1, 0.3), start=1)}
    scores |= {("control", epoch): ap for epoch, ap in enumerate((0.3, 0.1, 0.2), start=1)}
    whole = carried_out(distill(epochs=6, patience=2), tmp_path)
    told = [event.message for event in of_kind(whole.events, "warning")][-2:]
    assert told[0].startswith(
        "the student stopped after epoch 4 of 6: 2 evaluations in a row brought no better AP"
    )
    assert told[1].startswith("the control stopped after epoch 3 of 6")
    notes = of_kind(whole.events, "report")[0].notes
    assert all(any(message in note for note in notes) for message in told)
    last = {event.file: event.epoch for event in of_kind(whole.events, "checkpoint")}
    assert last == {
        "student.safetensors": 2,
        "student-last.safetensors": 4,
        "control.safetensors": 1,
        "control-last.safetensors": 3,
    }
    saved = [event for event in of_kind(whole.events, "progress") if event.saved]
    ends = {event.run: (event.epoch, event.epochs, event.fraction) for event in saved}
    assert ends == {"student": (4, 6, 0.5), "control": (3, 6, 1.0)}


def test_a_run_that_stops_early_does_so_after_being_resumed_too(
    plain: Make, tmp_path: Path, scores: dict[tuple[str, int], float]
) -> None:
    scores |= {("model", epoch): ap for epoch, ap in enumerate((0.2, 0.3, 0.1, 0.2), start=1)}
    run = plain(epochs=6, patience=2)
    undisturbed = carried_out(run, tmp_path / "undisturbed")
    assert go_on_until_done(run, tmp_path / "stopped", iter([4, 4, 4, 10**6])) == 4
    assert hashes(tmp_path / "stopped") == undisturbed.hashes


def test_the_best_is_by_the_number_that_was_asked_for(plain: Make, tmp_path: Path) -> None:
    whole = carried_out(plain(epochs=3, best_by="AR100"), tmp_path)
    evaluations = {event.epoch: event.metrics["AR100"] for event in of_kind(whole.events, "evaluation")}
    best = of_kind(whole.events, "report")[0].models["model"].metrics["AR100"]
    assert best == pytest.approx(max(evaluations.values()))
    assert "best epoch by AR100" in " ".join(of_kind(whole.events, "report")[0].notes)


def test_objects_that_all_vanish_at_the_image_size_end_a_run_before_its_first_step(
    plain: Make, tmp_path: Path
) -> None:
    run = plain()
    found = find_layout(run.data)
    assert found.train is not None
    content = json.loads(Path(found.train.annotations).read_bytes())
    for annotation in content["annotations"]:
        annotation["bbox"][2] = 0.3
    (tmp_path / "thin.json").write_text(json.dumps(content))
    thin = found.train.model_copy(update={"annotations": str(tmp_path / "thin.json")})
    data = found.model_copy(update={"train": thin})
    with pytest.raises(DataError, match=r"at train\.image_size 64 all .* objects of train are thinner"):
        list(train(run.model_copy(update={"data": data}), tmp_path / "run"))
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_a_number_that_the_data_cannot_give_cannot_choose_the_best(plain: Make, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"train\.best_by: no epoch can be the best by APl"):
        next(train(plain(best_by="APl"), tmp_path))


def test_a_control_with_other_micro_batches_is_told(distill: Make, tmp_path: Path) -> None:
    events = train(distill(epochs=1), tmp_path)
    while not getattr(next(events), "saved", False):  # the student is done; then the memory does not suffice
        pass
    events.close()
    (report,) = of_kind(list(train(distill(epochs=1, accumulate=2), tmp_path)), "report")
    assert any("the student with 1, the control with 2" in note for note in report.notes)


# ---- what stops it ---------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_loss(plain: Make, tmp_path: Path) -> None:
    run = plain(optimizer={"name": "sgd", "lr": 1e9, "clip_norm": 1e9}, epochs=5)
    with pytest.raises(DivergedError, match=r"step \d+ of 15 \(model, epoch \d\): .*(nan|inf)"):
        list(train(run, tmp_path))


def test_a_teacher_other_than_declared_is_refused(distill: Make, tmp_path: Path, teacher: Path) -> None:
    run = distill().model_copy(
        update={"teacher": distill().teacher.model_copy(update={"architecture": "retinanet"})}
    )
    with pytest.raises(SpecError, match=r"teacher\.architecture: the spec says retinanet"):
        list(train(run, tmp_path))


def test_missing_pictures_are_named_before_training(plain: Make, tmp_path: Path) -> None:
    run = plain()
    data = run.data.model_copy(update={"path": str(tmp_path / "nowhere")})
    with pytest.raises(DataError, match="nowhere"):
        list(train(run.model_copy(update={"data": data}), tmp_path / "run"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_breaks_after_the_check_is_a_failure_of_data_that_names_it(
    plain: Make, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    shutil.copytree(shapes, tmp_path / "shapes")
    run = plain(workers=workers)
    run = run.model_copy(update={"data": run.data.model_copy(update={"path": str(tmp_path / "shapes")})})
    broken: list[Path] = []

    def load_and_break(*args: Any, **options: Any) -> DataSet:
        data = load(*args, **options)
        broken.append(data.train.images[5].path)
        broken[0].write_bytes(broken[0].read_bytes()[:-100])
        return data

    monkeypatch.setattr("gkd_core.runs.session.load", load_and_break)
    run_dir = RunDir(tmp_path / "run")
    run_dir.prepare(run, attempt=1)
    monkeypatch.setattr(StopRequest, "listen_to_ctrl_c", lambda request: None)  # the test keeps its own
    assert serve_run(run_dir, 1, train) == FAILED
    failure = run_dir.read_failure()
    assert failure is not None
    assert failure.failure_class is FailureClass.DATA
    assert str(broken[0]) in failure.message


def test_weights_in_another_class_order_are_refused(plain: Make, tmp_path: Path, teacher: Path) -> None:
    run = plain(model={"weights": str(teacher)})
    order = tuple(reversed(read_card(teacher).classes))
    data = run.data.model_copy(update={"classes": order})
    with pytest.raises(SpecError, match=r"model\.weights: the weights know circle, .*; the data has cross"):
        list(train(run.model_copy(update={"data": data}), tmp_path))


def test_a_teacher_that_cannot_be_read_is_named_as_the_teacher(distill: Make, tmp_path: Path) -> None:
    run = distill()
    nowhere = run.teacher.model_copy(update={"weights": str(tmp_path / "none.safetensors")})
    with pytest.raises(SpecError, match=r"^teacher\.weights: "):
        list(train(run.model_copy(update={"teacher": nowhere}), tmp_path))


def test_a_student_that_cannot_be_built_is_named_as_the_student(distill: Make, tmp_path: Path) -> None:
    (tmp_path / "torn.pth").write_bytes(b"half")
    run = distill()
    student = run.student.model_copy(update={"weights": str(tmp_path / "torn.pth")})
    with pytest.raises(SpecError, match=r"^student\.weights: "):
        list(train(run.model_copy(update={"student": student}), tmp_path))


def test_a_gpu_that_is_not_there_is_said(plain: Make, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SpecError, match="device: a GPU is asked for"):
        list(train(plain().model_copy(update={"device": "cuda"}), tmp_path))


# ---- variants --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_and_publishes_float32(plain: Make, tmp_path: Path, precision: str) -> None:
    list(train(plain(epochs=1, precision=precision), tmp_path))
    weights = load_model(tmp_path / "model.safetensors")[0].state_dict().values()
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights)


@pytest.mark.parametrize("architecture", ["retinanet", "faster_rcnn"])
def test_other_families_distil_from_any_teacher(distill: Make, tmp_path: Path, architecture: str) -> None:
    student = {"architecture": architecture, **TINY}
    parts = {"control": False, "response": {"weight": 0}}
    events = list(train(distill(epochs=1, student=student, distill=parts), tmp_path))
    losses = {name for event in of_kind(events, "progress") for name in event.losses}
    assert "distill_global" in losses
    assert of_kind(events, "report")[0].gain is None


def test_scores_of_unlike_heads_are_not_compared(distill: Make, tmp_path: Path) -> None:
    student = {"architecture": "retinanet", **TINY}
    asked = {"response": {"weight": 1}}
    with pytest.raises(SpecError, match=r"distill\.response\.weight"):
        list(train(distill(student=student, distill=asked), tmp_path))


def test_what_is_left_of_a_distillation_counts_each_training_by_its_own_pace(
    distill: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time the rest: a step of the student takes 10 s, one of the control, which has no teacher, 4."""

    class Paced(ProgressMeter):
        def __init__(self) -> None:
            self.seconds = 0.0
            super().__init__(lambda: self.seconds)

        def count(self, losses: dict[str, torch.Tensor], images: int) -> None:
            self.seconds += 10.0 if "distill_global" in losses else 4.0
            super().count(losses, images)

    monkeypatch.setattr("gkd_core.runs.session.ProgressMeter", Paced)
    told = of_kind(list(train(distill(epochs=2), tmp_path)), "progress")
    saved = {(event.run, event.epoch): event for event in told if event.saved and event.step}
    steps = saved["control", 2].steps
    assert saved["control", 1].seconds_left == pytest.approx(4.0 * steps / 2)
    assert saved["control", 2].seconds_left == 0
    control = saved["student", 2].seconds_left
    assert 0.3 * 10.0 * steps < control < 0.95 * 10.0 * steps
    assert saved["student", 1].seconds_left == pytest.approx(10.0 * steps / 2 + control)
