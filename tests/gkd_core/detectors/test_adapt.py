"""What every detector gains: a memory of its assignments, strides that are known, pictures padded on request."""

import copy

import pytest
import torch
from torch import nn

from gkd_core.config import DetectorConfig
from gkd_core.detectors.adapt import padded_to
from gkd_core.detectors.build import build_detector

FAMILIES = ("retinanet", "faster_rcnn", "fcos")
PICTURES = [torch.rand(3, 96, 128), torch.rand(3, 128, 70)]
TARGETS = [
    {"boxes": torch.tensor([[10.0, 10, 60, 70], [50, 50, 100, 90]]), "labels": torch.tensor([1, 3])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def small(architecture: str) -> nn.Module:
    torch.manual_seed(0)
    config = {"architecture": architecture, "fpn": {"channels": 16}, "head": {"depth": 1}}
    return build_detector(DetectorConfig.model_validate(config), num_classes=3, image_size=128)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_copy_does_not_share_its_memory_of_assignments(architecture: str) -> None:
    detector = small(architecture).train()
    twin = copy.deepcopy(detector)
    twin(PICTURES, TARGETS)
    part = "roi_heads" if architecture == "faster_rcnn" else "head"
    remembered = "sampled" if architecture == "faster_rcnn" else "matched"
    assert hasattr(getattr(twin, part), remembered)
    assert not hasattr(getattr(detector, part), remembered)


def test_the_strides_of_faster_rcnn_are_not_guessed_from_the_first_batch() -> None:
    detector = small("faster_rcnn").train()
    detector([torch.rand(3, 20, 64)], [TARGETS[1]])
    assert detector.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def test_batches_are_padded_to_a_size_while_the_block_runs() -> None:
    detector = small("fcos")
    with padded_to(192, 160, detector):
        padded, _ = detector.transform(PICTURES)
    assert padded.tensors.shape[-2:] == (192, 160)
    assert padded.image_sizes == [(96, 128), (128, 70)]
    assert detector.transform(PICTURES)[0].tensors.shape[-2:] == (128, 128)
