"""When to report progress and when to save, and the averages in between. Affects events, never weights."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor

PROGRESS_SECONDS = 1.0
"""Shortest time between two progress reports, except at the end of an epoch."""
SAVE_SECONDS = 300.0
"""Longest time between two saves within an epoch: a killed run loses five minutes at most."""


class ProgressMeter:
    """Decides when to report and to save, and averages losses and speed in between.

    Args:
        now: monotonic clock in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.start(0.0)

    def start(self, done: float) -> None:
        """Begin timing a training, or a pass, of which a share of 0 to 1 is done already."""
        now = self._now()
        self._began, self._began_at = now, done
        self._reported = self._saved = self._counted_since = now
        self._losses: dict[str, Tensor] = {}
        self._steps = self._images = 0
        self._last_losses: dict[str, float] = {}
        self._last_speed: float | None = None

    def count(self, losses: dict[str, Tensor], images: int) -> None:
        """Count a step."""
        for name, value in losses.items():
            self._losses[name] = self._losses.get(name, 0) + value
        self._steps += 1
        self._images += images

    def progress_due(self) -> bool:
        """Return whether to report now."""
        now = self._now()
        due = now - self._reported >= PROGRESS_SECONDS
        if due:
            self._reported = now
        return due

    def save_due(self) -> bool:
        """Return whether to save now."""
        now = self._now()
        due = now - self._saved >= SAVE_SECONDS
        if due:
            self._saved = now
        return due

    def snapshot(
        self, done: float, later: float = 0.0
    ) -> tuple[dict[str, float], float | None, float | None]:
        """Return the averages since the last call, and start new ones.

        Args:
            done: the share of this training, or pass, that is done, in 0..1.
            later: what follows it in the same job, in units of the whole of this one.

        Returns:
            Mean losses and pictures a second since the last call (or of the one before, if nothing was counted), and
            the seconds left of the whole job, None until something was measured.
        """
        now = self._now()
        if self._steps:
            self._last_losses = {name: float(value) / self._steps for name, value in self._losses.items()}
            self._last_speed = self._images / (now - self._counted_since)
        measured = done - self._began_at
        left = (now - self._began) / measured * (1 - done + later) if measured > 0 else None
        self._losses, self._steps, self._images, self._counted_since = {}, 0, 0, now
        return self._last_losses, self._last_speed, left
