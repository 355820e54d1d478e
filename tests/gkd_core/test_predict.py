"""`gkd predict`, as the process that it is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gkd_core.checkpoint import publish_model
from gkd_core.config import DataConfig, DetectorConfig
from gkd_core.data.loading import eval_batches
from gkd_core.data.reading import load
from gkd_core.detectors import build_detector
from gkd_core.errors import SpecError
from gkd_core.evaluate import detect_batches
from gkd_core.export import to_onnx
from gkd_core.model_card import ModelCard
from gkd_core.predict import Model, find_pictures, ids_for, look_at, main, names_for, open_model

CLASSES = ("círculo", "square", "triangle", "cross")
FORM = {"backbone_width": 0.25, "fpn": {"channels": 16}, "head": {"depth": 1}}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One detector that finds many things, as both kinds of files."""
    folder = tmp_path_factory.mktemp("models")
    config = DetectorConfig.model_validate(FORM)
    torch.manual_seed(0)
    detector = build_detector(config, len(CLASSES), 64).eval()
    torch.nn.init.normal_(detector.head.classification_head.cls_logits.weight, std=0.3)
    torch.nn.init.constant_(detector.head.classification_head.cls_logits.bias, -1.0)
    card = ModelCard.of(config, CLASSES, 64)
    paths = {suffix: folder / f"model.{suffix}" for suffix in ("safetensors", "onnx")}
    publish_model(paths["safetensors"], detector.state_dict(), card)
    paths["onnx"].write_bytes(to_onnx(detector, card, 17))
    return paths


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three pictures, one of them broken, and a file that is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (2, 90, 120, 3), dtype=np.uint8)
    Image.fromarray(noise[0]).save(folder / "1.jpg")
    Image.fromarray(noise[1]).save(folder / "2.PNG")
    (folder / "3.jpg").write_bytes((folder / "1.jpg").read_bytes()[:500])
    (folder / "notes.txt").write_text("no picture")
    return folder


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command; its exit code and what it said."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return call


@pytest.mark.parametrize("suffix", ["safetensors", "onnx"])
def test_pictures_are_drawn_and_detections_written(
    models: dict[str, Path], pictures: Path, tmp_path: Path, run: Run, suffix: str
) -> None:
    code, said, complaints = run(models[suffix], pictures, "--out", tmp_path / "out")
    assert code == 1
    assert "3.jpg: cannot be decoded" in complaints
    assert "1.jpg: " in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"1.jpg", "2.PNG", "predictions.json"}
    with Image.open(tmp_path / "out" / "1.jpg") as image:
        assert image.size == (120, 90)
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {result["image_id"] for result in results} == {1, 2}
    assert all(result["category"] == CLASSES[result["category_id"] - 1] for result in results)
    assert all(result["score"] >= 0.3 and min(result["bbox"]) >= 0 for result in results)
    rightmost = max(result["bbox"][0] + result["bbox"][2] for result in results)
    assert rightmost > 70  # pixels of the picture itself, not of the 64 that the model sees


def test_both_kinds_of_files_find_the_same(models: dict[str, Path], pictures: Path) -> None:
    found = [look_at(open_model(str(path)), pictures / "1.jpg", 1, 0.3) for path in models.values()]
    np.testing.assert_allclose(found[0].boxes, found[1].boxes, atol=1e-3)
    np.testing.assert_array_equal(found[0].labels, found[1].labels)
    assert len(found[0].scores) > 5


def test_a_picture_is_seen_as_in_evaluation(models: dict[str, Path], shapes: Path) -> None:
    images = load(DataConfig(path=str(shapes))).val.images
    from gkd_core.checkpoint import load_model

    detector, _ = load_model(models["safetensors"])
    (wanted,) = detect_batches(detector, eval_batches(images[:1], 64, 1), torch.device("cpu"))
    wanted_scores = wanted[images[0].image_id]["scores"][wanted[images[0].image_id]["labels"] > 0]
    found = look_at(open_model(str(models["safetensors"])), images[0].path, 1, 0.0)
    np.testing.assert_allclose(found.scores, wanted_scores)


