"""Export as ONNX: the file must compute what torch does, and is not published otherwise."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from gkd_core.config import DetectorConfig, ExportConfig, run_config
from gkd_core.detectors.build import build_detector, detect
from gkd_core.detectors.checkpoint import publish_model, sha256_of
from gkd_core.detectors.detector import Detector
from gkd_core.detectors.model_card import ModelCard
from gkd_core.detectors.onnx import OnnxDetector
from gkd_core.errors import SpecError, StoppedError
from gkd_core.evaluation.detection_diff import NOTHING
from gkd_core.events import Event, Report
from gkd_core.run_dir import RunDir
from gkd_core.runs import export as module
from gkd_core.runs.export import MOST_DECIDED_OTHERWISE, differences, spread, to_onnx, without_background
from gkd_core.train import carry_out

FAMILIES = ("fcos", "retinanet", "faster_rcnn")
CLASSES = ("circle", "square", "triangle", "cross")
SMALL: dict[str, Any] = {"backbone_width": 0.25, "fpn": {"channels": 32}, "head": {"depth": 1}}


def outspoken(
    architecture: str, classes: int, image_size: int, **fields: Any
) -> tuple[Detector, DetectorConfig]:
    """Return an untrained detector that detects many objects, with scores all over the range."""
    config = DetectorConfig.model_validate({"architecture": architecture, **SMALL, **fields})
    torch.manual_seed(0)
    detector = build_detector(config, classes, image_size).eval()
    for name, parameter in detector.named_parameters():
        if "cls_logits.weight" in name or "cls_score.weight" in name:
            torch.nn.init.normal_(parameter, std=0.3)
        if "cls_logits.bias" in name:
            torch.nn.init.constant_(parameter, -1.0)
    return detector, config


Publish = Callable[..., Path]


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """Return a function that writes the model file of such a detector into the run's folder."""

    def write(
        architecture: str, classes: tuple[str, ...] = CLASSES, image_size: int = 64, **fields: Any
    ) -> Path:
        detector, config = outspoken(architecture, len(classes), image_size, **fields)
        path = tmp_path / "model.safetensors"
        publish_model(path, detector.state_dict(), ModelCard.of(config, classes, image_size))
        return path

    return write


def export(model: Path, data: Path, stop: bool = False, **settings: Any) -> list[Event]:
    """Run an export job in the folder of the model."""
    spec = {"kind": "export", "data": str(data), "model": {"weights": str(model)}, "export": settings}
    return list(carry_out(run_config.validate_python(spec), model.parent, lambda: stop))


def test_a_gpu_is_refused_since_none_would_be_used() -> None:
    spec = {"kind": "export", "data": "data", "model": {"weights": "model"}, "device": "cuda"}
    with pytest.raises(ValidationError, match="'auto' or 'cpu'") as raised:
        run_config.validate_python(spec)
    assert raised.value.errors()[0]["loc"] == ("export", "device")


def report_of(events: list[Event]) -> Report:
    assert isinstance(events[-1], Report)
    return events[-1]


# ---- as good as torch ------------------------------------------------------------------------------------


@pytest.mark.skipif("GKD_SHARED" not in os.environ, reason="needs sample data, see GKD_SHARED")
@pytest.mark.parametrize("architecture", FAMILIES)
def test_on_20_pictures_of_blood_cells_the_file_does_what_torch_does(
    architecture: str, publish: Publish
) -> None:
    cells = Path(os.environ["GKD_SHARED"], "data", "bccd")
    model = publish(architecture, ("Platelets", "RBC", "WBC"), 320)
    report = report_of(export(model, cells))
    assert report.export is not None
    assert report.export.pictures == 20
    assert report.export.detections >= 500
    assert report.export.largest_box_difference <= 0.5
    assert report.export.largest_score_difference <= 1e-3
    assert report.export.decided_otherwise <= MOST_DECIDED_OTHERWISE * report.export.detections


@pytest.mark.parametrize(
    ("architecture", "fields", "opset"),
    [
        ("faster_rcnn", {}, 16),
        ("retinanet", {"backbone": "mobilenet_v3_small", "backbone_width": 1}, 18),
        ("fcos", {"norm": "group", "head": {"depth": 1, "depthwise": True}}, 20),
    ],
)
def test_pictures_may_have_any_size(architecture: str, fields: dict[str, Any], opset: int) -> None:
    detector, config = outspoken(architecture, 4, 64, **fields)
    exported = OnnxDetector(to_onnx(detector, ModelCard.of(config, CLASSES, 64), opset))
    for height, width in ((64, 64), (48, 64), (64, 20), (131, 97)):
        picture = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height))
        wanted, found = without_background(detect(detector, [picture])[0]), exported(picture.numpy())
        assert len(found["scores"]) == len(wanted["scores"]) > 0
        np.testing.assert_allclose(found["scores"], wanted["scores"], atol=1e-5)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_where_nothing_is_found_the_lists_are_empty(architecture: str) -> None:
    detector, config = outspoken(architecture, 4, 64)
    scoring = detector.roi_heads if architecture == "faster_rcnn" else detector
    scoring.score_thresh = 1.1  # also while it is traced
    found = OnnxDetector(to_onnx(detector, ModelCard.of(config, CLASSES, 64), 17))(
        np.ones((3, 64, 64), np.float32)
    )
    assert [values.shape for values in found.values()] == [(0, 4), (0,), (0,)]
    assert found["labels"].dtype == np.int64


# ---- the file --------------------------------------------------------------------------------------------


