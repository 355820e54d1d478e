"""One process's share of a micro-batch: the mean loss over processes is that of the whole micro-batch.

Three things in a detector depend on the other images of a batch: padding, sampling of anchors and proposals, and the
normalisation of its losses. Here they are made to depend on the whole micro-batch. Distillation losses are normalised
in the distiller itself (`World.share`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from gkd_core.compute.world import World
from gkd_core.config import TrainConfig
from gkd_core.detectors.adapt import padded_to
from gkd_core.detectors.detector import Detector
from gkd_core.detectors.fcos import AlignedHead
from gkd_core.distill.positives import architecture_of
from gkd_core.errors import Problem, SpecError
from gkd_core.training.sampling import key_samplers, seed_of


def require_equal_shares(images: int, recipe: TrainConfig, processes: int) -> None:
    """Raise unless processes, which average their losses, get equally many images each.

    Raises:
        SpecError: a micro-batch cannot be shared out evenly, or the split has too few pictures to fill a batch.
    """
    if processes == 1:
        return
    together, whole = recipe.batch_size // recipe.accumulate, processes * recipe.accumulate
    if together % processes:
        message = f"{together} pictures at a time cannot be shared out evenly to {processes} processes"
        hint = f"Take a multiple of {whole}, or another number of GPUs."
    elif images < recipe.batch_size:
        message = f"{processes} processes share whole batches, and {images} pictures are less than one"
        hint = f"Take a multiple of {whole} that is at most {images}, or one GPU."
    else:
        return
    raise SpecError([Problem(loc=("train", "batch_size"), message=message, hint=hint)])


class BatchShare:
    """The part of each micro-batch that one process computes.

    Args:
        world: the processes.
        student: the detector that trains; its samplers are replaced.
        teacher: gets the same images.
        seed: of the recipe.
    """

    def __init__(self, world: World, student: Detector, teacher: Detector | None, seed: int) -> None:
        self._world = world
        self._student = student
        self._detectors = [student] if teacher is None else [student, teacher]
        self._samplers = key_samplers(student)
        self._seed = seed

    @contextmanager
    def of_step(self, step: int, start: int, pictures: Sequence[Tensor]) -> Iterator[None]:
        """Set padding and random streams for the forward pass of a micro-batch while the block runs.

        Args:
            step: of the whole training, from 0.
            start: where the micro-batch begins in this process's share of the batch.
            pictures: B tensors (3, H, W).
        """
        world = self._world
        places = [(start + index) * world.size + world.rank for index in range(len(pictures))]
        for sampler in self._samplers:
            sampler.keys = [(self._seed, step, place) for place in places]
        if world.size > 1:
            # for other random operations, such as stochastic depth: differs by process, same after resuming
            torch.manual_seed(seed_of(self._seed, step, start, world.rank))
        height, width = world.largest(*(max(picture.shape[side] for picture in pictures) for side in (1, 2)))
        with padded_to(height, width, *self._detectors):
            yield

    def scaled(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of the last forward pass, the detector's own rescaled from local to global means."""
        if self._world.size == 1:
            return losses
        own = [name for name in losses if not name.startswith("distill_")]
        return losses | {name: losses[name] * factor for name, factor in self._factors(own).items()}

    def _factors(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the factor of each loss.

        RetinaNet's losses are means over images, of which all processes have the same number, and need none.
        """
        match architecture_of(self._student):
            case "fcos":  # divided by the summed quality; torchvision's own by its matched locations
                head = self._student.head
                aligned = isinstance(head, AlignedHead)
                rows = head.quality if aligned else (torch.stack(head.matched) >= 0).sum()
                return dict.fromkeys(names, self._world.share(rows))
            case "faster_rcnn":  # divided by the sampled anchors, and by the sampled proposals
                rows = [sampler.rows.to(self._world.device) for sampler in self._samplers]
                anchors, proposals = self._world.share(torch.stack(rows))
                of_anchors = ("loss_objectness", "loss_rpn_box_reg")
                return {name: anchors if name in of_anchors else proposals for name in names}
            case _:
                return {}
