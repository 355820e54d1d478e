"""Runs of kind `evaluate`: the metrics of an existing model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gkd_core.config import DataConfig, DetectorConfig, run_config
from gkd_core.data.find import find_layout
from gkd_core.data.loading import eval_batches
from gkd_core.data.reading import load
from gkd_core.detectors.build import build_detector
from gkd_core.detectors.checkpoint import load_model, publish_model
from gkd_core.detectors.model_card import ModelCard
from gkd_core.distill.teacher import labels_of
from gkd_core.errors import DataError, SpecError, StoppedError
from gkd_core.evaluation.coco import Detections, detect_batches, score
from gkd_core.events import Event, Report
from gkd_core.run_dir import COMPLETE, RunDir
from gkd_core.train import carry_out, main
from gkd_core.training.progress_meter import ProgressMeter


def evaluate(model: Path, drawn: Path, folder: Path, stop: bool = False, **fields: Any) -> list[Event]:
    spec = {
        "kind": "evaluate",
        "data": {"path": str(drawn)},
        "model": {"weights": str(model)},
        "device": "cpu",
    }
    return list(carry_out(run_config.validate_python(spec | fields), folder, lambda: stop))


def renamed(model: Path, folder: Path, *classes: str) -> Path:
    """Publish the same model for other classes."""
    detector, card = load_model(model)
    path = folder / "renamed.safetensors"
    publish_model(path, detector.state_dict(), card.model_copy(update={"classes": classes}))
    return path


NAMES = ("circle", "square", "triangle", "cross")


@pytest.fixture(scope="module")
def outspoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Publish a model that detects so many objects that some match."""
    config = DetectorConfig.model_validate(
        {"architecture": "retinanet", "fpn": {"channels": 16}, "head": {"depth": 1}}
    )
    torch.manual_seed(0)
    detector = build_detector(config, len(NAMES), 64).eval()
    logits = detector.head.classification_head.cls_logits
    torch.nn.init.normal_(logits.weight, std=0.3)
    torch.nn.init.constant_(logits.bias, -1.0)
    path = tmp_path_factory.mktemp("outspoken") / "model.safetensors"
    publish_model(path, detector.state_dict(), ModelCard.of(config, NAMES, 64))
    return path


def test_a_model_has_the_numbers_that_its_detections_deserve(
    outspoken: Path, shapes: Path, tmp_path: Path
) -> None:
    detector, _ = load_model(outspoken)
    data = load(DataConfig(path=str(shapes)))
    detections: Detections = {}
    for found in detect_batches(detector, eval_batches(data.val.images, 64, 4), torch.device("cpu")):
        detections |= found
    wanted = score(data.val.images, data.classes, detections)
    assert wanted.metrics["AR100"] > 0  # else nothing would be compared
    events = evaluate(outspoken, shapes, tmp_path)
    report = events[-1]
    assert isinstance(report, Report)
    assert list(report.models) == ["model"]
    assert report.models["model"].metrics == wanted.metrics
    assert report.models["model"].per_class == wanted.per_class
    assert report.models["model"].file is None
    assessment = report.models["model"].assessment
    assert assessment is not None
    mean = sum(assessment.precision_recall["AP"]) / 101
    assert mean == pytest.approx(wanted.metrics["AP"], abs=1e-4)
    told = assessment.confusion
    detected = {name: sum(told.detected[name].values()) + told.missed[name] for name in data.classes}
    assert list(detected.values()) == wanted.matches.objects.tolist()
    assert Report.model_validate(RunDir(tmp_path).read_report()) == report
    (evaluation,) = [event for event in events if event.kind == "evaluation"]
    assert (evaluation.run, evaluation.metrics) == ("model", wanted.metrics)


def test_classes_are_matched_by_name_and_not_by_number(outspoken: Path, shapes: Path, tmp_path: Path) -> None:
    detector, card = load_model(outspoken)
    order = [0, 4, 2, 1, 3]  # background stays first
    rows = [5 * anchor + label for anchor in range(9) for label in order]
    turned = {
        name: values[rows] if "cls_logits" in name else values
        for name, values in detector.state_dict().items()
    }
    classes = tuple(NAMES[label - 1] for label in order[1:])
    path = tmp_path / "turned.safetensors"
    publish_model(path, turned, card.model_copy(update={"classes": classes}))
    one, other = (evaluate(model, shapes, tmp_path)[-1] for model in (outspoken, path))
    assert isinstance(one, Report)
    assert isinstance(other, Report)
    assert one.models["model"].per_class == other.models["model"].per_class
    assert len(set(one.models["model"].per_class.values())) > 1  # else they could be exchanged unnoticed


