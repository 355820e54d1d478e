"""The paired bootstrap: how much of the difference of two detectors may be due to the choice of validation images.

Images are resampled with replacement, and both detectors are scored on each resample. A resample is a number for each
image, how often it counts; its COCO AP is computed from the matching that `coco.py` did once, with every class and
threshold side by side. Only hits matter: precision at a recall is the best at that recall or above, and from one hit
to the next it only falls. Among equal scores that of the earlier image comes first, in every resample.

Shapes: P images, D detections, H hits, G = classes times 10 thresholds groups, R = 101 recalls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from faster_coco_eval import COCOeval_faster
from numpy.typing import NDArray

from gkd_core.evaluation.class_matches import Ints, matches_by_class
from gkd_core.evaluation.coco import Score

DRAWS, FEWEST_DRAWS = 400, 100
_WORK = 200_000_000
"""Limit of detections times resamples, about half a minute; the 500 000 of COCO's validation split get 400
resamples."""


def draws_for(student: Score, control: Score) -> int:
    """Return how many resamples a bootstrap may take: fewer where there are millions of detections."""
    detections = max(len(student.matches.labels), len(control.matches.labels), 1)
    return max(FEWEST_DRAWS, min(DRAWS, _WORK // detections))


def bootstrap_gain(
    student: Score,
    control: Score,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    between: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Return the 95 % interval of AP(student) - AP(control) over resampled validation images.

    Both are scored on the same resamples, drawn with replacement. The interval covers the variation due to the choice
    of validation images, but not that due to the training seed.

    Args:
        student: scores of the student.
        control: scores of the control, on the same images.
        draws: number of resamples.
        seed: of the resampling.
        between: called before each resample; may raise to end the work.
    """
    random = np.random.default_rng(seed)
    ours, theirs = Resampled.of(student.evaluation), Resampled.of(control.evaluation)
    differences = []
    for _ in range(draws):
        between()
        times = np.bincount(random.integers(0, ours.pictures, ours.pictures), minlength=ours.pictures)
        differences.append(ours.average_precision(times) - theirs.average_precision(times))
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


class Resampled(NamedTuple):
    """COCO's matching of a split, in arrays from which AP is computed for any weights of the images.

    Groups, and classes, are stored one after another.
    """

    pictures: int
    recalls: NDArray[np.float64]
    """(R,) recall thresholds."""
    object_picture: Ints
    """(objects,) image of each object that counts."""
    object_class: Ints
    """(objects,) class of each object that counts."""
    picture: Ints
    """(D,) image of each detection, class by class, highest score first."""
    class_start: Ints
    """(C + 1,) first detection of each class."""
    class_of: Ints
    """(G,) class of each group."""
    hit: Ints
    """(H,) positions of the hits in `picture`, group by group."""
    group: Ints
    """(H,) group of each hit."""
    hit_start: Ints
    """(G + 1,) first hit of each group."""
    ignored: Ints
    """(I,) positions in `picture` of detections that count neither for nor against, group by group."""
    ignored_before: Ints
    """(H,) how many of `ignored` come before a hit or belong to earlier groups."""
    ignored_start: Ints
    """(G,) how many of `ignored` belong to earlier groups."""

    @classmethod
    def of(cls, evaluation: COCOeval_faster) -> Resampled:
        """Take the matching, for all areas, from an evaluation."""
        params = evaluation.params
        classes, thresholds, pictures = len(params.catIds), len(params.iouThrs), len(params.imgIds)
        per_class = matches_by_class(evaluation)
        class_start = np.cumsum([0, *(len(one.picture) for one in per_class)])
        hit, group = _flat([one.hit for one in per_class], class_start)
        ignored, ignored_group = _flat([one.ignored for one in per_class], class_start)
        size, groups = class_start[-1] + 1, np.arange(classes * thresholds)
        place = ignored_group * size + ignored
        return cls(
            pictures=pictures,
            recalls=np.asarray(params.recThrs),
            object_picture=np.concatenate([one.objects for one in per_class]),
            object_class=np.repeat(np.arange(classes), [len(one.objects) for one in per_class]),
            picture=np.concatenate([one.picture for one in per_class]),
            class_start=class_start,
            class_of=np.repeat(np.arange(classes), thresholds),
            hit=hit,
            group=group,
            hit_start=np.searchsorted(group, np.arange(classes * thresholds + 1)),
            ignored=ignored,
            ignored_before=np.searchsorted(place, group * size + hit),
            ignored_start=np.searchsorted(place, groups * size),
        )

    def average_precision(self, times: Ints) -> float:
        """Compute COCO's AP with each image weighted by how often it was drawn.

        Args:
            times: (P,) how often each image counts.

        Returns:
            Mean over the classes that have objects, in 0..1; -1 when none has.
        """
        objects = np.bincount(
            self.object_class, times[self.object_picture], minlength=len(self.class_start) - 1
        )
        total = objects.astype(np.int64)[self.class_of]  # (G,)
        known = total > 0
        if not known.any():
            return -1.0
        hits = self._hits(times)
        best = self._best_precision(times, hits)
        wanted = _objects_for(self.recalls, total)  # (G, R)
        apart = np.arange(len(total)) * (total.max() + 1)  # keeps the hits of one group from another's
        at = np.searchsorted(hits + apart[self.group], wanted + apart[:, None])
        reached = at < self.hit_start[1:, None]
        precision = np.append(best, 0.0)[np.where(reached, at, -1)]  # (G, R)
        return float(precision[known].mean())

    def _hits(self, times: Ints) -> Ints:
        """Return (H,) the objects found up to each hit."""
        found = _sums(times[self.picture[self.hit]])
        return found[1:] - found[self.hit_start[self.group]]

    def _best_precision(self, times: Ints, hits: Ints) -> NDArray[np.float64]:
        """Return (H,) the best precision at each hit or at a later one of its group.

        `hits` as `_hits` returns them.
        """
        seen, ignored = _sums(times[self.picture]), _sums(times[self.picture[self.ignored]])
        first = self.class_start[self.class_of[self.group]]
        counted = seen[self.hit + 1] - seen[first]
        counted -= ignored[self.ignored_before] - ignored[self.ignored_start[self.group]]
        precision = hits / np.maximum(counted, 1)
        apart = 2.0 * (len(self.class_of) - self.group)  # offsets: no later group exceeds an earlier one
        envelope: NDArray[np.float64] = np.maximum.accumulate((precision + apart)[::-1])[::-1] - apart
        return envelope


def _flat(per_class: list[NDArray[np.bool_]], class_start: Ints) -> tuple[Ints, Ints]:
    """Return position and group of the marked detections, group by group."""
    positions, groups, before = [], [], 0
    for marked, start in zip(per_class, class_start[:-1], strict=True):
        threshold, position = np.nonzero(marked)
        positions.append(position + start)
        groups.append(threshold + before)
        before += len(marked)
    return np.concatenate(positions), np.concatenate(groups)


def _objects_for(recalls: NDArray[np.float64], total: Ints) -> Ints:
    """Return (G, R) the fewest objects that reach a recall of each of `recalls`, divided as COCO does."""
    fewest = np.ceil(total[:, None] * recalls - 1e-6)
    fewest += fewest / np.maximum(total, 1)[:, None] < recalls
    return fewest.astype(np.int64)


def _sums(values: Ints) -> Ints:
    """Return (N + 1,) the sums of the first 0 to N values."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(values)])
