"""A part of the storm of `make faults`, with the real engine: once each fault that has no test of its own beside this.

`make faults` runs all of them on a node and on a laptop.
"""

from __future__ import annotations

import os

import pytest

from .storm import faults
from .storm.faults import Fault
from .storm.storm import storm

SEED = int(os.environ.get("GKD_STORM_SEED", "0"))
AWAY_SECONDS = 8.0
"""Longer than a lease in the storm; `make faults` takes 30."""


NODE = (
    faults.engine_killed,
    faults.api_killed,
    faults.postgres_killed,
    faults.messages_tripled,
    faults.database_clock_jumps,
    faults.process_clock_jumps,
    faults.newest_state_torn,
    faults.claimed_at_once,
)
LAPTOP = (faults.serve_killed, faults.database_locked)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("way", "kinds"), [("node", NODE), ("laptop", LAPTOP)])
def test_a_storm_loses_nothing_and_doubles_nothing(way: str, kinds: tuple[Fault, ...]) -> None:
    account = storm(way, len(kinds), seed=SEED, away_seconds=AWAY_SECONDS, only=kinds)
    assert account.faults.total() == len(kinds)
    assert account.jobs > 0
    assert account.left_out == []
