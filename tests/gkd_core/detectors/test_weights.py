"""Weights in files of any origin: what they fill, what they must fit, and why one is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import BatchNorm2d
from torchvision.models import get_model, get_weight

from gkd_core.config import DetectorConfig, TeacherConfig, run_config
from gkd_core.data.shapes import CLASSES as CLASSES_DRAWN
from gkd_core.detectors import published
from gkd_core.detectors.build import build_detector, detect
from gkd_core.detectors.checkpoint import publish_model
from gkd_core.detectors.detector import Detector
from gkd_core.detectors.model_card import ModelCard
from gkd_core.detectors.weights import load_weights
from gkd_core.distill.teacher import open_model
from gkd_core.errors import SpecError
from gkd_core.train import train

SMALL = DetectorConfig(backbone="resnet18", fpn={"channels": 16}, head={"depth": 1})
CLASSES = ("cat", "dog")


def small(classes: tuple[str, ...] = CLASSES, **fields: object) -> Detector:
    return build_detector(SMALL.model_copy(update=fields), len(classes), 64)


def classifier(path: Path, **changes: Tensor | None) -> Path:
    """Write a file as torchvision publishes it: a classifier's state dict."""
    state = get_model("resnet18", weights=None).state_dict() | changes
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, path)
    return path


def saved(path: Path, detector: Detector, classes: tuple[str, ...] = CLASSES) -> str:
    publish_model(path, detector.state_dict(), ModelCard.of(SMALL, classes, 64))
    return str(path)


def rows(detector: Detector) -> Tensor:
    weight: Tensor = detector.head.classification_head.cls_logits.weight
    return weight


# ---- backbones -------------------------------------------------------------------------------------------


def test_a_published_classifier_fills_the_backbone_and_nothing_else(tmp_path: Path) -> None:
    detector = small()
    heads = {name: t.clone() for name, t in detector.state_dict().items() if "body" not in name}
    path = classifier(tmp_path / "r18.pth")
    assert load_weights(detector, str(path), CLASSES) == []
    given = torch.load(path)
    body = detector.backbone.body.state_dict()
    assert all(
        torch.equal(body[name], tensor) for name, tensor in given.items() if not name.startswith("fc.")
    )
    assert all(torch.equal(detector.state_dict()[name], tensor) for name, tensor in heads.items())


@pytest.mark.parametrize("wrap", ["model", "state_dict", "ddp", "safetensors"])
def test_state_dicts_are_found_where_training_scripts_put_them(tmp_path: Path, wrap: str) -> None:
    state = torch.load(classifier(tmp_path / "plain.pth"))
    path = tmp_path / ("wrapped.safetensors" if wrap == "safetensors" else "wrapped.pth")
    if wrap == "safetensors":
        save_file(state, path)
    elif wrap == "ddp":
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    else:
        torch.save({wrap: state, "epoch": 3}, path)
    detector = small()
    load_weights(detector, str(path), CLASSES)
    assert torch.equal(detector.backbone.body.conv1.weight, state["conv1.weight"])


def test_a_larger_network_of_the_same_family_is_not_taken_in_part(tmp_path: Path) -> None:
    torch.save(get_model("resnet34", weights=None).state_dict(), tmp_path / "r34.pth")
    with pytest.raises(SpecError, match=r"have no place: layer1\.2"):
        load_weights(small(), str(tmp_path / "r34.pth"), CLASSES)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "timm:resnet10t"])
def test_classifiers_of_other_families_fill_their_backbones(tmp_path: Path, name: str) -> None:
    source = timm.create_model(name[5:]) if name.startswith("timm:") else get_model(name, weights=None)
    torch.save(source.state_dict(), tmp_path / "classifier.pth")
    detector = small(backbone=name)
    load_weights(detector, str(tmp_path / "classifier.pth"), CLASSES)
    first = next(iter(source.state_dict().values()))
    assert torch.equal(next(iter(detector.backbone.body.state_dict().values())), first)


def test_frozen_norms_take_the_statistics_of_a_classifier(tmp_path: Path) -> None:
    mean = torch.full((64,), 3.0)
    detector = small(norm="frozen")
    load_weights(detector, str(classifier(tmp_path / "r18.pth", **{"bn1.running_mean": mean})), CLASSES)
    assert torch.equal(detector.backbone.body.bn1.running_mean, mean)


def test_weights_of_another_backbone_are_refused_with_the_tensors_that_differ(tmp_path: Path) -> None:
    path = classifier(
        tmp_path / "odd.pth", **{"conv1.weight": torch.zeros(8, 3, 7, 7), "layer1.0.conv1.weight": None}
    )
    with pytest.raises(
        SpecError, match=r"missing: layer1\.0\.conv1\.weight; 1 tensors have another shape: conv1"
    ):
        load_weights(small(), str(path), CLASSES)


