"""The matrix of trainings and its table; the trainings themselves are jobs, tested elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import evidence

MATRIX: dict[str, Any] = {
    "data": {"cells": "cells"},
    "train": {"epochs": 12},
    "teachers": {"big": {"data": "cells", "model": {"backbone": "resnet34"}, "train": {"epochs": 24}}},
    "pairs": {"small": {"data": "cells", "teacher": "big", "student": {"backbone": "resnet18"}}},
    "methods": {"pkd": {"losses": [{"name": "pkd"}]}},
    "runs": [{"pair": "small", "methods": ["pkd"], "seeds": [0, 1]}],
}


def cells() -> list[evidence.Cell]:
    return evidence.cells_of(MATRIX, evidence.teachers_of(MATRIX))


def keep(work: Path, cell: evidence.Cell, *ap: float) -> None:
    """Write what a cell that has ended leaves, with an evaluation every other epoch."""
    curve = [{"epoch": 2 * number, "AP": value, "AP50": value} for number, value in enumerate(ap, start=1)]
    (work / "cells").mkdir(exist_ok=True)
    path = work / "cells" / f"{cell.key}.json"
    path.write_text(json.dumps({"curve": curve, "minutes": 5.0, "seed": cell.seed}))


def test_every_method_has_a_control_of_the_same_seed_that_differs_in_the_teacher_and_losses_alone() -> None:
    found = {(cell.method, cell.seed): dict(cell.spec) for cell in cells()}
    assert found.keys() == {(method, seed) for method in ("control", "pkd") for seed in (0, 1)}
    for seed in (0, 1):
        plain, distilled = found["control", seed], found["pkd", seed]
        assert plain["train"] == distilled["train"] == {"epochs": 12, "seed": seed}
        assert (plain["data"], plain["model"]) == (distilled["data"], distilled["student"])
        assert distilled["distill"] == {**MATRIX["methods"]["pkd"], "control": False}


def test_a_cell_is_known_by_what_it_asks_for_the_training_of_its_teacher_included() -> None:
    keys = {(cell.method, cell.seed): cell.key for cell in cells()}
    assert len(set(keys.values())) == 4
    longer = MATRIX | {"teachers": {"big": MATRIX["teachers"]["big"] | {"train": {"epochs": 36}}}}
    again = evidence.cells_of(longer, evidence.teachers_of(longer))
    changed = {(cell.method, cell.seed) for cell in again if cell.key not in keys.values()}
    assert changed == {("pkd", 0), ("pkd", 1)}


def test_the_table_takes_the_final_epoch_and_gains_of_the_same_seed(tmp_path: Path) -> None:
    results = {("control", 0): (0.1, 0.2, 0.5, 0.40), ("control", 1): (0.1, 0.2, 0.5, 0.30)}
    results |= {("pkd", 0): (0.1, 0.3, 0.9, 0.42), ("pkd", 1): (0.1, 0.3, 0.9, 0.34)}
    for cell in cells():
        keep(tmp_path, cell, *results[cell.method, cell.seed])
    *_, control, pkd = evidence.table(MATRIX, tmp_path).strip().splitlines()
    assert control.startswith("| small | control | 2 | 0.350 ± 0.071 |")
    # gains 0.02 and 0.04: mean 0.03, deviation 0.0141, by Student's t of one degree +- 0.127; half-time is epoch 4
    assert "| +0.030 | -0.097 to +0.157 | +0.100 | 5.0 |" in pkd


def test_one_seed_has_no_interval_and_what_is_unfinished_is_said(tmp_path: Path) -> None:
    for cell in cells()[:2]:
        keep(tmp_path, cell, 0.4)
    text = evidence.table(MATRIX, tmp_path)
    assert "| small | pkd | 1 | 0.400 | 0.400 | +0.000 |  |" in text
    assert "Unfinished: 2 of 4 trainings." in text


def test_a_cell_that_has_ended_is_read_and_not_asked_for_again(tmp_path: Path) -> None:
    first = cells()[0]
    keep(tmp_path, first, 0.4)
    nobody: Any = None  # a client: nothing is asked of it
    found = evidence.carry_out(first, nobody, tmp_path, nobody)
    assert found is not None
    assert found["curve"][-1]["AP"] == 0.4


def test_a_table_replaces_what_stands_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- m: begin -->\nold\n<!-- m: end -->\nafter\n")
    evidence.write(page, "m", "new")
    assert page.read_text() == "before\n<!-- m: begin -->\n\nnew\n<!-- m: end -->\nafter\n"
    with pytest.raises(SystemExit, match="lacks the lines"):
        evidence.write(page, "other", "new")
