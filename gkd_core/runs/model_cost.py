"""The cost of a detector: GFLOPs of an image, and the time that it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gkd_core.compute.transfers import pictures_on
from gkd_core.data.loading import eval_batches
from gkd_core.data.records import ImageRecord
from gkd_core.detectors.build import detect
from gkd_core.detectors.detector import Detector
from gkd_core.events import Latency

_WARM_UP = 3
"""Images that each detector runs on before it is timed."""


def count_gflops(detector: Detector, image_size: int, device: torch.device) -> float:
    """Return multiply-adds times two for one square image, in units of 1e9; convolutions and matrix products.

    Faster R-CNN counts with as many proposals as it can have (1000 unless the picture is tiny): how many real ones
    pass NMS depends on weights and image.
    """
    with _every_proposal(detector), FlopCounterMode(display=False) as counter:
        detect(detector, [torch.zeros(3, image_size, image_size, device=device)])
    gflops: float = counter.get_total_flops() / 1e9
    return gflops


@contextmanager
def _every_proposal(detector: Detector) -> Iterator[None]:
    """Keep Faster R-CNN from dropping proposals that overlap or are empty, while the block runs."""
    network = getattr(detector, "rpn", None)
    if network is None:
        yield
        return
    before = network.nms_thresh, network.min_size
    network.nms_thresh, network.min_size = 1.0, 0.0
    try:
        yield
    finally:
        network.nms_thresh, network.min_size = before


def measure_latencies(
    detectors: Sequence[tuple[Detector, int]], images: Sequence[ImageRecord], device: torch.device
) -> list[Latency]:
    """Time each detector on single images, in turn image by image, so that drift affects all alike.

    Decoding and resizing are not counted; normalisation, the network and NMS are.

    Args:
        detectors: each with the longer side of its pictures in pixels.
        images: the pictures.
        device: where all are.
    """
    pictures = {
        size: pictures_on(device, [batch[0].image for batch in eval_batches(images, size, 1)])
        for size in {size for _, size in detectors}
    }
    for detector, size in detectors:
        for picture in pictures[size][:_WARM_UP]:
            _milliseconds(detector, picture)
    times = np.array(
        [[_milliseconds(one, pictures[size][n]) for one, size in detectors] for n in range(len(images))]
    )
    low, median, high = np.percentile(times, [10, 50, 90], axis=0)
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return [
        Latency(median=float(m), low=float(lo), high=float(hi), device=name)
        for m, lo, hi in zip(median, low, high, strict=True)
    ]


def _milliseconds(detector: Detector, picture: Tensor) -> float:
    if picture.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    detect(detector, [picture])
    if picture.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1000