def test_published_statistics_do_not_fit_group_norm(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"have no place: bn1\.running_mean"):
        load_weights(small(norm="group"), str(classifier(tmp_path / "r18.pth")), CLASSES)


# ---- heads of other classes ------------------------------------------------------------------------------


def test_heads_of_other_classes_start_anew_and_it_is_said(tmp_path: Path) -> None:
    source, target = small(("a", "b", "c")), small()
    fresh = rows(target).clone()
    remarks = load_weights(target, saved(tmp_path / "m.safetensors", source, ("a", "b", "c")), CLASSES)
    assert "made for other classes: 2 tensors" in remarks[0]
    assert torch.equal(rows(target), fresh)
    assert torch.equal(
        target.head.regression_head.bbox_reg.weight, source.head.regression_head.bbox_reg.weight
    )


def test_as_many_but_other_classes_are_other_classes(tmp_path: Path) -> None:
    source, target = small(), small()
    fresh = rows(target).clone()
    assert load_weights(target, saved(tmp_path / "m.safetensors", source, ("a", "b")), CLASSES)
    assert torch.equal(rows(target), fresh)


def test_a_model_is_known_by_its_content_not_by_its_name(tmp_path: Path) -> None:
    source, target = small(), small()
    path = Path(saved(tmp_path / "m.safetensors", source)).rename(tmp_path / "21db2d6d")
    assert load_weights(target, str(path), CLASSES) == []
    assert torch.equal(rows(target), rows(source))
    assert open_model(TeacherConfig(weights=str(path)))[1].classes == CLASSES


def test_the_same_classes_keep_their_heads(tmp_path: Path) -> None:
    source, target = small(), small()
    assert load_weights(target, saved(tmp_path / "m.safetensors", source), CLASSES) == []
    assert torch.equal(rows(target), rows(source))


def test_the_same_classes_in_another_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"the weights know dog, cat; the data has cat, dog"):
        load_weights(small(), saved(tmp_path / "m.safetensors", small(), ("dog", "cat")), CLASSES)


# ---- files that are not to be trusted --------------------------------------------------------------------


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1), "evil": Evil(tmp_path / "done")}, tmp_path / "evil.pth")
    with pytest.raises(SpecError, match="would run code"):
        load_weights(small(), str(tmp_path / "evil.pth"), CLASSES)
    assert not (tmp_path / "done").exists()


def test_a_bare_pickle_runs_no_code_either(tmp_path: Path) -> None:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(tmp_path / "done"), protocol=2))
    with pytest.raises(SpecError):
        load_weights(small(), str(tmp_path / "evil.pth"), CLASSES)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"no model", b"\x80\x02}q\x00."])
def test_torn_and_empty_files_are_refused_without_a_traceback(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "torn.pth").write_bytes(content)
    with pytest.raises(SpecError, match=r"torn\.pth"):
        load_weights(small(), str(tmp_path / "torn.pth"), CLASSES)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.pth cannot be read"):
        load_weights(small(), str(tmp_path / "none.pth"), CLASSES)


# ---- what torchvision publishes --------------------------------------------------------------------------


def test_the_table_of_published_detectors_says_what_torchvision_says() -> None:
    for name in published.DETECTORS:
        categories = get_weight(name).meta["categories"]
        pairs = zip(published.COCO_CLASSES, categories[1:], strict=True)
        assert all(
            ours == theirs or (theirs == "N/A" and ours.startswith("unused")) for ours, theirs in pairs
        )


def test_names_of_backbone_weights_say_which_backbone() -> None:
    assert published.backbone_of("ResNet50_Weights.IMAGENET1K_V2") == "resnet50"
    assert published.backbone_of("MobileNet_V3_Small_Weights.IMAGENET1K_V1") == "mobilenet_v3_small"
    assert published.backbone_of("VGG16_Weights.IMAGENET1K_V1") is None


def test_a_published_backbone_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = "ResNet18_Weights.IMAGENET1K_V1"
    cached = tmp_path / "hub" / "checkpoints" / Path(get_weight(name).url).name
    cached.parent.mkdir(parents=True)
    classifier(cached)
    detector = small()
    load_weights(detector, name, CLASSES)
    assert torch.equal(detector.backbone.body.conv1.weight, torch.load(cached)["conv1.weight"])


