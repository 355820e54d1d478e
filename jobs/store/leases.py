"""How long a claim lasts, and how often a job may break off."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LeasePolicy:
    """The rules of claims that all parts of a store share."""

    lease_seconds: float
    """How long a claim outlives the last sign of life of its worker."""
    max_attempts: int
    """Attempts in a row that may break off without having saved anything."""
