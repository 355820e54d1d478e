"""Pictures for a teacher that sees more: the same part, more pixels, and the student's pictures stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from gkd_core.config import DataConfig, TrainConfig
from gkd_core.data.find import find_layout
from gkd_core.data.loading import Sample, TrainLoader, eval_batches
from gkd_core.data.reading import load
from gkd_core.data.records import ImageRecord


@pytest.fixture(scope="module")
def images(shapes: Path) -> list[ImageRecord]:
    return list(load(find_layout(DataConfig(path=str(shapes)))).train.images)


def epoch(images: list[ImageRecord], zoom: int) -> Iterator[Sample]:
    augment = {"crop": 0.5, "colour": 0.5, "flip_vertical": 0.5}
    config = TrainConfig.model_validate({"image_size": 64, "batch_size": 7, "workers": 0, "augment": augment})
    return (sample for batch in TrainLoader(images, config, zoom=zoom).epoch(0) for sample in batch)


@pytest.mark.parametrize("zoom", [2, 4])
def test_a_zoom_changes_no_bit_of_what_the_student_sees(images: list[ImageRecord], zoom: int) -> None:
    for plain, zoomed in zip(epoch(images, 1), epoch(images, zoom), strict=True):
        assert plain.zoomed is None
        assert torch.equal(plain.image, zoomed.image)
        assert all(torch.equal(value, zoomed.target[name]) for name, value in plain.target.items())


@pytest.mark.parametrize("zoom", [2, 4])
def test_the_zoomed_picture_is_the_same_part_with_more_pixels(images: list[ImageRecord], zoom: int) -> None:
    for sample in epoch(images, zoom):
        assert sample.zoomed is not None
        assert sample.zoomed.shape[1:] == tuple(zoom * side for side in sample.image.shape[1:])
        reduced = functional.avg_pool2d(sample.zoomed.float(), zoom)
        there = (reduced - sample.image.float()).abs().mean()
        elsewhere = (reduced - sample.image.flip(2).float()).abs().mean()
        assert there < 8 < elsewhere + 8
        assert there <= elsewhere


def test_evaluation_pictures_are_zoomed_alike(images: list[ImageRecord]) -> None:
    [plain], [zoomed] = (next(eval_batches(images[:1], 48, 1, zoom=zoom)) for zoom in (1, 2))
    assert torch.equal(plain.image, zoomed.image)
    assert torch.equal(plain.boxes, zoomed.boxes)
    [larger] = next(eval_batches(images[:1], 96, 1))
    assert zoomed.zoomed is not None
    assert torch.equal(zoomed.zoomed, larger.image)
