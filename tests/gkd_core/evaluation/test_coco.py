"""The metrics of COCO and VOC, compared with published implementations too, and the bootstrap of a difference."""

import contextlib
import copy
import io
import json
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import faster_coco_eval.faster_eval_api_cpp as coco_cpp
import numpy as np
import pytest
import torch
from faster_coco_eval import COCOeval_faster
from PIL import Image

from gkd_core.config import DataConfig, Split
from gkd_core.data.loading import EvalSample, eval_batches
from gkd_core.data.reading import load
from gkd_core.data.records import DataSet, ImageRecord
from gkd_core.errors import StoppedError
from gkd_core.evaluation import bootstrap
from gkd_core.evaluation.bootstrap import Resampled, bootstrap_gain, draws_for
from gkd_core.evaluation.coco import COCO_METRICS, METRICS, Score, _truth, detect_batches, score
from gkd_core.evaluation.voc import Detections, best_threshold, match
from tests.gkd_core.evaluation.drawn_detections import THREE, boxes_in, drawn, perturbed, record

CLASSES = ("cat", "dog")


def found(boxes: list[list[float]], labels: list[int], scores: list[float]) -> dict[str, np.ndarray]:
    return {
        "boxes": np.array(boxes, dtype=np.float32).reshape(-1, 4),
        "labels": np.array(labels),
        "scores": np.array(scores),
    }


def as_found(image: ImageRecord, moved: float = 0.0) -> dict[str, np.ndarray]:
    """Return the ground truth as detections, moved to the right by a share of each box's width."""
    boxes = image.boxes.copy()
    boxes[:, [0, 2]] += moved * (boxes[:, 2:3] - boxes[:, 0:1])
    return {"boxes": boxes, "labels": image.labels, "scores": np.full(len(image.labels), 0.9)}


IMAGES = [
    record(1, [[10, 10, 50, 50], [60, 10, 160, 90]], [1, 2]),
    record(2, [[0, 0, 100, 100]], [2]),
    record(7, [], []),
    record(9, [[20, 20, 30, 30]], [1]),
]


BASES = [0, 2**53, 20261130113930000, 2**63 - 1000, -(2**62)]


@pytest.mark.parametrize("base", BASES)
def test_ids_of_any_size_give_the_same_numbers(base: int) -> None:
    images = [replace(image, image_id=base + image.image_id) for image in IMAGES]
    found = {own.image_id: as_found(image, 0.2) for own, image in zip(images, IMAGES, strict=True)}
    expected = score(IMAGES, CLASSES, {image.image_id: as_found(image, 0.2) for image in IMAGES})
    result = score(images, CLASSES, found)
    assert (result.metrics, result.per_class) == (expected.metrics, expected.per_class)
    assert 0 < result.metrics["AP"] < 1


@pytest.mark.parametrize(
    "ids",
    [
        [20261130113930000, 20261130113930001],
        ["a", 20261130113930001],
        ["20261130113930000", 20261130113930000],
        [2**63 - 1, "z"],
        [2**53 + 1, 2**53],
    ],
)
def test_ids_of_a_data_set_change_nothing_from_reading_to_scoring(
    tmp_path: Path, ids: list[int | str]
) -> None:
    """Compare with the same data under the ids 1 and 2, through the batches and with wrong boxes on one picture."""
    plain, own = (_two_pictures(tmp_path / name, numbers) for name, numbers in (("a", [1, 2]), ("b", ids)))
    results = []
    for data in (plain, own):
        seen = [s.image_id for batch in eval_batches(data.val.images, 64, 2) for s in batch]
        moved = dict(zip(seen, (0.1, 0.6), strict=True))
        found = {image.image_id: as_found(image, moved[image.image_id]) for image in data.val.images}
        results.append(score(data.val.images, data.classes, found))
    assert results[0].metrics == results[1].metrics
    assert 0 < results[0].metrics["AP"] < 1


def _two_pictures(folder: Path, ids: list[int | str]) -> DataSet:
    """Return a COCO data set of two pictures with a box each, read."""
    folder.mkdir()
    content = {
        "images": [{"id": key, "file_name": f"{at}.png"} for at, key in enumerate(ids)],
        "annotations": [
            {"id": at, "image_id": key, "category_id": 90, "bbox": [10, 10, 30, 20 + at]}
            for at, key in enumerate(ids)
        ],
        "categories": [{"id": 90, "name": "square"}],
    }
    for at in range(2):
        Image.new("RGB", (96, 64), (80 * at, 90, 200)).save(folder / f"{at}.png")
    (folder / "a.json").write_text(json.dumps(content))
    split = Split(images=str(folder), annotations=str(folder / "a.json"))
    return load(DataConfig(format="coco", train=split, val=split))