def test_the_file_alone_says_all_that_a_program_needs(publish: Publish, shapes: Path) -> None:
    model = publish("fcos", ("círculo", "正方形", "triangle", "cross"))
    events = export(model, shapes)
    file = next(event for event in events if event.kind == "file")
    path = model.parent / "model.onnx"
    assert (file.file, file.size, file.sha256) == ("model.onnx", path.stat().st_size, sha256_of(path))
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == ["círculo", "正方形", "triangle", "cross"]
    assert about["image_size"] == "64"
    assert ModelCard.model_validate_json(about["gkd"]).architecture == "fcos"
    (picture,) = session.get_inputs()
    assert (picture.name, picture.shape) == ("images", [1, 3, "height", "width"])
    boxes, labels, scores = session.run(None, {"images": np.ones((1, 3, 48, 64), np.float32)})
    assert boxes.shape == (len(labels), 4)
    assert set(labels.tolist()) <= {1, 2, 3, 4}
    assert (np.diff(scores) <= 0).all()
    assert scores.min() > float(about["score_threshold"])


def test_the_report_has_both_side_by_side(publish: Publish, shapes: Path) -> None:
    model = publish("fcos")
    events = export(model, shapes)
    report = report_of(events)
    assert [event.fraction for event in events if event.kind == "progress"][-1] == 1.0
    assert list(report.models) == ["model", "onnx"]
    assert report.models["onnx"].file == "model.onnx"
    assert report.models["onnx"].sha256 == sha256_of(model.parent / "model.onnx")
    assert all(entry.latency_ms.low > 0 for entry in report.models.values())
    assert "onnxruntime" in report.models["onnx"].latency_ms.device
    assert report.export is not None
    assert f"{report.export.detections} detections differ from torch's by at most" in report.notes[0]
    assert Report.model_validate(RunDir(model.parent).read_report()) == report


def test_the_same_model_gives_the_same_bytes() -> None:
    detector, config = outspoken("fcos", 4, 64)
    card = ModelCard.of(config, CLASSES, 64)
    assert to_onnx(detector, card, 17) == to_onnx(detector, card, 17)


def test_exporting_leaves_the_process_as_it_was() -> None:
    detector, config = outspoken("fcos", 4, 64)
    before = list(warnings.filters)
    to_onnx(detector, ModelCard.of(config, CLASSES, 64), 17)
    assert warnings.filters == before
    assert not detector.training


# ---- what is not published -------------------------------------------------------------------------------


def test_a_file_that_differs_is_not_published(
    publish: Publish, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forged(detector: Detector, card: ModelCard, opset: int) -> bytes:
        with torch.no_grad():
            detector.head.classification_head.cls_logits.bias.add_(0.1)
        content = to_onnx(detector, card, opset)
        with torch.no_grad():
            detector.head.classification_head.cls_logits.bias.sub_(0.1)
        return content

    monkeypatch.setattr(module, "to_onnx", forged)
    model = publish("fcos")
    with pytest.raises(SpecError, match=r"differs from torch by .* 0.001 are allowed") as raised:
        export(model, shapes)
    assert ("export", "score_tolerance") in [problem.loc for problem in raised.value.problems]
    assert not (model.parent / "model.onnx").exists()


def test_what_rounding_decides_must_stay_rare() -> None:
    many = NOTHING._replace(pairs=1000, decided_otherwise=11)
    assert "decided by rounding, too many" in differences(many, ExportConfig())[0].message
    assert not differences(many._replace(decided_otherwise=10), ExportConfig())


def test_what_only_one_of_them_finds_is_told() -> None:
    (problem,) = differences(NOTHING._replace(pairs=7, alone=("label 1 at here",)), ExportConfig())
    assert "such as label 1 at here; 7 are made by both" in problem.message


def test_a_model_that_finds_nothing_proves_nothing(publish: Publish, shapes: Path) -> None:
    model = publish("fcos")
    events = export(model, shapes, check_pictures=2)
    assert not any(event.kind == "warning" for event in events)
    detector = build_detector(DetectorConfig.model_validate(SMALL), 4, 64).eval()
    publish_model(
        model, detector.state_dict(), ModelCard.of(DetectorConfig.model_validate(SMALL), CLASSES, 64)
    )
    (warning,) = [event for event in export(model, shapes, check_pictures=2) if event.kind == "warning"]
    assert "the model finds nothing on the 2 pictures, so no box was compared" in warning.message


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_what_is_not_installed_is_named(
    publish: Publish, shapes: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SpecError, match=f"{package} is not installed") as raised:
        export(publish("fcos"), shapes)
    assert "pip install 'gkd[export]'" in raised.value.hint


def test_an_export_stops_when_asked_and_leaves_no_file(publish: Publish, shapes: Path) -> None:
    model = publish("fcos")
    with pytest.raises(StoppedError):
        export(model, shapes, stop=True)
    assert not (model.parent / "model.onnx").exists()


def test_a_model_that_is_not_what_the_spec_says_is_named_by_its_field(publish: Publish, shapes: Path) -> None:
    model = publish("fcos")
    declared = {"weights": str(model), "architecture": "retinanet"}
    config = run_config.validate_python({"kind": "export", "data": str(shapes), "model": declared})
    with pytest.raises(SpecError) as raised:
        list(carry_out(config, model.parent, lambda: False))
    assert raised.value.problems[0].loc == ("model", "architecture")


def test_pictures_are_spread_over_the_split() -> None:
    pictures: Any = list(range(100))
    assert spread(pictures, 5) == [0, 25, 50, 74, 99]
    assert spread(pictures, 200) == pictures
