"""COCO numbers of known detections, and the bootstrap of a difference."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gkd_core.data.loading import EvalSample
from gkd_core.data.records import ImageRecord
from gkd_core.evaluate import METRICS, Detections, bootstrap_gain, detect_batches, score

CLASSES = ("cat", "dog")


def record(
    image_id: int, boxes: list[list[float]], labels: list[int], crowd: list[bool] | None = None
) -> ImageRecord:
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    sides = array[:, 2:] - array[:, :2]
    return ImageRecord(
        image_id=image_id,
        path=Path(f"{image_id}.jpg"),
        width=200,
        height=100,
        boxes=array,
        labels=np.array(labels, dtype=np.int64),
        crowd=np.array(crowd or [False] * len(labels), dtype=np.bool_),
        area=sides.prod(axis=1),
    )


def found(boxes: list[list[float]], labels: list[int], scores: list[float]) -> dict[str, np.ndarray]:
    return {
        "boxes": np.array(boxes, dtype=np.float32).reshape(-1, 4),
        "labels": np.array(labels),
        "scores": np.array(scores),
    }


def as_found(image: ImageRecord, moved: float = 0.0) -> dict[str, np.ndarray]:
    """The truth as detections, moved to the right by a share of each box's width."""
    boxes = image.boxes.copy()
    boxes[:, [0, 2]] += moved * (boxes[:, 2:3] - boxes[:, 0:1])
    return {"boxes": boxes, "labels": image.labels, "scores": np.full(len(image.labels), 0.9)}


IMAGES = [
    record(1, [[10, 10, 50, 50], [60, 10, 160, 90]], [1, 2]),
    record(2, [[0, 0, 100, 100]], [2]),
    record(7, [], []),
    record(9, [[20, 20, 30, 30]], [1]),
]


def test_the_truth_itself_scores_one() -> None:
    result = score(IMAGES, CLASSES, {image.image_id: as_found(image) for image in IMAGES})
    assert list(result.metrics) == list(METRICS)
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"):
        assert result.metrics[name] == pytest.approx(1.0), name
    assert result.per_class == pytest.approx({"cat": 1.0, "dog": 1.0})


def test_nothing_found_scores_zero() -> None:
    result = score(IMAGES, CLASSES, {})
    assert result.metrics["AP"] == 0
    assert result.per_class == {"cat": 0.0, "dog": 0.0}


def test_overlap_decides_at_which_thresholds_a_box_counts() -> None:
    moved = 0.25  # overlap 0.75 / 1.25 = 0.6: a hit at 0.50 and 0.55, and at 0.60 by rounding or not
    result = score(IMAGES, CLASSES, {image.image_id: as_found(image, moved) for image in IMAGES})
    assert result.metrics["AP50"] == pytest.approx(1.0)
    assert result.metrics["AP75"] == 0
    assert result.metrics["AP"] == pytest.approx(0.25, abs=0.051)


def test_the_right_place_with_the_wrong_class_is_no_hit() -> None:
    result = score(IMAGES, CLASSES, {2: found([[0, 0, 100, 100]], [1], [0.9])})
    assert result.metrics["AP"] == 0


def test_a_false_alarm_above_a_hit_halves_the_precision() -> None:
    images = [record(1, [[10, 10, 50, 50]], [1])]
    detections = {1: found([[100, 10, 150, 50], [10, 10, 50, 50]], [1, 1], [0.9, 0.8])}
    assert score(images, ("cat",), detections).metrics["AP"] == pytest.approx(0.5)


def test_crowds_count_neither_for_nor_against() -> None:
    images = [record(1, [[10, 10, 50, 50], [100, 0, 200, 100]], [1, 1], [False, True])]
    inside_crowd = [[110, 10, 150, 50], [120, 40, 170, 90]]
    detections = {1: found([[10, 10, 50, 50], *inside_crowd], [1, 1, 1], [0.5, 0.9, 0.9])}
    assert score(images, ("cat",), detections).metrics["AP"] == pytest.approx(1.0)


