"""No copy to a GPU waits for the work of the GPU; shown on a pretended one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from gkd_core.compute.transfers import pictures_on, to_device
from gkd_core.data.loading import EvalSample
from gkd_core.distill.features import pool_boxes
from gkd_core.distill.instances import InstancePool
from gkd_core.evaluation.coco import detect_batches
from tests.gkd_core.pretended_gpu import GPU, pretended_gpu


def sample(image_id: int) -> EvalSample:
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    return EvalSample(image, image_id, (1.0, 1.0), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


class Sighted:
    """Boxes and labels of a picture, as records have them."""

    boxes = np.array([[4.0, 4, 30, 30], [8, 8, 60, 60]], dtype=np.float32)
    labels = np.array([1, 2])


def test_a_copy_that_waits_is_seen_and_one_that_does_not_is_not() -> None:
    with pretended_gpu() as watch:
        image = torch.zeros(3, 8, 8)
        with watch:
            image.to(GPU, non_blocking=True)  # pageable memory
            image.pin_memory().to(GPU)
            torch.tensor([1.0, 2.0], device=GPU)
            assert len(watch.waits) == 3
            to_device([image, image], GPU)
            assert len(watch.waits) == 3
            image.to(GPU, non_blocking=True).sum().item()
    assert [wait.operator for wait in watch.waits[3:]] == [
        "aten._to_copy.default",
        "aten._local_scalar_dense.default",
    ]


def test_pictures_come_in_one_transfer_that_nobody_waits_for() -> None:
    with pretended_gpu() as watch:
        images = [torch.zeros(3, 8, 6, dtype=torch.uint8) for _ in range(5)]
        with watch:
            pictures = pictures_on(GPU, images)
    assert {(picture.shape, picture.dtype, picture.device) for picture in pictures} == {
        ((3, 8, 6), torch.float32, GPU)
    }
    assert watch.waits == []


def test_evaluating_sends_pictures_without_waiting(monkeypatch: Any) -> None:
    monkeypatch.setattr("gkd_core.evaluation.coco.detect", lambda _detector, pictures: [{} for _ in pictures])
    monkeypatch.setattr("gkd_core.evaluation.coco._in_original", lambda *_: {})
    with pretended_gpu() as watch:
        batches = iter([[sample(1), sample(2)], [sample(3)]])
        with watch:
            assert len(list(detect_batches(nn.Identity(), batches, GPU))) == 2
    assert watch.waits == []


def test_a_pass_for_prototypes_sends_pictures_and_boxes_without_waiting(monkeypatch: Any) -> None:
    monkeypatch.setattr(
        "gkd_core.distill.instances.pyramid",
        lambda _detector, pictures: ([torch.zeros(len(pictures), 4, 8, 8, device=GPU)], []),
    )
    with pretended_gpu() as watch:
        pool = InstancePool(nn.Identity(), nn.Identity(), [0], [0], [8.0], pool_boxes, GPU)
        batch = [sample(1), sample(2)]
        with watch:
            pool.add(batch, [(Sighted(), np.array([0, 1])), (Sighted(), np.array([1]))])
    assert watch.waits == []