@pytest.mark.parametrize(
    "name", ["FCOS_ResNet50_FPN_Weights.COCO_V1", "FasterRCNN_ResNet50_FPN_Weights.COCO_V1"]
)
def test_a_published_detector_teaches_as_torchvision_would_detect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    sizes = {"min_size": 96, "max_size": 128}
    original = get_model(name.partition("_Weights")[0].lower(), weights=None, weights_backbone=None, **sizes)
    cached = tmp_path / "hub" / "checkpoints" / Path(get_weight(name).url).name
    cached.parent.mkdir(parents=True)
    torch.save(original.state_dict(), cached)
    detector, card = open_model(TeacherConfig(weights=name))
    assert card.classes[0] == "person"
    assert len(card.classes) == 90
    for norm in original.backbone.body.modules():
        if isinstance(norm, BatchNorm2d) and name.startswith("Faster"):
            norm.eps = 1e-30  # torchvision runs COCO_V1 of this model without an epsilon
    picture = torch.rand(3, 96, 128)
    expected, found = original.eval()([picture])[0], detect(detector, [picture])[0]
    assert torch.allclose(found["boxes"], expected["boxes"], atol=0.05)
    assert torch.allclose(found["scores"], expected["scores"], atol=1e-3)


def test_a_download_that_fails_says_where_the_file_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(SpecError, match=r"no route to host") as error:
        load_weights(small(), "ResNet18_Weights.IMAGENET1K_V1", CLASSES)
    assert str(tmp_path / "hub" / "checkpoints") in error.value.hint


def test_a_name_that_torchvision_does_not_have_is_refused() -> None:
    with pytest.raises(SpecError, match="no name of torchvision's"):
        load_weights(small(), "ResNet18_Weights.IMAGENET9K_V9", CLASSES)


# ---- plain state dicts as teachers -----------------------------------------------------------------------


def test_a_plain_state_dict_must_say_what_it_is(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "plain.pth")
    with pytest.raises(SpecError, match="says nothing of its architecture, layout, classes"):
        open_model(TeacherConfig(weights=str(tmp_path / "plain.pth"), backbone="resnet18"))


def test_a_backbone_is_no_teacher() -> None:
    with pytest.raises(SpecError, match="fills no detector"):
        open_model(TeacherConfig(weights="ResNet18_Weights.IMAGENET1K_V1"))


def test_torchvisions_own_detector_teaches_a_whole_run_from_a_plain_state_dict(
    tmp_path: Path, shapes: Path
) -> None:
    layout = {"architecture": "faster_rcnn", "backbone": "mobilenet_v3_large", "layout": "torchvision"}
    torch.save(
        build_detector(DetectorConfig(**layout, norm="frozen"), 5, 64).state_dict(), tmp_path / "big.pth"
    )
    run = {
        "kind": "distill",
        "data": str(shapes),
        "device": "cpu",
        "teacher": {
            "weights": str(tmp_path / "big.pth"),
            **layout,
            "classes": ["blob", *CLASSES_DRAWN],
        },
        "student": {"backbone_width": 0.125, "fpn": {"channels": 16}, "head": {"depth": 1}},
        "train": {"epochs": 1, "batch_size": 8, "image_size": 64, "workers": 0},
        "distill": {"control": False},
    }
    (tmp_path / "run").mkdir()
    events = list(train(run_config.validate_python(run), tmp_path / "run"))
    told = [event.losses for event in events if event.kind == "progress" and event.losses]
    assert told[-1]["distill_global"] > 0
    assert list(events[-1].models) == ["teacher", "student"]


def test_a_plain_state_dict_of_free_widths_is_refused(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "plain.pth")
    said = {"architecture": "fcos", "backbone": "resnet18", "layout": "gkd", "classes": CLASSES}
    with pytest.raises(SpecError, match="carries no card"):
        open_model(TeacherConfig(weights=str(tmp_path / "plain.pth"), **said))


def test_published_detectors_are_at_home_at_the_size_that_they_were_trained_at() -> None:
    assert published.image_size("FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1") == 416
    assert published.image_size("RetinaNet_ResNet50_FPN_Weights.COCO_V1") == 1088


def test_a_file_as_torchvision_calls_it_needs_no_name_to_lose_its_epsilon(tmp_path: Path) -> None:
    layout = {"architecture": "faster_rcnn", "backbone": "resnet50", "layout": "torchvision"}
    source = build_detector(DetectorConfig(**layout, norm="frozen"), 2, 64)
    variances = {}
    for file in ("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", "mine.pth"):
        torch.save(source.state_dict(), tmp_path / file)
        detector, _ = open_model(TeacherConfig(weights=str(tmp_path / file), **layout, classes=CLASSES))
        variances[file] = float(detector.backbone.body.bn1.running_var[0])
    assert variances["mine.pth"] == 1
    assert variances["fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"] == pytest.approx(1 - 1e-5, abs=1e-7)


def test_a_detector_normalises_as_its_config_says_also_from_its_file(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 1.0)})
    detector = build_detector(config, 2, 64)
    publish_model(tmp_path / "m.safetensors", detector.state_dict(), ModelCard.of(config, CLASSES, 64))
    for each in (detector, open_model(TeacherConfig(weights=str(tmp_path / "m.safetensors")))[0]):
        seen, _ = each.transform([torch.ones(3, 64, 64)])
        assert seen.tensors[0, :, 0, 0].tolist() == [2.0, 1.0, 0.5]
