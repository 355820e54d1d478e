"""Which anchors and proposals Faster R-CNN learns from: drawn by a key, not by what was drawn before.

torchvision draws them from the global generator, picture after picture, so the draw of a picture depends on which
pictures a process had before. Here it depends on the seed, the step and the place of the picture in the whole batch
alone: two processes with half a batch each draw what one process with the whole batch draws, and a run that resumes
needs no random state for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from gkd_core.detectors.build import Detector

_PROPOSALS, _REGIONS = 0, 1
"""What a draw is for: the last word of its key."""

Key = tuple[int, ...]
"""Seed, step and place of a picture in the batch."""


class KeyedSampler(BalancedPositiveNegativeSampler):
    """torchvision's sampler of positives and negatives, with a random stream of its own for each picture."""

    rows: Tensor
    """Scalar int64: how many were drawn the last time, over all pictures; what the head's losses are means over. On
    the device: reading it would wait, and only several processes need it."""

    def __init__(self, sampler: BalancedPositiveNegativeSampler, use: int) -> None:
        super().__init__(sampler.batch_size_per_image, sampler.positive_fraction)
        self.keys: Sequence[Key] | None = None
        self.rows = torch.tensor(0)
        self._use = use

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's; without keys from the global generator."""
        if self.keys is None:
            return super().__call__(matched_idxs)
        drawn = [self._draw(key, labels) for key, labels in zip(self.keys, matched_idxs, strict=True)]
        positives, negatives = [positive for positive, _ in drawn], [negative for _, negative in drawn]
        self.rows = torch.stack([mask.sum() for mask in (*positives, *negatives)]).sum()
        return positives, negatives

    def _draw(self, key: Key, labels: Tensor) -> tuple[Tensor, Tensor]:
        devices = [labels.device] if labels.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # nothing else notices
            torch.manual_seed(seed_of(*key, self._use))
            (positive,), (negative,) = super().__call__([labels])
        return positive, negative


def seed_of(*words: int) -> int:
    """One seed for a tuple of numbers of at least 0; tuples that differ give seeds that have nothing in common."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def key_samplers(detector: Detector) -> list[KeyedSampler]:
    """Replace a detector's samplers; an empty list for a detector that draws nothing."""
    if not hasattr(detector, "roi_heads"):
        return []
    samplers = []
    for use, head in ((_PROPOSALS, detector.rpn), (_REGIONS, detector.roi_heads)):
        head.fg_bg_sampler = KeyedSampler(head.fg_bg_sampler, use)
        samplers.append(head.fg_bg_sampler)
    return samplers
