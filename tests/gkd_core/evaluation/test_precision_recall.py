"""Precision and recall at thresholds: equal to pycocotools, and right on cases that a person can count."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from gkd_core.evaluation.class_matches import ClassMatches, matches_by_class
from gkd_core.evaluation.coco import Score
from gkd_core.evaluation.precision_recall import best_point, curve, mean_curves, precision_at_recalls
from tests.gkd_core.evaluation.drawn_detections import blood_cell_score, drawn_score


def by_pycocotools(found: Score) -> tuple[np.ndarray, np.ndarray]:
    """Return precision at recalls (10, 101, C), and the highest recall (10, C)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth, results = COCO(), COCO()
        truth.dataset = found.evaluation.cocoGt.dataset
        results.dataset = found.evaluation.cocoDt.dataset
        truth.createIndex()
        results.createIndex()
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, -1], evaluation.eval["recall"][:, :, 0, -1]


def test_on_blood_cells_precision_over_recall_is_that_of_pycocotools() -> None:
    found, classes = blood_cell_score()
    theirs, highest = by_pycocotools(found)
    assert np.allclose(precision_at_recalls(found.evaluation), theirs, atol=1e-9)
    for label, matches in enumerate(matches_by_class(found.evaluation)):
        ours = curve(matches)
        assert ours.recall[-1] == pytest.approx(highest[0, label])
        assert np.allclose(best_at_recalls(ours.precision, ours.recall), theirs[0, :, label], atol=1e-9)
    assert len(classes) == theirs.shape[2]


def best_at_recalls(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Return (101,) the best precision at each recall or a higher one, 0 beyond the highest."""
    recalls = np.linspace(0, 1, 101)
    return np.array([precision[recall >= least].max(initial=0) for least in recalls])


@pytest.mark.parametrize("crowds", [0.0, 0.3])
def test_the_mean_of_a_mean_curve_is_the_metric_of_its_name(crowds: float) -> None:
    found = drawn_score(1, crowds=crowds)  # its third class has no objects
    curves = mean_curves(precision_at_recalls(found.evaluation))
    assert {name: values.mean() for name, values in curves.items()} == pytest.approx(
        {name: found.metrics[name] for name in ("AP", "AP50", "AP75")}
    )


def matches(
    scores: list[float], hits: list[bool], objects: int, ignored: tuple[int, ...] = ()
) -> ClassMatches:
    out = np.zeros((10, len(scores)), dtype=bool)
    out[:, list(ignored)] = True
    return ClassMatches(
        objects=np.zeros(objects, dtype=np.int64),
        picture=np.zeros(len(scores), dtype=np.int64),
        scores=np.array(scores),
        hit=np.tile(np.array(hits, dtype=bool), (10, 1)) & ~out,
        ignored=out,
    )


def test_the_best_threshold_is_where_f1_is_highest() -> None:
    point = best_point(curve(matches([0.9, 0.8, 0.7, 0.6], [True, False, True, False], objects=3)))
    assert point is not None
    assert point == pytest.approx((0.7, 2 / 3, 2 / 3, 2 / 3))


def test_detections_of_one_score_are_kept_or_dropped_together() -> None:
    of = curve(matches([0.9, 0.5, 0.5], [True, True, False], objects=2))
    assert of.thresholds.tolist() == [0.9, 0.5]
    assert of.precision.tolist() == pytest.approx([1, 2 / 3])
    assert of.recall.tolist() == [0.5, 1]


def test_ignored_detections_change_nothing() -> None:
    with_crowd = curve(matches([0.95, 0.9, 0.5], [False, True, False], objects=1, ignored=(0,)))
    without = curve(matches([0.9, 0.5], [True, False], objects=1))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(with_crowd, without, strict=True))


@pytest.mark.parametrize(("scores", "hits"), [([], []), ([0.9], [False])])
def test_without_a_hit_there_is_no_best_threshold(scores: list[float], hits: list[bool]) -> None:
    assert best_point(curve(matches(scores, hits, objects=2))) is None


def test_the_best_threshold_beats_all_others_on_random_pictures() -> None:
    for one in matches_by_class(drawn_score(2, crowds=0.2).evaluation)[:2]:
        point = best_point(curve(one))
        assert point is not None
        counted = ~one.ignored[0]
        for threshold in one.scores[counted]:
            kept = counted & (one.scores >= threshold)
            f1 = 2 * one.hit[0, kept].sum() / (kept.sum() + len(one.objects))
            assert f1 <= point.f1 + 1e-12
            assert (threshold != point.threshold) or f1 == pytest.approx(point.f1)
