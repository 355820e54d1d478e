"""When the student's features of the prototypes are refreshed: as often as they change direction, at a limited cost.

Pure arithmetic; `train.py` asks, `prototype_renewal.refresh_prototypes` refreshes.
"""

from __future__ import annotations

from typing import NamedTuple

from gkd_core.config import PrototypesConfig

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
