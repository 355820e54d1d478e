"""The pass over the training images that pools the instances from which prototypes are chosen (PGM, step 1).

Which boxes are pooled is decided once, from the annotations and the seed; each image is read and run once, whatever
the number of its classes. The teacher never changes, so a later pass runs the student alone.

Shapes: N instances, L levels, C_t and C_s channels of teacher and student.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from gkd_core.compute.amp import autocast
from gkd_core.compute.transfers import pictures_on, to_device, zoomed_on
from gkd_core.compute.world import World
from gkd_core.config import PrototypeChoice, Workers
from gkd_core.data.loading import EvalSample, eval_batches
from gkd_core.data.records import ImageRecord
from gkd_core.detectors.build import pyramid
from gkd_core.detectors.detector import Detector

Pooling = Callable[[Tensor, Tensor, Tensor, float, int], Tensor]
"""(map (B, C, H, W), boxes (M, 4) in pixels, image_index (M,), stride, most boxes of an image) -> (M, C)."""

Choice = dict[int, np.ndarray]
"""By position of the image in the split: rows of its boxes that are pooled."""


def instances_again(images: Sequence[ImageRecord], chosen: Sequence[Tensor]) -> Choice:
    """Return the choice that pools the given objects again.

    Args:
        images: the split.
        chosen: (P, 2) tensors of image id and row; objects in several of them are pooled once.
    """
    rows: dict[int, set[int]] = {}
    for origins in chosen:
        for image_id, row in pairs(*origins.T):
            rows.setdefault(image_id, set()).add(row)
    return {
        position: np.array(sorted(rows[image.image_id]))
        for position, image in enumerate(images)
        if image.image_id in rows
    }


def choose_instances(
    images: Sequence[ImageRecord], num_classes: int, image_size: int, config: PrototypeChoice, seed: int
) -> Choice:
    """Choose which boxes are pooled: per class at most `max_instances`, in a random order that the seed fixes.

    Boxes under `min_box_side` (in resized pixels) or marked as crowd are left out, unless a class has no others:
    every class with objects gets prototypes.
    """
    owner, row, label, large = _flatten(images, image_size, config.min_box_side)
    order = np.random.default_rng(seed).permutation(len(owner))
    chosen: dict[int, list[int]] = {}
    for wanted in range(1, num_classes + 1):
        members = order[label[order] == wanted]
        usable = members[large[members]]
        for index in (usable if len(usable) else members)[: config.max_instances]:
            chosen.setdefault(int(owner[index]), []).append(int(row[index]))
    return {position: np.sort(rows) for position, rows in sorted(chosen.items())}


def _flatten(
    images: Sequence[ImageRecord], image_size: int, min_side: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return for all boxes of all images: image, row in it, label, and whether it is large enough to pool."""
    owner = np.concatenate([np.full(len(image.labels), at) for at, image in enumerate(images)])
    row = np.concatenate([np.arange(len(image.labels)) for image in images])
    label = np.concatenate([np.where(image.crowd, 0, image.labels) for image in images])
    large = np.concatenate([_shorter_side(image, image_size) >= min_side for image in images])
    return owner.astype(np.int64), row.astype(np.int64), label.astype(np.int64), large.astype(bool)


def _shorter_side(image: ImageRecord, image_size: int) -> np.ndarray:
    scale = image_size / max(image.width, image.height)
    shortest: np.ndarray = (image.boxes[:, 2:] - image.boxes[:, :2]).min(axis=1, initial=np.inf) * scale
    return shortest


@dataclass
class Pooled:
    """Pooled features of the chosen instances, level by level."""

    teacher: list[Tensor]
    """L of (N, C_t) float32."""
    student: list[Tensor]
    """L of (N, C_s) float32."""
    labels: Tensor
    """(N,) int64, from 0."""
    image_ids: Tensor
    """(N,) int64."""
    boxes: Tensor
    """(N, 4) pixels of the original picture."""
    rows: Tensor
    """(N,) int64, row of each box in its image's record."""
    sides: Tensor
    """(N,) shorter side of each box in pixels of the resized image."""

    def origins(self, chosen: Tensor) -> Tensor:
        """Return (P, 2) int64 image id and row of some of the instances, by index (P,)."""
        here = chosen.cpu()
        return torch.stack([self.image_ids[here], self.rows[here]], 1)

    def take(self, chosen: Tensor) -> Pooled:
        """Return some of the instances, by index (M,) on the CPU."""
        here = chosen.to(self.labels.device)
        return Pooled(
            teacher=[level[here] for level in self.teacher],
            student=[level[here] for level in self.student],
            labels=self.labels[here],
            image_ids=self.image_ids[chosen],
            boxes=self.boxes[chosen],
            rows=self.rows[chosen],
            sides=self.sides[chosen],
        )

    def to(self, device: torch.device) -> Pooled:
        """Return the instances with features and labels on a device; the rest stays on the CPU."""
        return replace(
            self,
            teacher=[level.to(device) for level in self.teacher],
            student=[level.to(device) for level in self.student],
            labels=self.labels.to(device),
        )