def test_programs_get_a_line_of_json_for_each_picture(
    models: dict[str, Path], pictures: Path, tmp_path: Path, run: Run
) -> None:
    code, said, _ = run(models["onnx"], pictures, "--out", tmp_path / "out", "--json", "--score", 0.5)
    lines = [json.loads(line) for line in said.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["1.jpg", "2.PNG", "3.jpg"]
    assert (lines[0]["width"], lines[0]["height"]) == (120, 90)
    assert all(each["score"] >= 0.5 and each["class"] in CLASSES for each in lines[0]["detections"])
    assert "cannot be decoded" in lines[2]["error"]
    assert code == 1


def test_pictures_are_never_replaced(
    models: dict[str, Path], pictures: Path, run: Run, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in pictures.iterdir()}
    (tmp_path / "link").symlink_to(pictures)
    for out in (pictures, tmp_path / "link", pictures / ".." / "pictures"):
        code, _, complaints = run(models["onnx"], pictures / "1.jpg", "--out", out)
        assert code == 1
        assert "would be replaced by drawn ones" in complaints
    assert {path: path.read_bytes() for path in pictures.iterdir()} == before


def test_a_link_to_a_picture_is_replaced_and_not_followed(
    models: dict[str, Path], pictures: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "1.jpg").symlink_to(pictures / "1.jpg")
    before = (pictures / "1.jpg").read_bytes()
    assert run(models["onnx"], pictures / "1.jpg", "--out", out)[0] == 0
    assert (pictures / "1.jpg").read_bytes() == before


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("absent.onnx", "there is no file absent.onnx"),
        ("absent.safetensors", "absent.safetensors is not a model of GKD"),
        ("notes.onnx", "is no detector that GKD exported"),
    ],
)
def test_a_model_that_is_none_is_told_in_a_sentence(
    pictures: Path, tmp_path: Path, run: Run, model: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.onnx").write_text("no network")
    code, _, complaints = run(model, pictures, "--out", tmp_path / "out")
    assert code == 1
    assert told in complaints
    assert "Traceback" not in complaints
    assert not (tmp_path / "out").exists()


def test_a_network_of_somebody_else_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph(
        [node], "g", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])]
    )
    path = tmp_path / "other.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(SpecError, match="its metadata has no 'classes'"):
        open_model(str(path))


def test_a_folder_without_pictures_is_told(models: dict[str, Path], tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty").mkdir()
    code, _, complaints = run(models["onnx"], tmp_path / "empty", "--out", tmp_path / "out")
    assert (code, complaints) == (1, f"{tmp_path / 'empty'}: a folder without pictures\n")


def test_names_and_ids_of_drawn_pictures_are_never_the_same() -> None:
    files = [Path("a/1.jpg"), Path("b/1.jpg"), Path("b/1.png"), Path("c/x.tif"), Path("c/X.TIF")]
    assert list(names_for(files).values()) == ["1.jpg", "1-2.jpg", "1.png", "x.png", "X-2.png"]
    assert ids_for(files) == [1, 2, 3, 4, 5]
    assert ids_for([Path("000139.jpg"), Path("000285.jpg")]) == [139, 285]


def test_a_picture_that_is_named_twice_is_drawn_once(pictures: Path, tmp_path: Path) -> None:
    files, _ = find_pictures([pictures / "1.jpg", pictures], tmp_path / "out")
    assert [file.name for file in files] == ["1.jpg", "2.PNG", "3.jpg"]


def test_an_exported_model_needs_no_torch(models: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from gkd_core.predict import main; "
        f"sys.exit(main([{str(models['onnx'])!r}, {str(pictures / '1.jpg')!r}, '--out', {str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "1.jpg").exists()


def test_what_is_missing_for_a_model_of_torch_is_named(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gkd_core.teacher", None)
    with pytest.raises(SpecError, match="which is not installed") as raised:
        open_model(str(models["safetensors"]))
    assert "gkd[engine]" in raised.value.hint


def test_the_background_is_no_class(pictures: Path) -> None:
    found: dict[str, Any] = {
        "boxes": np.array([[1, 1, 5, 5], [2, 2, 6, 6]], np.float32),
        "labels": np.array([0, 1]),
        "scores": np.array([0.9, 0.8], np.float32),
    }
    seen = look_at(Model(lambda pixels: found, ("cell",), 60), pictures / "1.jpg", 1, 0.3)
    assert seen.labels.tolist() == [1]
    assert seen.boxes.tolist() == [[4, 4, 12, 12]]
