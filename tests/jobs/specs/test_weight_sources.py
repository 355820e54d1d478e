"""Weights named in a spec: what is known of them before the job runs, and why some are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from gkd_core.detectors.published import COCO_CLASSES
from jobs.paths.data_roots import DataRootError, DataRoots
from jobs.specs.resolve import no_resource
from jobs.specs.weight_sources import Origin, find_origin

DECLARED = {"architecture": None, "backbone": None, "layout": None, "classes": None}


def find(root: Path, text: str) -> Origin:
    return find_origin(text, DataRoots([root], confined=True), lambda _job_id: None, no_resource)


def test_a_published_detector_is_known_by_its_name_alone(tmp_path: Path) -> None:
    origin = find(tmp_path, "RetinaNet_ResNet50_FPN_Weights.COCO_V1")
    assert origin.detector is not None
    assert (origin.detector.architecture, origin.detector.layout) == ("retinanet", "torchvision")
    assert origin.classes == COCO_CLASSES
    assert not origin.differences("teacher", DECLARED, ("person", "dog"))


def test_what_a_published_detector_does_not_know_is_named(tmp_path: Path) -> None:
    origin = find(tmp_path, "FCOS_ResNet50_FPN_Weights.COCO_V1")
    (problem,) = origin.differences("teacher", DECLARED, ("person", "platelet"))
    assert problem.loc == ("teacher", "weights")
    assert "does not know platelet" in problem.message


def test_a_published_detector_that_is_declared_otherwise_is_refused(tmp_path: Path) -> None:
    origin = find(tmp_path, "FCOS_ResNet50_FPN_Weights.COCO_V1")
    (problem,) = origin.differences("teacher", DECLARED | {"architecture": "retinanet"}, None)
    assert problem.loc == ("teacher", "architecture")


def test_a_published_backbone_may_start_a_student(tmp_path: Path) -> None:
    origin = find(tmp_path, "ResNet50_Weights.IMAGENET1K_V2")
    assert origin.detector is None
    assert origin.other_classes(("cat",)) is None


@pytest.mark.parametrize("name", ["VGG16_Weights.IMAGENET1K_V1", "Nothing_Weights.COCO_V1"])
def test_a_name_that_fits_no_backbone_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataRootError, match="no name of weights that GKD can use"):
        find(tmp_path, name)


def test_a_plain_state_dict_teaches_only_when_everything_is_declared(tmp_path: Path) -> None:
    (tmp_path / "plain.pth").write_bytes(b"PK\x03\x04")
    origin = find(tmp_path, "plain.pth")
    (problem,) = origin.differences("teacher", DECLARED | {"architecture": "fcos"}, None)
    assert "says nothing of its backbone, layout, classes" in problem.message
    said = {"architecture": "fcos", "backbone": "resnet50", "layout": "torchvision", "classes": ("cat",)}
    assert not origin.differences("teacher", said, None)


def test_a_pickle_that_torch_did_not_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.pth").write_bytes(b"cos\nsystem\n")
    with pytest.raises(DataRootError):
        find(tmp_path, "odd.pth")


def test_heads_that_will_start_anew_are_told_beforehand(tmp_path: Path) -> None:
    origin = find(tmp_path, "FCOS_ResNet50_FPN_Weights.COCO_V1")
    remark = origin.other_classes(("cell",))
    assert remark is not None
    assert "start from scratch" in remark
