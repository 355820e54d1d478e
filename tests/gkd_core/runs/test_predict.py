"""`gkd predict`, run as a process."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gkd_core.config import DataConfig, DetectorConfig
from gkd_core.data.loading import eval_batches
from gkd_core.data.reading import load
from gkd_core.detectors.build import build_detector
from gkd_core.detectors.checkpoint import publish_model
from gkd_core.detectors.model_card import ModelCard
from gkd_core.errors import SpecError
from gkd_core.evaluation.coco import detect_batches
from gkd_core.runs.export import to_onnx
from gkd_core.runs.predict import Choice, look_at, main, name_for, overlaps
from gkd_core.runs.prediction_images import Source, find_pictures, ids_for
from gkd_core.runs.prediction_model import Model, open_model
from gkd_core.runs.video import frames

CLASSES = ("círculo", "square", "triangle", "cross")
FORM = {"backbone_width": 0.25, "fpn": {"channels": 16}, "head": {"depth": 1}}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return one detector that detects many objects, in both kinds of files."""
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
    """Return a folder of three pictures, one of them broken, and a file that is none."""
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
    """Return a function that runs the command and returns its exit code and output."""

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
    found = [
        look_at(open_model(str(path)), Source(pictures / "1.jpg", 1), Choice(0.3)) for path in models.values()
    ]
    np.testing.assert_allclose(found[0].boxes, found[1].boxes, atol=1e-3)
    np.testing.assert_array_equal(found[0].labels, found[1].labels)
    assert len(found[0].scores) > 5


def test_a_picture_is_seen_as_in_evaluation(models: dict[str, Path], shapes: Path) -> None:
    images = load(DataConfig(path=str(shapes))).val.images
    from gkd_core.detectors.checkpoint import load_model

    detector, _ = load_model(models["safetensors"])
    (wanted,) = detect_batches(detector, eval_batches(images[:1], 64, 1), torch.device("cpu"))
    wanted_scores = wanted[images[0].image_id]["scores"][wanted[images[0].image_id]["labels"] > 0]
    found = look_at(open_model(str(models["safetensors"])), Source(images[0].path, 1), Choice(0.0))
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
    taken: set[str] = set()
    assert [name_for(file, taken) for file in files] == ["1.jpg", "1-2.jpg", "1.png", "x.png", "X-2.png"]
    assert ids_for(files) == [1, 2, 3, 4, 5]
    assert ids_for([Path("000139.jpg"), Path("000285.jpg")]) == [139, 285]


def test_a_picture_that_is_named_twice_is_drawn_once(pictures: Path, tmp_path: Path) -> None:
    files, _ = find_pictures([pictures / "1.jpg", pictures], tmp_path / "out")
    assert [file.name for file in files] == ["1.jpg", "2.PNG", "3.jpg"]


