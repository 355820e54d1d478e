"""When and how the features of the prototypes are refreshed: as often as they change direction, at a limited cost.

Pure arithmetic; `train.py` asks whether it is time, `prototype_renewal.refresh_prototypes` computes newer features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from gkd_core.config import PrototypesConfig
from gkd_core.distill.instances import Pooled, pairs
from gkd_core.distill.prototypes import Prototypes

TURNED = 0.1
"""1 - cosine by which features may change between two refreshes: 26 degrees."""


class RefreshInterval(NamedTuple):
    """Step of the last refresh, and the number of steps between two."""

    last: int
    """Training step before which the last refresh took place."""
    steps: int | None
    """Steps between two refreshes, at least 1; None: no refreshes."""
    least: int
    """Lower limit of `steps`: so many steps process as many images as a refresh."""

    def is_due(self, step: int) -> bool:
        """Return whether to refresh before a step."""
        return self.steps is not None and step - self.last >= self.steps

    def after(self, step: int, cosine: float, wanted: PrototypesConfig) -> RefreshInterval:
        """Return the interval that follows a refresh.

        Args:
            step: before which the refresh took place.
            cosine: mean cosine of the features before and after it.
            wanted: `refresh` "auto" makes the interval longer or shorter, at most by half or twice; a number stays.
        """
        adapts = (
            wanted.refresh == "auto" and wanted.source == "pass"
        )  # a bank's features are of augmented images
        if self.steps is None or not adapts:
            return self._replace(last=step)
        change = min(2.0, max(0.5, TURNED / max(1 - cosine, 1e-6)))
        return self._replace(last=step, steps=max(self.least, round(self.steps * change)))


def first_interval(step: int, pictures: int, batch_size: int, wanted: PrototypesConfig) -> RefreshInterval:
    """Return the interval after the first choice of prototypes.

    Args:
        step: before which it took place.
        pictures: number of images that contain a prototype.
        batch_size: pictures of a training step.
        wanted: what the config asks for.
    """
    least = max(1, -(-pictures // batch_size))
    if wanted.refresh != "auto":
        return RefreshInterval(step, wanted.refresh, least)
    return RefreshInterval(step, least, least)


@torch.no_grad()
def with_newer_features(
    prototypes: Sequence[Prototypes], chosen: Sequence[Tensor], pooled: Pooled, *, both: bool = False
) -> tuple[list[Prototypes], float]:
    """Return prototypes with newer features of the same objects, and how much the student's have changed.

    Args:
        prototypes: L levels, P prototypes each.
        chosen: of each level (P, 2) int64, image id and row of the objects that the prototypes are, on the CPU.
        pooled: features of objects, those of the prototypes among them.
        both: take the teacher's features too, not only the student's.

    Returns:
        The prototypes, and the mean cosine of the student's features before and now, in [-1, 1]; 1 without prototypes.
    """
    slots = {origin: slot for slot, origin in enumerate(pairs(pooled.image_ids, pooled.rows))}
    newer, cosines = [], []
    for level, (old, origins) in enumerate(zip(prototypes, chosen, strict=True)):
        where = torch.tensor([slots[origin] for origin in pairs(*origins.T)], dtype=torch.int64)
        where = where.to(old.student.device)
        student = pooled.student[level][where].float()
        teacher = pooled.teacher[level][where].float() if both else old.teacher
        newer.append(old._replace(student=student, teacher=teacher))
        cosines.append(functional.cosine_similarity(old.student, student))
    return newer, float(torch.cat(cosines).mean()) if sum(map(len, cosines)) else 1.0