def test_the_truth_itself_scores_one() -> None:
    result = score(IMAGES, CLASSES, {image.image_id: as_found(image) for image in IMAGES})
    assert list(result.metrics) == list(METRICS)
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "VOC07", "VOC12"):
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


# ---- equal to published implementations ------------------------------------------------------------------


def by_pycocotools(
    images: Sequence[ImageRecord], classes: Sequence[str], detections: Detections
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the twelve metrics and AP by class."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    number_of = {image.image_id: number for number, image in enumerate(images, start=1)}
    results = [
        [number_of[image_id], x1, y1, x2 - x1, y2 - y1, confidence, label]
        for image_id, found in detections.items()
        for (x1, y1, x2, y2), label, confidence in zip(
            *(found[k] for k in ("boxes", "labels", "scores")), strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = _truth(images, classes)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(np.array(results, dtype=np.float64)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    per_class = {}
    for index, name in enumerate(classes):
        known = precision[:, :, index][precision[:, :, index] > -1]
        per_class[name] = known.mean() if known.size else -1.0
    return dict(zip(COCO_METRICS, evaluation.stats, strict=True)), per_class


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("crowds", [0.0, 0.2])
def test_the_twelve_numbers_are_those_of_pycocotools(seed: int, crowds: float) -> None:
    images, detections = drawn(seed, crowds=crowds)
    result, (metrics, per_class) = score(images, THREE, detections), by_pycocotools(images, THREE, detections)
    assert 0.1 < metrics["AP"] < 0.9
    assert {name: result.metrics[name] for name in COCO_METRICS} == pytest.approx(metrics, abs=1e-6)
    assert result.per_class == pytest.approx(per_class, abs=1e-6)


def test_the_twelve_numbers_on_blood_cells_are_those_of_pycocotools() -> None:
    if "GKD_SHARED" not in os.environ:
        pytest.skip("GKD_SHARED names no folder with sample data")
    data = load(DataConfig(path=str(Path(os.environ["GKD_SHARED"]) / "data" / "bccd")))
    random = np.random.default_rng(0)
    detections = {image.image_id: perturbed(image, random, len(data.classes)) for image in data.val.images}
    result = score(data.val.images, data.classes, detections)
    metrics, per_class = by_pycocotools(data.val.images, data.classes, detections)
    assert {name: result.metrics[name] for name in COCO_METRICS} == pytest.approx(metrics, abs=1e-6)
    assert result.per_class == pytest.approx(per_class, abs=1e-6)


def by_mean_average_precision(
    images: Sequence[ImageRecord], classes: Sequence[str], detections: Detections
) -> dict[str, list[float]]:
    """Return VOC's metrics by class from a package that counts difficult objects as objects."""
    from mean_average_precision import MetricBuilder

    metric = MetricBuilder.build_evaluation_metric("map_2d", num_classes=len(classes))
    for image in images:
        found = detections.get(image.image_id, {"boxes": np.zeros((0, 4)), "labels": [], "scores": []})
        columns = [np.asarray(found["labels"]) - 1, np.asarray(found["scores"])]
        flags = np.zeros((len(image.labels), 2))
        metric.add(
            np.column_stack([found["boxes"], *columns]),
            np.column_stack([image.boxes, image.labels - 1, flags]),
        )
    numbers = {}
    for name, recalls in (("VOC07", np.arange(0.0, 1.1, 0.1)), ("VOC12", None)):
        values = metric.value(iou_thresholds=0.5, recall_thresholds=recalls, mpolicy="greedy")[0.5]
        numbers[name] = [values[index]["ap"] for index in range(len(classes))]
    return numbers


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_of_voc_are_those_of_a_published_package(seed: int) -> None:
    images, detections = drawn(seed)
    result = score(images, THREE, detections)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package was written for another version of pandas
        theirs = by_mean_average_precision(images, THREE, detections)
    for name in ("VOC07", "VOC12"):
        ours = result.per_class_voc[name]
        assert [ours["cat"], ours["dog"]] == pytest.approx(theirs[name][:2], abs=1e-6)
        assert ours["emu"] == -1
        assert result.metrics[name] == pytest.approx((ours["cat"] + ours["dog"]) / 2)


def by_the_development_kit(
    images: Sequence[ImageRecord], label: int, detections: Detections
) -> tuple[float, float]:
    """Return AP50 of a class for 2007 and 2012, written after VOCevaldet.m and VOCap.m line by line."""
    taken = {image.image_id: np.zeros(len(image.labels), dtype=bool) for image in images}
    objects = sum(int((~image.crowd & (image.labels == label)).sum()) for image in images)
    found = [
        (confidence, image, box)
        for image in images
        for box, other, confidence in zip(*detections.get(image.image_id, NOTHING).values(), strict=True)
        if other == label
    ]
    hits, alarms = [], []
    for _, image, box in sorted(found, key=lambda entry: -entry[0]):
        best, most = -np.inf, -1
        for index in np.flatnonzero(image.labels == label):
            truth = image.boxes[index].astype(float)
            iw = min(box[2], truth[2]) - max(box[0], truth[0]) + 1
            ih = min(box[3], truth[3]) - max(box[1], truth[1]) + 1
            if iw > 0 and ih > 0:
                union = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
                union += (truth[2] - truth[0] + 1) * (truth[3] - truth[1] + 1) - iw * ih
                if iw * ih / union > best:
                    best, most = iw * ih / union, index
        hit = alarm = 0
        if best >= 0.5:
            if not image.crowd[most]:
                hit, alarm = (0, 1) if taken[image.image_id][most] else (1, 0)
                taken[image.image_id][most] = True
        else:
            alarm = 1
        hits.append(hit)
        alarms.append(alarm)
    tp, fp = np.cumsum(hits), np.cumsum(alarms)
    with np.errstate(invalid="ignore"):
        recall, precision = tp / objects, tp / (fp + tp)
    eleven = sum(np.nanmax(precision[recall >= t], initial=0) / 11 for t in np.arange(0, 1.1, 0.1))
    mrec, mpre = np.concatenate([[0], recall, [1]]), np.concatenate([[0], np.nan_to_num(precision), [0]])
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return eleven, float(((mrec[1:] - mrec[:-1]) * mpre[1:]).sum())


NOTHING: dict[str, np.ndarray] = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0), "scores": np.zeros(0)}


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_of_voc_with_difficult_objects_are_those_of_its_development_kit(seed: int) -> None:
    images, detections = drawn(seed, crowds=0.3)
    result = score(images, THREE, detections)
    for label, name in enumerate(THREE[:2], start=1):
        ours = result.per_class_voc["VOC07"][name], result.per_class_voc["VOC12"][name]
        assert ours == pytest.approx(by_the_development_kit(images, label, detections), abs=1e-9)


def voc_numbers(images: list[ImageRecord], detections: Detections) -> tuple[float, float]:
    metrics = score(images, ("cat",), detections).metrics
    return metrics["VOC07"], metrics["VOC12"]


TWO_CATS = [record(1, [[10, 10, 50, 50], [100, 10, 140, 50]], [1, 1])]


def test_voc_of_half_found_is_six_elevenths_of_2007_and_a_half_of_2012() -> None:
    detections = {1: found([[10, 10, 50, 50]], [1], [0.9])}  # recall 0.5: 0, 0.1 .. 0.5 are reached
    assert voc_numbers(TWO_CATS, detections) == pytest.approx((6 / 11, 0.5))


def test_voc_counts_a_second_detection_of_one_object_as_a_false_alarm_even_beside_a_free_one() -> None:
    near = [record(1, [[10, 10, 50, 50], [14, 10, 54, 50]], [1, 1])]
    detections = {1: found([[10, 10, 50, 50], [11, 10, 51, 50]], [1, 1], [0.9, 0.8])}
    assert voc_numbers(near, detections)[1] == pytest.approx(0.5)
    assert score(near, ("cat",), detections).metrics["AP50"] == pytest.approx(1.0)  # COCO takes the free one


def test_voc_takes_an_overlap_of_exactly_a_half_and_counts_pixels_with_both_ends() -> None:
    half = {1: found([[10, 10, 50, 29.5]], [1], [0.9])}  # 41 x 20.5 pixels of 41 x 41
    less = {1: found([[10, 10, 50, 29]], [1], [0.9])}
    one = [record(1, [[10, 10, 50, 50]], [1])]
    assert voc_numbers(one, half) == pytest.approx((1.0, 1.0))
    assert voc_numbers(one, less) == (0.0, 0.0)


def test_what_finds_a_difficult_object_is_neither_hit_nor_false_alarm_for_voc() -> None:
    images = [record(1, [[10, 10, 50, 50], [100, 0, 140, 50]], [1, 1], [False, True])]
    twice = [[100, 0, 140, 50]] * 2
    detections = {1: found([*twice, [10, 10, 50, 50]], [1, 1, 1], [0.9, 0.8, 0.7])}
    assert voc_numbers(images, detections) == pytest.approx((1.0, 1.0))
    matches = match(images, 1, detections)
    assert matches.hit.tolist() == [False, False, True]
    assert matches.ignored.tolist() == [True, True, False]


def test_voc_without_objects_is_unknown_and_without_detections_zero() -> None:
    assert voc_numbers([record(1, [], [])], {}) == (-1, -1)
    assert voc_numbers([record(1, [], [])], {1: found([[0, 0, 9, 9]], [1], [0.5])}) == (-1, -1)
    assert voc_numbers(TWO_CATS, {}) == (0, 0)


def test_the_best_threshold_keeps_the_hits_and_leaves_the_false_alarms_out() -> None:
    boxes = [[10, 10, 50, 50], [100, 10, 140, 50], [0, 60, 20, 80], [30, 60, 50, 80]]
    matches = match(TWO_CATS, 1, {1: found(boxes, [1] * 4, [0.8, 0.4, 0.3, 0.2])})
    assert matches.hit.tolist() == [True, True, False, False]
    assert best_threshold(matches) == 0.4
    assert best_threshold(match(TWO_CATS, 1, {})) == 0


# ---- the difference of two -------------------------------------------------------------------------------


def some(share: float, seed: int) -> Detections:
    """Return detections of a share of 40 pictures with one object."""
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


def resampled(result: Score, drawn: Sequence[int]) -> float:
    times = np.bincount(drawn, minlength=len(result.evaluation.params.imgIds))
    return Resampled.of(result.evaluation).average_precision(times)


def accumulated_by_coco(evaluation: COCOeval_faster, drawn: np.ndarray) -> float:
    """Return the AP that the library itself computes from the drawn pictures."""
    params = copy.copy(evaluation.params)
    count, kept = len(params.imgIds), evaluation._evalImgs_cpp  # class by area by picture, flat
    params.imgIds = [params.imgIds[index] for index in drawn]
    chosen = [kept[group * 4 * count + index] for group in range(len(params.catIds)) for index in drawn]
    params.areaRng, params.areaRngLbl, params.maxDets = params.areaRng[:1], params.areaRngLbl[:1], [100]
    accumulated = coco_cpp.COCOevalAccumulate(params, chosen)
    precision = np.asarray(accumulated["precision"]).reshape(accumulated["counts"])[:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


@pytest.mark.parametrize("crowds", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_every_draw_has_the_ap_that_cocos_own_accumulation_gives_it(seed: int, crowds: float) -> None:
    images, detections = drawn(seed, crowds=crowds)
    result = score(images, THREE, detections)
    random = np.random.default_rng(seed)
    for _ in range(10):
        draw = random.integers(0, len(images), len(images))
        assert resampled(result, draw) == pytest.approx(
            accumulated_by_coco(result.evaluation, draw), abs=1e-10
        )


def test_a_draw_of_every_picture_once_gives_the_score_itself() -> None:
    result = score(IMAGES, CLASSES, {image.image_id: as_found(image, 0.2) for image in IMAGES[:3]})
    assert resampled(result, range(len(IMAGES))) == pytest.approx(result.metrics["AP"])


def test_a_draw_without_objects_is_unknown_and_without_detections_zero() -> None:
    result = score(IMAGES, CLASSES, {})
    assert resampled(result, [2, 2, 2, 2]) == -1
    assert resampled(result, [0, 1, 2, 3]) == 0


def test_a_picture_drawn_twice_weighs_twice() -> None:
    images = [record(1, [[10, 10, 50, 50]], [1]), record(2, [[10, 10, 50, 50]], [1])]
    result = score(images, ("cat",), {1: as_found(images[0])})
    assert result.metrics["AP"] == pytest.approx(51 / 101)
    assert resampled(result, [0, 0]) == pytest.approx(1.0)
    assert resampled(result, [1, 1]) == 0.0


def test_a_bootstrap_ends_between_two_draws_when_it_is_asked_to() -> None:
    result = score(MANY, ("cat",), some(0.7, 0))
    asked = iter([None, None, StoppedError("asked to stop")])

    def stop_if_asked() -> None:
        if error := next(asked):
            raise error

    with pytest.raises(StoppedError):
        bootstrap_gain(result, result, draws=10, between=stop_if_asked)
    assert next(asked, "all were asked") == "all were asked"


@pytest.mark.parametrize(("work", "draws"), [(10**9, 400), (300 * 28, 300), (1, 100)])
def test_a_bootstrap_of_many_detections_takes_fewer_draws(
    monkeypatch: pytest.MonkeyPatch, work: int, draws: int
) -> None:
    many, none = score(MANY, ("cat",), some(1.0, 0)), score(MANY, ("cat",), {})
    monkeypatch.setattr(bootstrap, "_WORK", work * 40 // 28)
    assert draws_for(none, many) == draws_for(many, none) == draws


def test_forty_classes_on_four_hundred_pictures_take_milliseconds_a_draw() -> None:
    random = np.random.default_rng(0)
    images = [
        record(n, boxes_in(200, 100, 8, random).tolist(), random.integers(1, 41, 8).tolist())
        for n in range(400)
    ]
    classes = [str(number) for number in range(40)]
    result = score(images, classes, {image.image_id: perturbed(image, random, 40) for image in images})
    began = time.monotonic()
    bootstrap_gain(result, result, draws=50)
    assert time.monotonic() - began < 5  # 50 accumulations of the library alone take ten
