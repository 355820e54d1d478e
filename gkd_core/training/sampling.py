"""Sampling of Faster R-CNN's anchors and proposals, with a random stream of its own for each image.

torchvision draws them from the global generator, image after image, so the sample of an image depends on the images
that a process had before. Here it depends only on the seed, the step and the position of the image in the whole
batch: two processes with half a batch each draw what one process with the whole batch draws, and a run that resumes
needs no random state for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from gkd_core.detectors.detector import Detector

_PROPOSALS, _REGIONS = 0, 1
"""What is sampled: the last number of the key."""

Key = tuple[int, ...]
"""Seed, step and position of an image in the batch."""


class KeyedSampler(BalancedPositiveNegativeSampler):
    """torchvision's sampler of positives and negatives, with a random stream of its own for each picture."""

    rows: Tensor
    """Scalar int64: how many were sampled the last time, over all images; the head's losses are means over them. On
    the device: reading it would synchronise, and only several processes need it."""

    def __init__(self, sampler: BalancedPositiveNegativeSampler, use: int) -> None:
        super().__init__(sampler.batch_size_per_image, sampler.positive_fraction)
        self.keys: Sequence[Key] | None = None
        self.rows = torch.tensor(0)
        self._use = use

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Sample as torchvision's sampler does; without keys from the global generator."""
        if self.keys is None:
            usual: tuple[list[Tensor], list[Tensor]] = super().__call__(matched_idxs)
            return usual
        drawn = [self._draw(key, labels) for key, labels in zip(self.keys, matched_idxs, strict=True)]
        positives, negatives = [positive for positive, _ in drawn], [negative for _, negative in drawn]
        self.rows = torch.stack([mask.sum() for mask in (*positives, *negatives)]).sum()
        return positives, negatives

    def _draw(self, key: Key, labels: Tensor) -> tuple[Tensor, Tensor]:
        devices = [labels.device] if labels.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # the global generator is not affected
            torch.manual_seed(seed_of(*key, self._use))
            (positive,), (negative,) = super().__call__([labels])
        return positive, negative


def seed_of(*words: int) -> int:
    """Return one seed for a tuple of numbers of at least 0; different tuples give unrelated seeds."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def key_samplers(detector: Detector) -> list[KeyedSampler]:
    """Replace a detector's samplers and return them; none for a detector without sampling."""
    if not hasattr(detector, "roi_heads"):
        return []
    samplers = []
    for use, head in ((_PROPOSALS, detector.rpn), (_REGIONS, detector.roi_heads)):
        head.fg_bg_sampler = KeyedSampler(head.fg_bg_sampler, use)
        samplers.append(head.fg_bg_sampler)
    return samplers