@dataclass
class InstancePool:
    """Collects the pooled features of teacher and student, batch by batch."""

    teacher: Detector | None
    """None: the student alone runs."""
    student: Detector
    teacher_levels: Sequence[int]
    student_levels: Sequence[int]
    strides: Sequence[int]
    pooling: Pooling
    device: torch.device
    precision: str = "float32"
    """Precision in which both compute; features are float32 in any case."""
    known: Pooled | None = None
    """Result of an earlier pass over the same boxes, if there was one: the teacher's features are taken from it."""
    zoom: int = 1
    """How many times as large the teacher's pictures are; boxes and strides are in pixels of the student's."""
    _parts: list[Pooled] = field(default_factory=list)

    @property
    def zoom_of_pictures(self) -> int:
        """Return the zoom that pictures must come with; 1 where the teacher does not run."""
        return 1 if self.teacher is None or self.known is not None else self.zoom

    @torch.no_grad()
    def add(self, batch: list[EvalSample], chosen: Sequence[tuple[ImageRecord, np.ndarray]]) -> None:
        """Run the student, and the teacher if there is one, over a batch and pool the chosen boxes of each image.

        Args:
            batch: B resized images.
            chosen: the record of each image and the rows of its boxes that are pooled.
        """
        pictures = pictures_on(self.device, [sample.image for sample in batch])
        numbers = [len(rows) for _, rows in chosen]
        owner = torch.repeat_interleave(
            torch.arange(len(batch)), torch.tensor(numbers), output_size=sum(numbers)
        )
        [image_index] = to_device([owner], self.device)
        boxes = [torch.tensor(record.boxes[rows]) for record, rows in chosen]
        scales = [torch.tensor(sample.scale * 2) for sample in batch]
        resized = torch.cat([b * s for b, s in zip(boxes, scales, strict=True)])
        [on_device] = to_device([resized], self.device)
        places = on_device, image_index, max(numbers)
        teacher = (
            []
            if self.teacher is None or self.known is not None
            else self._pool(self.teacher, self.teacher_levels, self._of_teacher(batch, pictures), *places)
        )
        part = Pooled(
            teacher,
            self._pool(self.student, self.student_levels, pictures, *places),
            torch.cat([torch.from_numpy(record.labels[rows]) for record, rows in chosen]) - 1,
            torch.tensor([sample.image_id for sample in batch])[owner],
            torch.cat(boxes),
            torch.cat([torch.from_numpy(rows) for _, rows in chosen]),
            (resized[:, 2:] - resized[:, :2]).amin(1),
        )
        self._parts.append(part)

    def _of_teacher(self, batch: list[EvalSample], pictures: list[Tensor]) -> list[Tensor]:
        """Return the pictures as the teacher sees them."""
        return pictures if self.zoom == 1 else zoomed_on(self.device, batch)

    def _pool(
        self,
        detector: Detector,
        levels: Sequence[int],
        pictures: list[Tensor],
        boxes: Tensor,
        image_index: Tensor,
        most: int,
    ) -> list[Tensor]:
        with autocast(self.device, self.precision):
            maps, _ = pyramid(detector, pictures)
        return [
            self.pooling(maps[level], boxes, image_index, stride, most)
            for level, stride in zip(levels, self.strides, strict=True)
        ]

    def finish(self, world: World | None = None) -> Pooled:
        """Return everything that all processes of a world collected, in the order of a single process.

        Raises:
            ValueError: the boxes differ from those of the earlier pass.
        """
        if world is not None and world.size > 1:
            parts = world.in_turn([part.to(torch.device("cpu")) for part in self._parts])
            self._parts = [part.to(self.device) for part in parts]
        teacher = zip(*(part.teacher for part in self._parts), strict=True)
        student = zip(*(part.student for part in self._parts), strict=True)
        pooled = Pooled(
            teacher=[torch.cat(level) for level in teacher],
            student=[torch.cat(level) for level in student],
            labels=torch.cat([part.labels for part in self._parts]).to(self.device),
            image_ids=torch.cat([part.image_ids for part in self._parts]),
            boxes=torch.cat([part.boxes for part in self._parts]),
            rows=torch.cat([part.rows for part in self._parts]),
            sides=torch.cat([part.sides for part in self._parts]),
        )
        return pooled if self.known is None else _with_teacher_of(self.known, pooled)


def _with_teacher_of(earlier: Pooled, pooled: Pooled) -> Pooled:
    if not (torch.equal(earlier.image_ids, pooled.image_ids) and torch.equal(earlier.rows, pooled.rows)):
        raise ValueError("the earlier pass pooled other boxes")
    return replace(pooled, teacher=[level.to(pooled.labels.device) for level in earlier.teacher])


def pool_instances(
    pool: InstancePool,
    images: Sequence[ImageRecord],
    choice: Choice,
    image_size: int,
    batch_size: int,
    workers: Workers,
) -> Pooled:
    """Return the features of the chosen boxes of a split, by one pass over the images that have any.

    Args:
        pool: an empty one; its detectors run.
        images: the split.
        choice: which boxes are pooled.
        image_size: longer side in pixels.
        batch_size: images at a time.
        workers: threads that load images.
    """
    chosen = [(images[position], rows) for position, rows in choice.items()]
    parts = iter(chosen)
    records, zoom = [image for image, _ in chosen], pool.zoom_of_pictures
    for batch in eval_batches(records, image_size, batch_size, workers, zoom=zoom):
        pool.add(batch, list(islice(parts, len(batch))))
    return pool.finish()


def pairs(image_ids: Tensor, rows: Tensor) -> list[tuple[int, int]]:
    """Return image id and row of each box, which together identify an object of a data set."""
    return list(zip(image_ids.tolist(), rows.tolist(), strict=True))
