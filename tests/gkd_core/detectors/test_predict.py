"""`detector.predict`: the same boxes from a file, an array and a picture, in the picture's own pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import gkd_core as gkd
from gkd_core.data.pictures import PictureError
from gkd_core.detectors.build import build_detector
from gkd_core.detectors.predict import image_size_of
from gkd_core.errors import SpecError

TINY: dict[str, Any] = {"backbone_width": 0.125, "fpn": {"channels": 16}, "head": {"depth": 1}}


@pytest.fixture(scope="module")
def detector() -> Any:
    torch.manual_seed(0)
    return gkd.build_detector("faster_rcnn", "resnet18", classes=("a", "b"), image_size=64, **TINY).eval()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "one.png"
    Image.fromarray(pixels).save(path)
    return path


def test_a_file_an_array_and_a_picture_are_the_same(detector: Any, picture: Path) -> None:
    image = Image.open(picture)
    found = [detector.predict(each, score=0.0) for each in (picture, str(picture), image, np.asarray(image))]
    assert len(found[0]) > 0
    for other in found[1:]:
        assert np.array_equal(found[0].boxes, other.boxes)
        assert found[0].names == other.names


def test_boxes_lie_in_the_picture_and_name_their_class(detector: Any, picture: Path) -> None:
    found = detector.predict(picture, score=0.0)
    assert found.boxes[:, 2].max() > 64  # wider than the resized picture
    assert (found.boxes <= np.array([128, 96, 128, 96]) + 1e-3).all()
    assert set(found.names) <= {"a", "b"}
    assert [("a", "b")[label - 1] for label in found.labels] == list(found.names)
    assert (np.diff(found.scores) <= 0).all()


def test_a_list_gives_a_list(detector: Any, picture: Path) -> None:
    assert [len(each) for each in detector.predict([picture, str(picture)], score=0.0)] == [
        len(detector.predict(picture, score=0.0))
    ] * 2
    assert detector.predict([]) == []


def test_low_scores_are_left_out(detector: Any, picture: Path) -> None:
    scores = detector.predict(picture, score=0.0).scores
    limit = float(np.median(scores))
    assert len(detector.predict(picture, score=limit)) == (scores >= limit).sum()


@pytest.mark.parametrize("training", [True, False])
def test_afterwards_it_is_in_the_mode_that_it_was_in(detector: Any, picture: Path, training: bool) -> None:
    detector.train(training)
    weights = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    detector.predict(picture)
    assert detector.training is training
    assert all(torch.equal(weights[name], tensor) for name, tensor in detector.state_dict().items())
    detector.eval()


@pytest.mark.parametrize(
    "shown", [np.zeros((4, 4)), np.zeros((4, 4, 3), np.float32), torch.zeros(3, 4, 4), 7, None]
)
def test_what_is_no_picture_is_refused(detector: Any, shown: Any) -> None:
    with pytest.raises(SpecError, match="a picture is a path, an array"):
        detector.predict(shown)


def test_a_file_that_is_no_picture_is_named(detector: Any, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"nothing\.jpg"):
        detector.predict(tmp_path / "nothing.jpg")


def test_a_detector_that_does_not_know_its_classes_says_so(picture: Path) -> None:
    nameless = build_detector(gkd.detector("fcos", "resnet18", **TINY), 2, 64)
    with pytest.raises(SpecError, match="does not know its classes"):
        nameless.predict(picture)


def test_a_detector_gives_its_image_size_or_says_what_to_give(detector: Any) -> None:
    assert image_size_of(detector) == 64
    plain: Any = torch.nn.Linear(1, 1)
    with pytest.raises(SpecError, match="this Linear does not say how large its pictures are"):
        image_size_of(plain)
