"""The text of a report, and what it measures."""

import pytest
import torch

from gkd_core.config import DataConfig, DetectorConfig
from gkd_core.detectors.build import build_detector
from gkd_core.detectors.detector import Detector
from gkd_core.runs.report import count_gflops, headline, verdict

TINY = {"backbone_width": 0.125, "fpn": {"channels": 16}, "head": {"depth": 1}}
CPU = torch.device("cpu")


def tiny(architecture: str) -> Detector:
    return build_detector(DetectorConfig.model_validate({"architecture": architecture, **TINY}), 3, 64)


@pytest.mark.parametrize(
    ("ap", "low", "high", "pictures", "words"),
    [
        (0.02, 0.01, 0.03, 87, "gained +0.020 AP"),
        (-0.02, -0.03, -0.01, 87, "lost -0.020 AP"),
        (0.02, -0.01, 0.05, 87, "No difference that these pictures can show"),
        (0.02, 0.02, 0.02, 1, "1 validation pictures are too few to tell"),
    ],
)
def test_a_difference_is_called_what_its_interval_allows(
    ap: float, low: float, high: float, pictures: int, words: str
) -> None:
    assert words in verdict(ap, low, high, pictures)


def test_gflops_of_a_faster_rcnn_depend_on_no_weight() -> None:
    detector = tiny("faster_rcnn").eval()
    before = count_gflops(detector, 64, CPU)
    network = detector.rpn.head
    for seed in (1, 2):
        torch.manual_seed(seed)
        torch.nn.init.normal_(
            network.bbox_pred.weight, std=10
        )  # boxes of every size, most of them off the picture
        torch.nn.init.normal_(network.cls_logits.weight, std=10)
        assert count_gflops(detector, 64, CPU) == before


def test_counting_gflops_leaves_the_detector_as_it_was() -> None:
    detector = tiny("faster_rcnn")
    before = detector.rpn.nms_thresh, detector.rpn.min_size
    count_gflops(detector, 64, CPU)
    assert (detector.rpn.nms_thresh, detector.rpn.min_size) == before == (0.7, 1e-3)


def test_gflops_grow_with_the_picture() -> None:
    detector = tiny("fcos")
    assert count_gflops(detector, 128, CPU) == pytest.approx(4 * count_gflops(detector, 64, CPU), rel=0.2)


def data(kind: str) -> DataConfig:
    split = {"images": "images", "annotations": "annotations"}
    return DataConfig.model_validate({"format": kind, "train": split, "val": split})


def test_the_numbers_shown_first_are_those_of_the_format_and_what_ranked_the_epochs() -> None:
    assert headline(data("coco")) == ("AP", "AP50", "AP75")
    assert headline(data("voc")) == ("AP", "AP50", "VOC07", "VOC12")
    assert headline(data("voc"), "VOC07") == headline(data("voc"))
    assert headline(data("yolo"), "APs") == ("AP", "AP50", "AP75", "APs")