def test_classes_that_the_model_lacks_are_named_and_count_as_0(
    teacher: Path, shapes: Path, tmp_path: Path
) -> None:
    model = renamed(teacher, tmp_path, "circle", "crow", "triangle", "dove")
    events = evaluate(model, shapes, tmp_path)
    (warning,) = [event for event in events if event.kind == "warning" and "know" in event.message]
    assert warning.message == "the model does not know square, cross, whose AP counts as 0"
    report = events[-1]
    assert isinstance(report, Report)
    assert report.models["model"].per_class["square"] == 0
    assert any("square, cross" in note for note in report.notes)


def test_a_model_that_knows_no_class_is_refused(teacher: Path, shapes: Path, tmp_path: Path) -> None:
    model = renamed(teacher, tmp_path, "a", "b", "c", "d")
    with pytest.raises(SpecError, match="knows none of the classes circle") as raised:
        evaluate(model, shapes, tmp_path)
    assert raised.value.problems[0].loc == ("model", "weights")


def test_pictures_may_be_of_another_size_than_in_training(
    teacher: Path, shapes: Path, tmp_path: Path
) -> None:
    small = evaluate(teacher, shapes, tmp_path)[-1]
    large = evaluate(teacher, shapes, tmp_path, evaluate={"image_size": 96})[-1]
    assert isinstance(small, Report)
    assert isinstance(large, Report)
    assert large.models["model"].gflops > small.models["model"].gflops
    assert "96 pixels (in the model's training: 64)" in large.notes[0]


def held_out(shapes: Path, folder: Path, pictures: int) -> dict[str, Any]:
    """Write a split of the first validation pictures."""
    file = next((shapes / "annotations").glob("instances_val*.json"))
    content = json.loads(file.read_text())
    content["images"] = content["images"][:pictures]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]
    (folder / "held-out.json").write_text(json.dumps(content))
    images = load(DataConfig(path=str(shapes))).val.images[0].path.parent
    return {"images": str(images), "annotations": str(folder / "held-out.json")}


@pytest.mark.parametrize("alone", [True, False])
def test_a_model_is_scored_on_the_test_split_if_that_is_asked_for(
    outspoken: Path, shapes: Path, tmp_path: Path, alone: bool
) -> None:
    data = load(DataConfig(path=str(shapes)))
    images = data.val.images[:3]
    detector, _ = load_model(outspoken)
    detections: Detections = {}
    for found in detect_batches(detector, eval_batches(images, 64, 4), torch.device("cpu")):
        detections |= found
    wanted = score(images, data.classes, detections)
    others = {} if alone else find_layout(DataConfig(path=str(shapes))).model_dump(include={"train", "val"})
    spelt_out = others | {"test": held_out(shapes, tmp_path, 3)}
    report = evaluate(outspoken, shapes, tmp_path, data=spelt_out, evaluate={"split": "test"})[-1]
    assert isinstance(report, Report)
    assert report.models["model"].metrics == pytest.approx(wanted.metrics)
    assert (report.split, report.pictures) == ("test", {"test": 3})
    assert "3 pictures of the test split" in report.notes[0]


def test_a_split_that_is_not_there_cannot_be_scored_on(outspoken: Path, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no test split"):
        evaluate(outspoken, shapes, tmp_path, evaluate={"split": "test"})


def test_progress_grows_with_the_pictures(
    teacher: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProgressMeter, "progress_due", lambda clock: True)
    events = evaluate(teacher, shapes, tmp_path, evaluate={"batch_size": 1})
    progress = [event for event in events if event.kind == "progress"]
    assert [event.fraction for event in progress] == [0.25, 0.5, 0.75, 1.0]
    assert {event.activity for event in progress} == {"evaluate"}


def test_it_stops_when_asked(teacher: Path, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        evaluate(teacher, shapes, tmp_path, stop=True)


def test_the_engine_process_carries_it_out(teacher: Path, shapes: Path, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    spec = {"kind": "evaluate", "data": {"path": str(shapes)}, "model": {"weights": str(teacher)}}
    run_dir.prepare(run_config.validate_python(spec), 1)
    assert main([str(run_dir.path), "--attempt", "1"]) == COMPLETE
    kinds = [event.split('"kind":"')[1].split('"')[0] for event in run_dir.events.read_text().splitlines()]
    assert kinds[-3:] == ["evaluation", "progress", "report"]


def test_labels_are_matched_by_name() -> None:
    assert labels_of(["cat", "dog", "cow"], ["cow", "horse", "cat"]).tolist() == [0, 3, 0, 1]
