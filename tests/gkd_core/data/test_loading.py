"""Batches: the same for the same seed, epoch and position, for any worker and any first step."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gkd_core.config import AugmentConfig, DataConfig, TrainConfig
from gkd_core.data.loading import (
    PictureCache,
    Sample,
    TrainLoader,
    epoch_order,
    eval_batches,
    steps_per_epoch,
    train_batches,
    worker_count,
)
from gkd_core.data.pictures import PictureError, read_image
from gkd_core.data.reading import load
from gkd_core.data.records import ImageRecord
from gkd_core.data.shapes import draw_shapes

CONFIG = TrainConfig(batch_size=4, image_size=64, epochs=10, workers=0)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageRecord, ...]:
    folder = tmp_path_factory.mktemp("shapes")
    draw_shapes(folder, train=18, val=3, size=80, seed=0)
    return load(DataConfig(path=str(folder))).train.images


def same(first: Iterable[list[Sample]], second: Iterable[list[Sample]]) -> bool:
    pairs = [pair for batches in zip(first, second, strict=True) for pair in zip(*batches, strict=True)]
    return all(
        torch.equal(one.image, two.image)
        and all(torch.equal(one.target[key], two.target[key]) for key in one.target)
        for one, two in pairs
    )


def test_samples_keep_the_contract_of_torchvision(images: Any) -> None:
    batches = list(train_batches(images, CONFIG, 0))
    assert [len(batch) for batch in batches] == [4] * 4
    for sample in (sample for batch in batches for sample in batch):
        assert sample.image.dtype == torch.uint8
        assert sample.image.shape[0] == 3
        assert max(sample.image.shape[1:]) <= 64
        boxes, labels = sample.target["boxes"], sample.target["labels"]
        assert (boxes.dtype, labels.dtype, sample.target["image_id"].dtype) == (
            torch.float32,
            torch.int64,
            torch.int64,
        )
        assert boxes.shape == (len(labels), 4)
        assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
        assert (boxes >= 0).all()
        assert (boxes <= 64).all()


def test_every_box_knows_where_it_comes_from_also_in_a_mosaic(images: Any) -> None:
    records = {record.image_id: record for record in images}
    samples = [sample for batch in train_batches(images, CONFIG, 0) for sample in batch]
    for sample in samples:
        labels = [records[image].labels[row] for image, row in sample.target["origins"].tolist()]
        assert labels == sample.target["labels"].tolist()
    assert any(len(sample.target["origins"][:, 0].unique()) > 1 for sample in samples)


def test_workers_change_nothing(images: Any) -> None:
    threaded = CONFIG.model_copy(update={"workers": 3})
    assert same(train_batches(images, CONFIG, 2), train_batches(images, threaded, 2))


def test_resuming_in_the_middle_gives_the_same_batches(images: Any) -> None:
    whole = list(train_batches(images, CONFIG, 3))
    assert same(whole[2:], train_batches(images, CONFIG, 3, first_step=2))


def test_a_loader_gives_any_epoch_in_any_order(images: Any) -> None:
    loader = TrainLoader(images, CONFIG)
    later = list(loader.epoch(5))
    assert same(loader.epoch(0), train_batches(images, CONFIG, 0))
    assert same(loader.epoch(5), later)


def test_epochs_and_seeds_differ(images: Any) -> None:
    other = CONFIG.model_copy(update={"seed": 1})
    assert not same(train_batches(images, CONFIG, 0), train_batches(images, CONFIG, 1))
    assert not same(train_batches(images, CONFIG, 0), train_batches(images, other, 0))


def test_one_picture_looks_different_at_every_position_and_in_every_epoch(images: Any) -> None:
    batches = [batch for epoch in (0, 1) for batch in train_batches([images[0]] * 8, CONFIG, epoch)]
    samples = [sample for batch in batches for sample in batch]
    assert len({sample.image.numpy().tobytes() for sample in samples}) == len(samples) == 16


def test_an_epoch_sees_each_picture_once() -> None:
    assert sorted(epoch_order(50, 0, 0)) == list(range(50))
    assert epoch_order(50, 0, 0).tolist() != epoch_order(50, 0, 1).tolist()


def test_several_processes_share_each_batch(images: Any) -> None:
    whole = list(train_batches(images, CONFIG, 0))
    shares = [list(TrainLoader(images, CONFIG, rank=rank, world=2).epoch(0)) for rank in (0, 1)]
    assert same(shares[0], [batch[0::2] for batch in whole])
    assert same(shares[1], [batch[1::2] for batch in whole])


def test_mosaic_ends_when_the_recipe_says(images: Any) -> None:
    always = AugmentConfig(mosaic=1.0, mosaic_until=0.5, scale=(0.5, 0.5))
    config = CONFIG.model_copy(update={"augment": always})
    sides = [[max(s.image.shape[1:]) for b in train_batches(images, config, e) for s in b] for e in (4, 5)]
    assert set(sides[0]) == {64}
    assert set(sides[1]) == {32}
    assert {max(s.image.shape[1:]) for b in train_batches(images, config, 0, mosaic=False) for s in b} == {32}


@pytest.mark.parametrize(("images", "steps"), [(0, 0), (1, 1), (3, 1), (4, 1), (7, 1), (8, 2)])
def test_incomplete_batches_are_dropped_unless_there_is_no_other(images: int, steps: int) -> None:
    assert steps_per_epoch(images, CONFIG) == steps


def test_too_few_pictures_make_one_smaller_batch(images: Any) -> None:
    assert [len(batch) for batch in train_batches(images[:3], CONFIG, 0)] == [3]


def test_crowd_is_no_target(images: Any) -> None:
    records = [
        ImageRecord(
            r.image_id, r.path, r.width, r.height, r.boxes, r.labels, np.ones(len(r.labels), np.bool_), r.area
        )
        for r in images
    ]
    assert all(len(s.target["boxes"]) == 0 for batch in train_batches(records, CONFIG, 0) for s in batch)
    assert all(s.boxes.shape == (0, 4) for batch in eval_batches(records, 64, 4) for s in batch)


def test_evaluation_sees_every_picture_once_at_the_image_size(images: Any) -> None:
    batches = list(eval_batches(images, 128, 4, workers=2))
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 2]
    samples = [sample for batch in batches for sample in batch]
    assert [sample.image_id for sample in samples] == [record.image_id for record in images]
    for sample, record in zip(samples, images, strict=True):
        assert max(sample.image.shape[1:]) == 128
        assert sample.scale == (128 / 80, 128 / 80)
        assert sample.boxes.numpy() == pytest.approx(record.boxes * 1.6, abs=0.01)
        assert sample.labels.tolist() == record.labels.tolist()


def test_a_large_picture_is_kept_small_and_its_boxes_still_fit(tmp_path: Path, picture: Any) -> None:
    picture(tmp_path / "large.jpg", 1000, 600)
    record = ImageRecord(
        7,
        tmp_path / "large.jpg",
        1000,
        600,
        np.array([[100, 60, 500, 300]], np.float32),
        np.array([1]),
        np.array([False]),
        np.array([96000], np.float32),
    )
    cache = PictureCache(64)
    [[sample]] = eval_batches([record], 64, 1, cache=cache)
    assert cache.get(record.path).size == (250, 150)
    assert sample.scale == pytest.approx((0.064, 0.0633), rel=0.02)
    assert sample.boxes.numpy() == pytest.approx(np.array([[6.4, 3.84, 32, 19.2]]), abs=0.3)


def test_the_cache_keeps_within_its_limit_and_gives_up_the_oldest(images: Any) -> None:
    cache = PictureCache(64, limit_mb=3 * 4 * 80 * 80 / 2**20)
    kept = [cache.get(record.path) for record in images[:3]]
    assert cache.get(images[0].path) is kept[0]
    cache.get(images[3].path)
    assert cache.get(images[0].path) is kept[0]
    assert cache.get(images[1].path) is not kept[1]


@pytest.mark.parametrize(("cache_mb", "decoded"), [(1, 18), (0, 32)])
def test_the_recipe_says_how_much_is_kept(
    images: Any, cache_mb: int, decoded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(
        "gkd_core.data.loading.read_image", lambda *of: asked.append(of[0]) or read_image(*of)
    )
    plain = AugmentConfig(mosaic=0.0)
    loader = TrainLoader(images, CONFIG.model_copy(update={"cache_mb": cache_mb, "augment": plain}))
    for epoch in (0, 1):
        list(loader.epoch(epoch))
    assert len(asked) == decoded  # 18 pictures, or each of 2 x 16 samples


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_breaks_later_is_an_error_with_its_name(
    images: Any, workers: int, tmp_path: Path
) -> None:
    record = images[0]
    broken = ImageRecord(
        1, tmp_path / "gone.png", 80, 80, record.boxes, record.labels, record.crowd, record.area
    )
    config = CONFIG.model_copy(update={"workers": workers})
    with pytest.raises(PictureError, match=r"gone\.png"):
        list(train_batches([broken] * 4, config, 0))


def test_a_loader_that_is_left_early_leaves_no_threads(images: Any) -> None:
    batches = train_batches(images, CONFIG.model_copy(update={"workers": 2}), 0)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gkd-loading")]


def test_one_core_loads_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = {0}
    monkeypatch.setattr("os.sched_getaffinity", lambda _: cores)
    assert worker_count("auto") == 0
    cores.update(range(16))
    assert worker_count("auto") == 4
    assert worker_count(7) == 7
