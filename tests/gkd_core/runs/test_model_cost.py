"""GFLOPs: the same for a detector whatever its weights, and counted without a trace."""

import pytest
import torch

from gkd_core.config import DetectorConfig
from gkd_core.detectors.build import build_detector
from gkd_core.detectors.detector import Detector
from gkd_core.runs.model_cost import count_gflops

TINY = {"backbone_width": 0.125, "fpn": {"channels": 16}, "head": {"depth": 1}}
CPU = torch.device("cpu")


def tiny(architecture: str) -> Detector:
    return build_detector(DetectorConfig.model_validate({"architecture": architecture, **TINY}), 3, 64)


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