def test_a_class_without_objects_is_unknown_and_not_zero() -> None:
    images = [record(1, [[10, 10, 50, 50]], [1])]
    result = score(images, CLASSES, {1: as_found(images[0])})
    assert result.per_class == {"cat": pytest.approx(1.0), "dog": -1.0}
    assert result.metrics["AP"] == pytest.approx(1.0)


def test_the_background_output_of_a_head_is_no_detection() -> None:
    detections = {image.image_id: as_found(image) for image in IMAGES}
    detections[7] = found([[0, 0, 50, 50]], [0], [0.99])
    assert score(IMAGES, CLASSES, detections).metrics["AP"] == pytest.approx(1.0)


class Finds(torch.nn.Module):
    """A detector that finds one box of each of its labels 1 and 2 on every picture."""

    def forward(self, pictures: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        boxes = torch.tensor([[10.0, 10, 30, 30], [0, 0, 20, 20]])
        return [{"boxes": boxes, "labels": torch.tensor([1, 2]), "scores": torch.ones(2)} for _ in pictures]


def test_detections_lie_in_the_original_and_bear_the_labels_of_the_data() -> None:
    sample = EvalSample(torch.zeros(3, 8, 8), 7, (0.5, 0.25), torch.zeros(0, 4), torch.zeros(0))
    (found,) = detect_batches(Finds(), iter([[sample]]), torch.device("cpu"), np.array([0, 2, 1]))
    assert found[7]["labels"].tolist() == [2, 1]
    assert found[7]["boxes"].tolist() == [[20, 40, 60, 120], [0, 0, 40, 80]]
    (plain,) = detect_batches(Finds(), iter([[sample]]), torch.device("cpu"))
    assert plain[7]["labels"].tolist() == [1, 2]


# ---- the difference of two -------------------------------------------------------------------------------


def some(share: float, seed: int) -> Detections:
    """Of 40 pictures with one object, the share that is found."""
    random = np.random.default_rng(seed)
    return {image.image_id: as_found(image) for image in MANY if random.random() < share}


MANY = [record(number, [[10, 10, 60, 60]], [1]) for number in range(40)]


def test_two_equal_detectors_differ_by_nothing() -> None:
    result = score(MANY, ("cat",), some(0.7, 0))
    assert bootstrap_gain(result, result, draws=20) == (0.0, 0.0)


def test_a_clear_difference_leaves_zero_outside_the_interval() -> None:
    better, worse = (score(MANY, ("cat",), some(share, seed)) for share, seed in ((0.95, 0), (0.4, 1)))
    low, high = bootstrap_gain(better, worse, draws=100)
    difference = better.metrics["AP"] - worse.metrics["AP"]
    assert 0 < low < difference < high
    assert bootstrap_gain(worse, better, draws=100) == pytest.approx((-high, -low))


def test_a_draw_of_every_picture_once_gives_the_score_itself() -> None:
    from gkd_core.evaluate import _resampled_ap

    result = score(IMAGES, CLASSES, {image.image_id: as_found(image, 0.2) for image in IMAGES[:3]})
    assert _resampled_ap(result.evaluation, np.arange(len(IMAGES))) == pytest.approx(result.metrics["AP"])


def test_a_picture_drawn_twice_weighs_twice() -> None:
    from gkd_core.evaluate import _resampled_ap

    images = [record(1, [[10, 10, 50, 50]], [1]), record(2, [[10, 10, 50, 50]], [1])]
    result = score(images, ("cat",), {1: as_found(images[0])})
    assert result.metrics["AP"] == pytest.approx(51 / 101)
    assert _resampled_ap(result.evaluation, np.array([0, 0])) == pytest.approx(1.0)
    assert _resampled_ap(result.evaluation, np.array([1, 1])) == 0.0
