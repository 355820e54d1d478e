"""Data sets: found by layout, read once, and given as batches that depend on their arguments alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

import gkd_core as gkd
from gkd_core.errors import DataError, GkdError, SpecError


def test_a_folder_is_recognised(shapes: Path) -> None:
    data = gkd.load_dataset(shapes)
    assert data.classes == ("circle", "square", "triangle", "cross")
    assert (len(data.train), len(data.val)) == (14, 4)
    assert data.config.train is not None
    assert Path(data.config.train.images).is_absolute()


def test_options_are_those_of_a_spec(shapes: Path) -> None:
    assert gkd.load_dataset(shapes, only=("circle",)).classes == ("circle",)


def test_batches_are_what_detectors_take(shapes: Path) -> None:
    batches = list(gkd.load_dataset(shapes).train.batches(4, image_size=96, workers=0))
    assert [len(images) for images, _ in batches] == [4, 4, 4]
    images, targets = batches[0]
    assert all(image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1 for image in images)
    assert all(max(image.shape) <= 96 for image in images)
    assert all(target["boxes"].shape == (len(target["labels"]), 4) for target in targets)
    assert all(1 <= label <= 4 for target in targets for label in target["labels"].tolist())


def first(data: Any, **options: Any) -> torch.Tensor:
    images, _ = next(iter(data.train.batches(4, image_size=64, workers=0, augment=False, **options)))
    return torch.stack(images)


def test_an_epoch_is_always_the_same_and_another_is_not(shapes: Path) -> None:
    data = gkd.load_dataset(shapes)
    assert torch.equal(first(data), first(data))
    assert not torch.equal(first(data), first(data, epoch=1))
    assert not torch.equal(first(data), first(data, seed=1))


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"path": "nowhere"}, DataError, "no such folder"),
        ({"onyl": ("circle",)}, SpecError, "Did you mean `only`?"),
        ({"only": ("circel",)}, DataError, "did you mean 'circle'?"),
    ],
)
def test_mistakes_are_told_as_the_service_tells_them(
    change: dict[str, Any], error: type[GkdError], told: str, shapes: Path
) -> None:
    with pytest.raises(error) as caught:
        gkd.load_dataset(**{"path": shapes, **change})
    assert told in f"{caught.value.message} {caught.value.hint}"


def test_batches_of_no_size_are_refused(shapes: Path) -> None:
    with pytest.raises(SpecError, match=r"train\.image_size"):
        next(iter(gkd.load_dataset(shapes).train.batches(image_size=33)))
