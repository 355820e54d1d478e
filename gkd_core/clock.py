"""When to tell and when to save, and what is averaged in between. Decides about events, never about weights."""

from __future__ import annotations

import time

from torch import Tensor

PROGRESS_SECONDS = 1.0
"""Progress is told at most this often, except at the end of an epoch."""
SAVE_SECONDS = 300.0
"""Long epochs are saved in between, so that a killed run loses five minutes at most."""


class Clock:
    """Decides when to tell and to save, and averages what is told."""

    def __init__(self) -> None:
        self.start(0.0)

    def start(self, fraction: float) -> None:
        """Begin timing a training that stands at a share of the job."""
        now = time.monotonic()
        self._began, self._began_at = now, fraction
        self._told = self._saved = self._counted_since = now
        self._losses: dict[str, Tensor] = {}
        self._steps = self._images = 0
        self._last_losses: dict[str, float] = {}
        self._last_speed: float | None = None

    def count(self, losses: dict[str, Tensor], images: int) -> None:
        """Add a step."""
        for name, value in losses.items():
            self._losses[name] = self._losses.get(name, 0) + value
        self._steps += 1
        self._images += images

    def progress_due(self) -> bool:
        """Whether to tell now."""
        now = time.monotonic()
        due = now - self._told >= PROGRESS_SECONDS
        if due:
            self._told = now
        return due

    def save_due(self) -> bool:
        """Whether to save now."""
        now = time.monotonic()
        due = now - self._saved >= SAVE_SECONDS
        if due:
            self._saved = now
        return due

    def tell(self, fraction: float) -> tuple[dict[str, float], float | None, float | None]:
        """Mean losses and pictures a second since the last call (or of the one before, if nothing was counted), and
        the seconds left of the whole job."""
        now = time.monotonic()
        if self._steps:
            self._last_losses = {name: float(value) / self._steps for name, value in self._losses.items()}
            self._last_speed = self._images / (now - self._counted_since)
        done = fraction - self._began_at
        left = (now - self._began) / done * (1 - fraction) if done > 0 else None
        self._losses, self._steps, self._images, self._counted_since = {}, 0, 0, now
        return self._last_losses, self._last_speed, left
