"""Batches of tensors, deterministic by construction.

A sample depends on (seed, epoch, position in the epoch) alone: not on the worker that makes it, nor on earlier
samples. So a run that resumes in the middle of an epoch needs the epoch and the step, and no random state.

Workers are threads. Decoding and scaling run in C without Python's lock, so threads do the work of processes, and
they share one cache of decoded pictures, need no shared memory (containers have 64 MB of it by default), and are
not affected by a CUDA context or a fork.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gkd_core.config import AugmentConfig, TrainConfig
from gkd_core.data.augment import (
    Picture,
    Pixels,
    jitter,
    maybe_crop,
    maybe_flip,
    maybe_flip_vertical,
    maybe_recolour,
    mosaic,
    resize,
)
from gkd_core.data.pictures import read_image
from gkd_core.data.records import ImageRecord

CACHE_MB: int = TrainConfig.model_fields["cache_mb"].default
"""MiB of decoded pictures kept in memory where no recipe says how many."""
BATCHES_AHEAD = 2
"""Batches prepared ahead of the one that is trained on."""
_ORDER, _SAMPLE = 0, 1
"""Purpose of a random stream: the first word of its seed."""

_T = TypeVar("_T")


class Sample(NamedTuple):
    """A picture to train on."""

    image: Tensor
    """(3, H, W) uint8, both sides at most the image size."""
    target: dict[str, Tensor]
    """boxes: (N, 4) float32, pixels of `image`; labels: (N,) int64, from 1; origins: (N, 2) int64, image id and row of
    each box in the record that it comes from; image_id: () int64, in a mosaic that of the first picture."""
    zoomed: Tensor | None = None
    """(3, zoom x H, zoom x W) uint8, the same part of the picture with more pixels; None: nobody asked for it."""


class EvalSample(NamedTuple):
    """A picture for evaluation: resized, not augmented."""

    image: Tensor
    """(3, H, W) uint8, the longer side equal to the image size."""
    image_id: int
    scale: tuple[float, float]
    """Resized width / true width, resized height / true height: divide detections by it."""
    boxes: Tensor
    """(N, 4) float32, pixels of `image`, without crowd and without boxes under a pixel."""
    labels: Tensor
    """(N,) int64, from 1."""
    zoomed: Tensor | None = None
    """As in `Sample`."""


class PictureCache:
    """Cache of decoded pictures, the least recently used evicted first; shared by threads.

    Args:
        image_size: what the pictures will be resized to; larger ones are kept at no less than twice that.
        limit_mb: how much to keep, in MiB; 0: nothing.
    """

    def __init__(self, image_size: int, limit_mb: float = CACHE_MB) -> None:
        self._at_least = 2 * image_size
        self._limit = limit_mb * 2**20
        self._held = 0
        self._images: OrderedDict[Path, Image.Image] = OrderedDict()
        self._lock = Lock()

    def get(self, path: Path, white: int | None = None) -> Image.Image:
        """Return the picture in RGB, from memory or from its file. Must not be written to.

        Args:
            path: the file.
            white: as in `read_image`; must be the same at every call for a file.

        Raises:
            PictureError: the file cannot be decoded.
        """
        with self._lock:
            if path in self._images:
                self._images.move_to_end(path)
                return self._images[path]
        image = read_image(path, self._at_least, white)
        self._keep(path, image)
        return image

    def _keep(self, path: Path, image: Image.Image) -> None:
        with self._lock:
            if path in self._images or _bytes(image) > self._limit:
                return
            self._images[path] = image
            self._held += _bytes(image)
            while self._held > self._limit:
                self._held -= _bytes(self._images.popitem(last=False)[1])


def _bytes(image: Image.Image) -> int:
    return 4 * image.width * image.height  # Pillow pads RGB to four bytes


def steps_per_epoch(images: int, config: TrainConfig) -> int:
    """Return the batches of an epoch over that many pictures.

    Only whole batches count; with too few pictures for one, there is a single smaller batch.
    """
    return max(1, images // config.batch_size) if images else 0


class TrainLoader:
    """Makes the training batches of any epoch, from any step on.

    Args:
        images: the split to train on.
        config: the recipe: batch size, image size, seed, augmentation, workers.
        rank: of this process among `world`; it gets every `world`-th picture of each batch.
        world: number of processes that train together.
        cache: of decoded pictures; may be shared with evaluation.
        zoom: how many times as large the pictures of a teacher that sees more are; 1: there are none. The others stay
            the same to the bit, as long as the cache keeps pictures for the same size.
    """

    def __init__(
        self,
        images: Sequence[ImageRecord],
        config: TrainConfig,
        *,
        rank: int = 0,
        world: int = 1,
        cache: PictureCache | None = None,
        zoom: int = 1,
    ) -> None:
        self.images = images
        self.config = config
        self.steps = steps_per_epoch(len(images), config)
        self._rank, self._world = rank, world
        self._cache = cache or PictureCache(zoom * config.image_size, config.cache_mb)
        self._zoom = zoom
        self._workers = worker_count(config.workers)

    def epoch(self, epoch: int, *, first_step: int = 0, mosaic: bool = True) -> Iterator[list[Sample]]:
        """Return the batches of an epoch (from 0), beginning with `first_step`.

        `mosaic=False` switches it off; otherwise the recipe decides by the epoch.

        Raises:
            PictureError: a picture cannot be decoded.
        """
        augment = self.config.augment
        if not mosaic or epoch >= augment.mosaic_until * self.config.epochs:
            augment = augment.model_copy(update={"mosaic": 0.0})
        order = epoch_order(len(self.images), self.config.seed, epoch)

        def sample(position: int) -> Sample:
            rng = np.random.default_rng([_SAMPLE, self.config.seed, epoch, position])
            return self._sample(int(order[position]), augment, rng)

        batches = (self._positions(step) for step in range(first_step, self.steps))
        return _in_order(sample, batches, self._workers)

    def _positions(self, step: int) -> Sequence[int]:
        """Return this process's share of a batch, as positions in the epoch's order."""
        size = self.config.batch_size
        return range(step * size, min((step + 1) * size, len(self.images)))[self._rank :: self._world]

    def _sample(self, index: int, augment: AugmentConfig, rng: np.random.Generator) -> Sample:
        size = self.config.image_size

        def picture(number: int) -> Picture:
            return maybe_crop(self._picture(number), augment.crop, augment.crop_least, rng)

        def turn(pixels: Pixels) -> Pixels:
            return maybe_flip_vertical(maybe_flip(pixels, augment.flip, rng), augment.flip_vertical, rng)

        if rng.random() < augment.mosaic:
            others = rng.integers(len(self.images), size=3)
            parts = [picture(number) for number in (index, *others)]
            pixels = mosaic(parts, size, augment.scale, turn, rng, self._zoom)
        else:
            pixels = turn(jitter(picture(index), size, augment.scale, rng, self._zoom))
        return _to_sample(maybe_recolour(pixels, augment.colour, rng), self.images[index].image_id)

    def _picture(self, index: int) -> Picture:
        return open_picture(self.images[index], self._cache)


def train_batches(
    images: Sequence[ImageRecord],
    config: TrainConfig,
    epoch: int,
    *,
    first_step: int = 0,
    mosaic: bool = True,
) -> Iterator[list[Sample]]:
    """Return the batches of one epoch; see `TrainLoader`, which keeps decoded pictures between epochs."""
    return TrainLoader(images, config).epoch(epoch, first_step=first_step, mosaic=mosaic)


def eval_batches(
    images: Sequence[ImageRecord],
    image_size: int,
    batch_size: int,
    workers: int | Literal["auto"] = 0,
    cache: PictureCache | None = None,
    zoom: int = 1,
) -> Iterator[list[EvalSample]]:
    """Return all pictures in order, resized so that the longer side is `image_size`; the last batch may be smaller.

    Small pictures are enlarged: the detector was trained at that size.

    Raises:
        PictureError: a picture cannot be decoded.
    """
    cache = cache or PictureCache(zoom * image_size, limit_mb=0)

    def sample(index: int) -> EvalSample:
        record = images[index]
        pixels = resize(open_picture(record, cache), image_size, zoom)
        height, width = pixels.pixels.shape[:2]
        return EvalSample(
            image=_to_tensor(pixels.pixels),
            image_id=record.image_id,
            scale=(width / record.width, height / record.height),
            boxes=torch.from_numpy(pixels.boxes),
            labels=torch.from_numpy(pixels.labels),
            zoomed=_zoomed(pixels),
        )

    starts = range(0, len(images), batch_size)
    batches = (range(start, min(start + batch_size, len(images))) for start in starts)
    return _in_order(sample, batches, worker_count(workers))


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of an epoch: a permutation of 0 .. count - 1."""
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(count)


