"""Lease duration and maximum number of attempts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LeasePolicy:
    """Rules of claims that all parts of a store share."""

    lease_seconds: float
    """Time after the last heartbeat of its worker for which a claim stays valid."""
    max_attempts: int
    """Attempts in a row that may end early without saving a checkpoint."""
