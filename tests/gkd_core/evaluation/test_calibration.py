"""The expected calibration error: equal to torchmetrics', and right on cases that a person can count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gkd_core.evaluation.calibration import BINS, calibrate
from gkd_core.evaluation.class_matches import ClassMatches, matches_by_class
from tests.gkd_core.evaluation.drawn_detections import blood_cell_score, drawn_score


def by_torchmetrics(classes: list[ClassMatches]) -> float:
    classification = pytest.importorskip("torchmetrics.classification")
    kept = [~matches.ignored[0] for matches in classes]
    scores = np.concatenate([m.scores[own] for m, own in zip(classes, kept, strict=True)])
    hits = np.concatenate([m.hit[0, own] for m, own in zip(classes, kept, strict=True)])
    metric = classification.BinaryCalibrationError(n_bins=BINS, norm="l1")
    metric.update(torch.tensor(scores), torch.tensor(hits).long())
    return float(metric.compute())


def test_on_blood_cells_the_error_is_that_of_torchmetrics() -> None:
    classes = matches_by_class(blood_cell_score()[0].evaluation)
    assert calibrate(classes).error == pytest.approx(by_torchmetrics(classes), abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_on_random_pictures_with_crowds_the_error_is_that_of_torchmetrics(seed: int) -> None:
    classes = matches_by_class(drawn_score(seed, crowds=0.3).evaluation)
    assert calibrate(classes).error == pytest.approx(by_torchmetrics(classes), abs=1e-5)


def matches(scores: list[float], hits: list[bool]) -> ClassMatches:
    nothing = np.zeros(0, dtype=np.int64)
    ten = np.tile(np.array(hits, dtype=bool), (10, 1))
    return ClassMatches(
        nothing, np.zeros(len(hits), dtype=np.int64), np.array(scores), ten, np.zeros_like(ten)
    )


def test_scores_that_are_the_share_of_hits_have_no_error() -> None:
    found = calibrate([matches([0.5, 0.5], [True, False]), matches([1.0], [True])])
    assert found.error == 0
    assert found.counts.tolist() == [0] * 7 + [2] + [0] * 6 + [1]


def test_sure_and_wrong_is_an_error_of_one() -> None:
    assert calibrate([matches([1.0, 1.0], [False, False])]).error == 1


def test_bins_weigh_by_their_detections() -> None:
    found = calibrate([matches([0.9, 0.9, 0.9, 0.1], [True, True, True, False])])
    assert found.error == pytest.approx(0.1)


def test_without_detections_there_is_no_error() -> None:
    assert calibrate([matches([], [])]).error == 0
