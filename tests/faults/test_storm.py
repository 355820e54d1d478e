"""A part of the storm of `make faults`: each fault once, with the real engine.

On a node; on a laptop only those that apply nowhere else. `make faults` runs all of them on both.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .storm.faults import ON_A_LAPTOP, ON_A_NODE, Fault, disk_full
from .storm.service import mount, unmount
from .storm.storm import storm

SEED = int(os.environ.get("GKD_STORM_SEED", "0"))
AWAY_SECONDS = 8.0
"""Longer than a lease in the storm; `make faults` takes 30."""


ON_A_LAPTOP_ALONE = tuple(fault for fault in ON_A_LAPTOP if fault not in ON_A_NODE)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("way", "kinds"), [("node", ON_A_NODE), ("laptop", ON_A_LAPTOP_ALONE)])
def test_a_storm_loses_nothing_and_doubles_nothing(way: str, kinds: tuple[Fault, ...]) -> None:
    account = storm(way, len(kinds), seed=SEED, away_seconds=AWAY_SECONDS, only=kinds)
    assert account.faults.total() == len(kinds)
    assert account.jobs > 0
    assert account.left_out in ([], [disk_full.__name__])


def test_no_fault_is_left_out_of_the_storm(tmp_path: Path) -> None:
    """Skip where a fault is left out, so that the summary of the tests shows it."""
    if not mount(tmp_path):
        pytest.skip("the storm left `disk_full` out: no disk can be mounted here, which takes root")
    unmount(tmp_path)
