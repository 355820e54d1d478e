"""Data sets: COCO, VOC or YOLO, recognised by layout, as splits that yield batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gkd_core.compute.transfers import pictures_on
from gkd_core.config import AugmentConfig, DataConfig, SplitName, TrainConfig, Workers
from gkd_core.data.find import find_layout
from gkd_core.data.loading import TrainLoader
from gkd_core.data.reading import load
from gkd_core.data.records import DataSet, ImageRecord, Split
from gkd_core.detectors.detector import Targets
from gkd_core.errors import Problem, checked

AS_THEY_ARE = AugmentConfig(flip=0, mosaic=0, scale=(1, 1))
"""No augmentation."""


@dataclass(frozen=True)
class Pictures:
    """One split of a data set."""

    split: Split

    @property
    def images(self) -> tuple[ImageRecord, ...]:
        """Return the images with their boxes."""
        return self.split.images

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self,
        batch_size: int = 8,
        image_size: int = 640,
        *,
        epoch: int = 0,
        seed: int = 0,
        augment: bool = True,
        device: str | torch.device = "cpu",
        workers: Workers = "auto",
    ) -> Iterator[tuple[list[Tensor], Targets]]:
        """Yield the batches of one epoch, shuffled; the same arguments give the same batches.

        Args:
            batch_size: B, images of a batch.
            image_size: longer side in pixels.
            epoch: from 0; decides order and augmentation, so give it in a loop over epochs.
            seed: decides the same.
            augment: augment the images with the defaults of `config.AugmentConfig`.
            device: where tensors go.
            workers: threads that load images.

        Yields:
            B pictures (3, H, W) in 0..1, and B dicts with boxes (n, 4) in pixels and labels (n,) from 1.

        Raises:
            SpecError: an argument is wrong.
        """
        recipe = checked(
            TrainConfig,
            "train",
            batch_size=batch_size,
            image_size=image_size,
            seed=seed,
            workers=workers,
            augment=AugmentConfig() if augment else AS_THEY_ARE,
        )
        where = torch.device(device)
        for batch in TrainLoader(self.images, recipe).epoch(epoch):
            targets = [
                {name: sample.target[name].to(where) for name in ("boxes", "labels")} for sample in batch
            ]
            yield pictures_on(where, [sample.image for sample in batch]), targets


@dataclass(frozen=True)
class Dataset:
    """A data set whose annotations were read."""

    config: DataConfig
    """The config that reads it again, with absolute paths."""
    content: DataSet

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names in label order; label 1 is the first."""
        return self.content.classes

    @property
    def splits(self) -> dict[SplitName, Pictures]:
        """Return the splits that exist."""
        return {name: Pictures(split) for name, split in self.content.splits.items()}

    @property
    def train(self) -> Pictures:
        """Return the split to train on."""
        return self.splits["train"]

    @property
    def val(self) -> Pictures:
        """Return the split that models are evaluated on."""
        return self.splits["val"]

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Return the warnings about the data."""
        return self.content.warnings


def load_dataset(path: str | Path, **options: Any) -> Dataset:
    """Read the annotations of a folder in COCO's, VOC's or YOLO's layout; pictures are decoded when they are needed.

    Args:
        path: the folder, or a YOLO `data.yaml`.
        options: other fields of `config.DataConfig`, such as `val_share=0.2`, `only=("car",)` or `rename={...}`.

    Raises:
        SpecError: an option is wrong.
        DataError: there is no such folder, or its annotations are unusable; every file is named.
    """
    given = checked(DataConfig, "data", path=str(path), **options)
    config = find_layout(given, Path.cwd())
    return Dataset(config, load(config))