def worker_count(workers: int | Literal["auto"]) -> int:
    """Return the number of threads.

    It is what was asked for, or one less than the cores that this process may use, at most 4.
    """
    if workers != "auto":
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores - 1)


def open_picture(record: ImageRecord, cache: PictureCache) -> Picture:
    """Return a record's picture with the boxes that are targets, in the picture's own pixels."""
    image = cache.get(record.path, record.white)
    x, y = image.width / record.width, image.height / record.height
    rows = np.flatnonzero(~record.crowd)
    boxes = record.boxes[rows] * np.array([x, y, x, y], dtype=np.float32)
    origins = np.stack([np.full_like(rows, record.image_id), rows], axis=1)
    return Picture(image, boxes, record.labels[rows], origins)


def _in_order(
    make: Callable[[int], _T], batches: Iterator[Sequence[int]], workers: int
) -> Iterator[list[_T]]:
    """Yield batches in order, made by threads a few batches ahead; without workers, made on demand."""
    if workers == 0:
        yield from ([make(number) for number in batch] for batch in batches)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="gkd-loading")
    pending: deque[list[Future[_T]]] = deque()
    try:
        for batch in batches:
            pending.append([pool.submit(make, number) for number in batch])
            if len(pending) > BATCHES_AHEAD:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _to_sample(pixels: Pixels, image_id: int) -> Sample:
    target = {
        "boxes": torch.from_numpy(pixels.boxes),
        "labels": torch.from_numpy(pixels.labels),
        "origins": torch.from_numpy(pixels.origins),
        "image_id": torch.tensor(image_id),
    }
    return Sample(_to_tensor(pixels.pixels), target, _zoomed(pixels))


def _zoomed(pixels: Pixels) -> Tensor | None:
    return None if pixels.zoomed is None else _to_tensor(pixels.zoomed)


def _to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())  # (H, W, 3) -> (3, H, W)
