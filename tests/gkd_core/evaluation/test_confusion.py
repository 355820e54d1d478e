"""The confusion matrix: equal to published implementations, and right on cases that a person can count."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from faster_coco_eval import COCOeval_faster
from faster_coco_eval.extra import PreviewResults

from gkd_core.evaluation.coco import Score, score
from gkd_core.evaluation.confusion import confusion
from tests.gkd_core.evaluation.drawn_detections import blood_cell_score, drawn_score, record


def by_pycocotools(evaluation: COCOeval_faster, threshold: float) -> np.ndarray:
    """Return the matrix from pycocotools' matching with classes set aside, which is written in Python."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth, results = COCO(), COCO()
        truth.dataset, results.dataset = evaluation.cocoGt.dataset, evaluation.cocoDt.dataset
        truth.createIndex()
        results.createIndex()
        matching = COCOeval(truth, results, "bbox")
        matching.params.useCats, matching.params.iouThrs = 0, np.array([0.5])
        matching.params.areaRng, matching.params.areaRngLbl = [[0, 1e10]], ["all"]
        matching.params.maxDets = [1000]
        matching.evaluate()
    counts = np.zeros((len(truth.cats) + 1,) * 2, dtype=np.int64)
    for image in filter(None, matching.evalImgs):
        kept = np.array(image["dtScores"]) >= threshold
        partners = image["dtMatches"][0].astype(int)
        for own, partner, ignored in zip(
            np.array(image["dtIds"])[kept], partners[kept], image["dtIgnore"][0][kept], strict=True
        ):
            if not ignored:
                wanted = truth.anns[partner]["category_id"] if partner else 0
                counts[wanted, results.anns[own]["category_id"]] += 1
        for own, ignored in zip(image["gtIds"], image["gtIgnore"], strict=True):
            if own not in partners[kept] and not ignored:
                counts[truth.anns[own]["category_id"], 0] += 1
    return counts


def by_faster_coco_eval(evaluation: COCOeval_faster, threshold: float) -> np.ndarray:
    """Return the library's own matrix, which has false alarms in a column of its own."""
    shown = PreviewResults(
        cocoGt=evaluation.cocoGt, cocoDt=evaluation.cocoDt, iou_tresh=0.5, min_score=threshold
    )
    theirs = shown.compute_confusion_matrix().astype(np.int64)  # (C, C + 2)
    classes = len(theirs)
    counts = np.zeros((classes + 1,) * 2, dtype=np.int64)
    counts[1:, 1:] = theirs[:, :classes]
    counts[0, 1:], counts[1:, 0] = theirs[:, classes], theirs[:, classes + 1]
    return counts


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.8])
def test_on_blood_cells_it_is_that_of_pycocotools_matching_and_of_faster_coco_eval(threshold: float) -> None:
    found, _ = blood_cell_score()
    counts = confusion(found.evaluation, threshold)
    assert np.array_equal(counts, by_pycocotools(found.evaluation, threshold))
    assert np.array_equal(counts, by_faster_coco_eval(found.evaluation, threshold))
    assert counts.trace() > 300  # the detections are the truth with errors


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("crowds", [0.0, 0.3])
def test_on_random_pictures_it_is_that_of_pycocotools_matching(seed: int, crowds: float) -> None:
    found = drawn_score(seed, crowds=crowds)
    for threshold in (0.0, 0.5):
        assert np.array_equal(
            confusion(found.evaluation, threshold), by_pycocotools(found.evaluation, threshold)
        )


BOXES = [[10, 10, 50, 50], [100, 10, 140, 50]]


def scored(labels: list[int], scores: list[float], boxes: list[list[float]] = BOXES) -> Score:
    """Return the scores of detections on one image with an object of class 1 and one of class 2."""
    found = {"boxes": np.array(boxes, dtype=np.float32), "labels": np.array(labels)}
    return score([record(1, BOXES, [1, 2])], ("cat", "dog"), {1: found | {"scores": np.array(scores)}})


def matrix(*rows: list[int]) -> list[list[int]]:
    return list(rows)


def test_an_object_counts_as_what_its_highest_scored_detection_takes_it_for() -> None:
    both = scored([2, 1, 2], [0.9, 0.8, 0.7], [BOXES[0], BOXES[0], BOXES[1]])
    assert confusion(both.evaluation, 0.5).tolist() == matrix([0, 1, 0], [0, 0, 1], [0, 0, 1])


def test_what_lies_below_the_threshold_is_missed() -> None:
    assert confusion(scored([1, 2], [0.9, 0.3]).evaluation, 0.5).tolist() == matrix(
        [0, 0, 0], [0, 1, 0], [1, 0, 0]
    )


def test_a_score_equal_to_the_threshold_counts() -> None:
    assert confusion(scored([1, 2], [0.9, 0.5]).evaluation, 0.5).tolist() == matrix(
        [0, 0, 0], [0, 1, 0], [0, 0, 1]
    )


def test_without_detections_every_object_is_missed() -> None:
    nothing = score([record(1, BOXES, [1, 2])], ("cat", "dog"), {})
    assert confusion(nothing.evaluation, 0.0).tolist() == matrix([0, 0, 0], [1, 0, 0], [1, 0, 0])
