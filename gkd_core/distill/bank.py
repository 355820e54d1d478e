"""The feature bank: the latest features of the chosen boxes, as training steps compute them anyway.

Prototypes can be chosen from it without a pass over the images. It holds the boxes that a pass would pool
(`instances.choose_instances`), and starts with the features of a pass. From then on the features that the distiller
pools in a training step replace older ones of the same box. They come from the student in training: augmented images,
batch norm statistics of the batch.

Nothing here is random or synchronises with the GPU: boxes are identified by their annotations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from gkd_core.compute.transfers import to_device
from gkd_core.compute.world import World
from gkd_core.distill.instances import Pooled, pairs

PooledPair = tuple[Tensor, Tensor]
"""Features of the same N boxes on a level: the student's (N, C_s), the teacher's (N, C_t)."""


class Bank:
    """The latest features of the chosen boxes, level by level, and the epoch that they are from."""

    def __init__(self, pooled: Pooled, min_box_side: float, epoch: int) -> None:
        """Start with the features of a pass.

        Args:
            pooled: features of the pass; modified in place from now on.
            min_box_side: shorter side of a box, in pixels of the training image, from which its features are kept;
                those of a box that was pooled although it is smaller, because its class has no others, are always
                kept.
            epoch: the last one that the student was trained in; -1 before the first.
        """
        self._pooled = pooled
        self._epochs = torch.full((len(pooled.labels),), epoch)
        self._least = torch.where(pooled.sides >= min_box_side, min_box_side, 0.0).tolist()
        self._slots = {origin: slot for slot, origin in enumerate(pairs(pooled.image_ids, pooled.rows))}

    def keep(self, levels: Sequence[PooledPair], targets: Sequence[dict[str, Tensor]], epoch: int) -> None:
        """Replace the features of the boxes of a batch.

        Args:
            levels: what the distiller pooled in the boxes of the batch.
            targets: of each picture boxes (n, 4) in its pixels and origins (n, 2), on the CPU.
            epoch: that is being trained, from 0.
        """
        newest = self._newest(targets)
        if not newest:
            return
        where = [torch.tensor(list(newest.keys())), torch.tensor(list(newest.values()))]
        slots, rows = to_device(where, self._pooled.labels.device)
        for level, (student, teacher) in enumerate(levels):
            self._pooled.student[level].index_copy_(0, slots, student.detach()[rows])
            self._pooled.teacher[level].index_copy_(0, slots, teacher[rows])
        self._epochs[list(newest)] = epoch

    def _newest(self, targets: Sequence[dict[str, Tensor]]) -> dict[int, int]:
        """Return by slot of the bank the row in the batch; of a box that a mosaic shows twice the later one."""
        origins = torch.cat([target["origins"] for target in targets])
        boxes = torch.cat([target["boxes"] for target in targets])
        sides = (boxes[:, 2:] - boxes[:, :2]).amin(1).tolist()
        found = {}
        for row, (origin, side) in enumerate(zip(pairs(*origins.T), sides, strict=True)):
            slot = self._slots.get(origin)
            if slot is not None and side >= self._least[slot]:
                found[slot] = row
        return found

    def pooled(self, at_least: int) -> Pooled:
        """Return each class's features of the last epoch; where these are fewer than `at_least`, older ones too."""
        labels = self._pooled.labels.cpu()
        kept = torch.zeros_like(labels, dtype=torch.bool)
        for label in labels.unique():
            own = labels == label
            newest = self._epochs[own].sort(descending=True).values
            kept |= own & (self._epochs >= newest[min(at_least, len(newest)) - 1])
        return self._pooled.take(kept.nonzero().squeeze(1))

    def latest(self) -> Pooled:
        """Return the latest features of every box."""
        return self._pooled

    # ---- saving and restoring ----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return everything that `of_state` needs."""
        pooled = {field.name: getattr(self._pooled, field.name) for field in fields(Pooled)}
        return {"pooled": pooled, "epochs": self._epochs, "least": self._least}

    @classmethod
    def of_state(cls, state: dict[str, Any], device: torch.device) -> Bank:
        """Restore a bank from its state."""
        bank = cls(Pooled(**state["pooled"]).to(device), 0.0, -1)
        bank._epochs, bank._least = state["epochs"], state["least"]
        return bank


def of_all_processes(
    world: World, levels: Sequence[PooledPair], targets: Sequence[dict[str, Tensor]]
) -> tuple[Sequence[PooledPair], Sequence[dict[str, Tensor]]]:
    """Return what all processes pooled in a batch, image by image in the order of the whole batch.

    So all of them hold the same bank, and it equals that of a single process.

    Args:
        world: the processes.
        levels: what this one pooled in the boxes of its pictures.
        targets: those of its pictures, on the CPU.
    """
    if world.size == 1:
        return levels, targets
    counts = [len(target["boxes"]) for target in targets]
    split = [[side.cpu().split(counts) for side in pair] for pair in levels]
    mine = [
        (target, [[side[at].clone() for side in pair] for pair in split]) for at, target in enumerate(targets)
    ]
    pictures = world.in_turn(mine)
    joined: list[PooledPair] = []
    for level in range(len(levels)):
        student, teacher = (torch.cat([found[level][side] for _, found in pictures]) for side in (0, 1))
        joined.append((student.to(world.device), teacher.to(world.device)))
    return joined, [target for target, _ in pictures]