def test_an_exported_model_needs_no_torch(models: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from gkd_core.runs.predict import main; "
        f"sys.exit(main([{str(models['onnx'])!r}, {str(pictures / '1.jpg')!r}, '--out', {str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "1.jpg").exists()


def test_what_is_missing_for_a_model_of_torch_is_named(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gkd_core.distill.teacher", None)
    with pytest.raises(SpecError, match="which is not installed") as raised:
        open_model(str(models["safetensors"]))
    assert "gkd[engine]" in raised.value.hint


def test_the_background_is_no_class(pictures: Path) -> None:
    found: dict[str, Any] = {
        "boxes": np.array([[1, 1, 5, 5], [2, 2, 6, 6]], np.float32),
        "labels": np.array([0, 1]),
        "scores": np.array([0.9, 0.8], np.float32),
    }
    seen = look_at(Model(lambda pixels: found, ("cell",), 60), Source(pictures / "1.jpg", 1), Choice(0.3))
    assert seen.labels.tolist() == [1]
    assert seen.boxes.tolist() == [[4, 4, 12, 12]]


# ---- ids of the data set's own file -----------------------------------------------------------------------


@pytest.fixture
def own_ids(tmp_path: Path) -> Path:
    """Return a COCO data set whose ids of pictures and categories do not follow from their names."""
    noise = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for split, first in (("train", 7000), ("val", 1007)):
        folder = tmp_path / "ds" / "images" / split / "deep"
        folder.mkdir(parents=True)
        for name in ("b.jpg", "a.jpg"):
            Image.fromarray(noise).save(folder / name)
        content = {
            "images": [
                {"id": first + 7 * n, "file_name": f"deep/{name}", "width": 120, "height": 90}
                for n, name in enumerate(("b.jpg", "a.jpg"))
            ],
            "categories": [{"id": 90 - n, "name": name} for n, name in enumerate(reversed(CLASSES))],
            "annotations": [
                {
                    "id": 1,
                    "image_id": first,
                    "category_id": 90,
                    "bbox": [1, 1, 9, 9],
                    "area": 81,
                    "iscrowd": 0,
                }
            ],
        }
        file = tmp_path / "ds" / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    return tmp_path / "ds"


def compared(own: Path, results: Path) -> dict[int, set[int]]:
    """Return the category ids by image id as COCO's own tools read results; they refuse unknown pictures."""
    from pycocotools.coco import COCO

    truth = COCO(str(own))
    found = truth.loadRes(str(results))
    by_image: dict[int, set[int]] = {}
    for each in found.anns.values():
        by_image.setdefault(each["image_id"], set()).add(each["category_id"])
    assert set(by_image) <= set(truth.getImgIds())
    assert set().union(*by_image.values()) <= set(truth.getCatIds())
    return by_image


@pytest.mark.parametrize("form", ["json", "coco"])
@pytest.mark.parametrize("named", [False, True])
def test_results_fit_the_data_sets_own_file(
    models: dict[str, Path], own_ids: Path, tmp_path: Path, run: Run, form: str, named: bool
) -> None:
    out, own = tmp_path / "out", own_ids / "annotations" / "instances_val.json"
    pictures = own_ids / "images" / "val" / "deep"
    if named:  # elsewhere only their names tell which they are
        pictures = pictures.rename(tmp_path / "deep")
    options = ("--data", own) if named else ()
    code, _, told = run(models["onnx"], pictures, "--out", out, "--format", form, *options)
    assert code == 0
    assert f"those of {own}" in told or f", {own}" in told
    assert set(compared(own, out / "predictions.json")) == {1007, 1014}
    for each in json.loads((out / "predictions.json").read_text()):
        if form == "coco":
            assert each.keys() == {"image_id", "category_id", "bbox", "score"}
        else:
            assert each["category_id"] == 87 + CLASSES.index(each["category"])
            assert each["file_name"] == {1007: "deep/b.jpg", 1014: "deep/a.jpg"}[each["image_id"]]


def test_the_same_name_in_another_split_is_another_picture(
    models: dict[str, Path], own_ids: Path, tmp_path: Path, run: Run
) -> None:
    train = own_ids / "images" / "train" / "deep" / "b.jpg"
    assert run(models["onnx"], train, "--out", tmp_path / "out", "--data", own_ids)[0] == 0
    ids = {each["image_id"] for each in json.loads((tmp_path / "out" / "predictions.json").read_text())}
    assert ids == {7000}


def test_what_a_data_set_does_not_list_gets_numbers_above(
    models: dict[str, Path], own_ids: Path, tmp_path: Path, run: Run
) -> None:
    own = own_ids / "annotations" / "instances_val.json"
    content = json.loads(own.read_text())
    content["categories"] = [each for each in content["categories"] if each["name"] != "square"]
    own.write_text(json.dumps(content))
    new = own_ids / "images" / "val" / "deep" / "new.jpg"
    Image.open(new.with_name("a.jpg")).save(new)
    code, _, told = run(models["onnx"], new.parent, "--out", tmp_path / "out", "--data", own)
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {each["image_id"] for each in results if each["file_name"] == "new.jpg"} == {1014 + 3}
    assert all((each["category_id"] > 90) == (each["category"] == "square") for each in results)
    assert "1 pictures are not listed there" in told
    assert "classes that are not listed there get numbers above: square" in told
    assert code == 0


@pytest.mark.parametrize("content", [None, "{", "[]", '{"images": []}', '{"images": 3, "categories": []}'])
def test_data_without_ids_is_refused_by_name(
    models: dict[str, Path], pictures: Path, tmp_path: Path, run: Run, content: str | None
) -> None:
    own = tmp_path / "own.json"
    if content is not None:
        own.write_text(content)
    code, _, told = run(models["onnx"], pictures / "1.jpg", "--out", tmp_path / "out", "--data", own)
    assert code == 1
    assert f"{own} holds no ids of COCO" in told
    assert not (tmp_path / "out").exists()


# ---- forms -----------------------------------------------------------------------------------------------


def test_labels_of_yolo_are_shares_of_the_picture(
    models: dict[str, Path], pictures: Path, tmp_path: Path, run: Run
) -> None:
    (pictures / "3.jpg").unlink()
    Image.new("RGB", (64, 64)).save(pictures / "1.png")  # the same name but for its suffix
    assert run(models["onnx"], pictures, "--out", tmp_path / "out", "--format", "txt")[0] == 0
    names = {path.name for path in (tmp_path / "out").glob("*.txt")}
    assert names == {"1.txt", "1-2.txt", "2.txt", "classes.txt"}
    assert (tmp_path / "out" / "classes.txt").read_text().splitlines() == list(CLASSES)
    said = run(models["onnx"], pictures / "1.jpg", "--out", tmp_path / "again", "--json")[1]
    wanted = json.loads(said)["detections"]
    lines = [line.split() for line in (tmp_path / "out" / "1.txt").read_text().splitlines()]
    assert [int(line[0]) + 1 for line in lines] == [each["label"] for each in wanted]
    for line, each in zip(lines, wanted, strict=True):
        x, y, width, height = map(float, line[1:])
        corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        np.testing.assert_allclose(np.array(corners) * [120, 90, 120, 90], each["box"], atol=1e-3)


def test_a_table_has_a_line_for_each_detection(
    models: dict[str, Path], pictures: Path, tmp_path: Path, run: Run
) -> None:
    said = run(models["onnx"], pictures / "1.jpg", "--out", tmp_path / "out", "--format", "csv", "--json")[1]
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = json.loads(said)["detections"]
    assert [row["category"] for row in rows] == [each["class"] for each in wanted]
    assert [float(rows[0][name]) for name in ("x1", "y1", "x2", "y2")] == pytest.approx(
        wanted[0]["box"], abs=0.01
    )
    assert (rows[0]["file_name"], rows[0]["width"], rows[0]["height"]) == ("1.jpg", "120", "90")
    assert not (tmp_path / "out" / "predictions.json").exists()


# ---- what is looked at -----------------------------------------------------------------------------------


def test_subfolders_are_taken_if_asked_for_and_what_was_drawn_is_not(
    models: dict[str, Path], pictures: Path, run: Run
) -> None:
    (pictures / "3.jpg").unlink()
    (pictures / "sub").mkdir()
    (pictures / "1.jpg").rename(pictures / "sub" / "2.png")
    out = pictures / "drawn"
    for _ in range(2):  # the second time there are drawn ones
        assert run(models["onnx"], pictures, "--out", out, "--recursive")[0] == 0
        assert {path.name for path in out.iterdir()} == {"2.PNG", "2-2.png", "predictions.json"}
    (pictures / "2.PNG").unlink()
    told = run(models["onnx"], pictures, "--out", out)[2]
    assert "see --recursive" in told


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Write ten frames, each brighter than the one before."""
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height = 128, 96
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((96, 128, 3), 20 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_video_is_looked_at_frame_by_frame(
    models: dict[str, Path], video: Path, pictures: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "out"
    code, said, _ = run(
        models["onnx"], pictures / "2.PNG", video, "--out", out, "--every", 4, "--json", "--score", 0
    )
    assert code == 0
    names = ["2.PNG", "clip-000001.jpg", "clip-000005.jpg", "clip-000009.jpg"]
    lines = [json.loads(line) for line in said.splitlines()]
    assert [Path(line["file"]).name for line in lines] == names
    assert [line["image_id"] for line in lines] == [2, 3, 4, 5]
    assert {path.name for path in out.iterdir()} == {*names, "predictions.json"}
    means = [np.asarray(image).mean() for _, image in frames(video, 4)]
    np.testing.assert_allclose(means, [0, 80, 160], atol=3)
    with Image.open(out / names[3]) as image:
        assert image.size == (128, 96)


def test_a_video_that_is_cut_short_gives_the_frames_that_are_there(
    models: dict[str, Path], video: Path, tmp_path: Path, run: Run
) -> None:
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    code, _, told = run(models["onnx"], video, "--out", tmp_path / "out")
    assert code == 1
    assert "clip.mp4: cannot be read as a video" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("name", ["clip.mp4", "1.jpg"])
def test_a_pipe_is_refused_and_not_waited_for(
    models: dict[str, Path], tmp_path: Path, run: Run, name: str
) -> None:
    pytest.importorskip("av")
    os.mkfifo(tmp_path / name)
    code, _, told = run(models["onnx"], tmp_path / name, "--out", tmp_path / "out")
    assert code == 1
    assert name in told
    assert "Traceback" not in told


def test_without_pyav_a_video_says_what_to_install(
    models: dict[str, Path], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, told = run(models["onnx"], tmp_path / "clip.MP4", "--out", tmp_path / "out")
    assert code == 1
    assert "reading videos needs av" in told
    assert "gkd[video]" in told
    assert not (tmp_path / "out").exists()


# ---- one label an object ---------------------------------------------------------------------------------


def test_of_boxes_of_one_object_only_the_best_stays_if_asked_for(pictures: Path) -> None:
    found: dict[str, Any] = {
        "boxes": np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 30, 30], [9, 9, 20, 20]], np.float32),
        "labels": np.array([1, 2, 1, 2]),
        "scores": np.array([0.6, 0.9, 0.8, 0.7], np.float32),
    }
    model, source = Model(lambda pixels: found, ("cell", "dot"), 60), Source(pictures / "1.jpg", 1)
    assert look_at(model, source, Choice(0.3)).labels.tolist() == [1, 2, 1, 2]
    seen = look_at(model, source, Choice(0.3, agnostic=True))
    assert seen.scores.tolist() == pytest.approx([0.9, 0.8, 0.7]), (
        "the first shares most of its area with the second"
    )


def test_the_command_suppresses_across_classes(
    models: dict[str, Path], pictures: Path, tmp_path: Path, run: Run
) -> None:
    def boxes(*options: str) -> list[list[float]]:
        run(models["onnx"], pictures / "1.jpg", "--out", tmp_path / "out", "--score", 0, *options)
        results = json.loads((tmp_path / "out" / "predictions.json").read_text())
        return [[x, y, x + w, y + h] for x, y, w, h in (each["bbox"] for each in results)]

    many, few = np.array(boxes()), np.array(boxes("--agnostic"))
    assert 1 < len(few) < len(many)
    assert all(overlaps(box, np.delete(few, row, 0)).max() < 0.51 for row, box in enumerate(few))
