"""What a loss may look at: both models' maps and scores of a batch, its objects, and where they stand.

Everything beyond the maps is computed when a loss first asks for it, and once: a loss that compares maps alone pays for
no prototypes. What is asked for may be used as it is; gradients flow to the student only.

Shapes: B pictures, N instances of the batch (ground truth), L levels that both pyramids have (matched by stride), P
prototypes, C_s and C_t channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gkd_core.compute.transfers import to_device
from gkd_core.compute.world import World
from gkd_core.detectors.detector import Detector, Targets
from gkd_core.distill import features
from gkd_core.distill.bank import PooledPair
from gkd_core.distill.grids import Grids, Slots, visible_cells
from gkd_core.distill.heads import PlaceHeads, RoiHeads
from gkd_core.distill.losses.positions import Positions, positions
from gkd_core.distill.losses.robustness import robustness
from gkd_core.distill.positives import Instances, Positives, is_two_stage, positives_of
from gkd_core.distill.prototypes import Prototypes

NO_PROTOTYPES = (
    "no prototypes yet: call `distiller.update_prototypes(data.train)` before the first step, or fill `pool = "
    "distiller.instance_pool()` with `pool.add(...)` and set `distiller.prototypes = [chosen.prototypes for chosen in "
    "distiller.choose_prototypes(pool.finish())]`"
)


@dataclass
class LossContext:
    """One batch, seen by both models."""

    student: Detector
    """Has just computed its own losses, and remembers which places learnt which object."""
    teacher: Detector
    targets: Targets
    """B dicts with boxes (n, 4) in pixels and labels (n,) from 1."""
    attenuation: float
    """By how much losses that compare features should be turned down, in 0..1; they multiply by it themselves."""
    strides: tuple[int, ...]
    """L, pixels per cell of the common levels, finest first."""
    student_maps: list[Tensor]
    """L of (B, C_s, H, W), with gradient."""
    teacher_maps: list[Tensor]
    """L of (B, C_t, H, W)."""
    teacher_pyramid: list[Tensor]
    """All levels of the teacher, also those that the student lacks; what its heads take."""
    sizes: list[tuple[int, int]]
    """Height and width of each picture before padding."""
    student_scores: Any
    """What the student's scoring head returned."""
    teacher_columns: Tensor
    """(C + 1,) for background and each class of the data, its column in the teacher's scores."""
    modules: Mapping[str, Any]
    """The trainable parts of losses that have any, by the loss's name: what its `modules` returned."""
    adapters: nn.ModuleList
    """L convolutions from C_s to C_t channels; they train with the student."""
    pixels_per_cell: Tensor
    """(L,) `strides`, where the models are."""
    prototypes: Sequence[Prototypes]
    """L, or none where they were not chosen yet."""
    world: World
    """The processes that share the batch."""
    reference: bool = False
    """Whether the published code's conventions hold: `distill.conventions`."""

    # ---- what losses ask for -----------------------------------------------------------------------------

    @cached_property
    def instances(self) -> Instances:
        """The objects of the batch."""
        return Instances.of(self.targets)

    @cached_property
    def positives(self) -> Positives:
        """What the student learnt objects from in this step."""
        return positives_of(self.student, self.instances)

    @cached_property
    def grids(self) -> Grids:
        """Those of the common levels."""
        shapes = [(level.shape[2], level.shape[3]) for level in self.student_maps]
        return Grids.of(self.strides, shapes, self.student_maps[0].device)

    @cached_property
    def slots(self) -> Slots:
        """Those of the objects."""
        return Slots.of(self.instances.image_index, len(self.student_maps[0]), self.instances.most)

    @cached_property
    def level(self) -> Tensor:
        """(N,) int64, which of the common levels each object belongs to."""
        return self.levels_of(self.instances.boxes)

    @cached_property
    def adapted(self) -> list[Tensor]:
        """L of (B, C_t, H, W): the student's maps with the teacher's channels."""
        return [adapter(one) for adapter, one in zip(self.adapters, self.student_maps, strict=True)]

    @cached_property
    def visible(self) -> list[Tensor]:
        """L of (B, 1, H, W): 1.0 in cells of a picture, 0.0 in those that lie in its padding alone."""
        masks = [
            visible_cells(self.sizes, *each) for each in zip(self.strides, self.grids.shapes, strict=True)
        ]
        return to_device(masks, self.student_maps[0].device)

    @cached_property
    def heads(self) -> PlaceHeads:
        """What the heads of a one-stage pair of one family say at the same places."""
        return PlaceHeads(
            self.student,
            self.teacher,
            self.student_scores,
            self.teacher_pyramid,
            self.sizes,
            self.teacher_columns,
        )

    @cached_property
    def rois(self) -> RoiHeads:
        """What the heads of a two-stage pair say of the student's sampled proposals."""
        return RoiHeads(
            self.student,
            self.teacher,
            self.student_scores[0],
            self.teacher_pyramid,
            self.sizes,
            self.teacher_columns,
        )

    @cached_property
    def pooled(self) -> PooledPair:
        """Features of the objects in both spaces, (L, N, C_s) and (L, N, C_t)."""
        return self.pool(self.instances.boxes, self.slots)

    @cached_property
    def pooled_on_own_level(self) -> PooledPair:
        """Features of each object on the level that it belongs to, (N, C_s) and (N, C_t)."""
        objects = torch.arange(len(self.level), device=self.level.device)
        return self.pooled[0][self.level, objects], self.pooled[1][self.level, objects]

    @cached_property
    def positions(self) -> Positions:
        """Where each object stands among the prototypes, (L, N, P) each.

        Raises:
            RuntimeError: prototypes were not chosen yet.
        """
        prototypes = self.require_prototypes()
        return positions(*self.pooled, prototypes)

    @cached_property
    def omega(self) -> Tensor:
        """(L, N) robustness of each object on each level, in 0..1, without gradient.

        Raises:
            RuntimeError: prototypes were not chosen yet.
        """
        # every level has as many prototypes of each class
        return robustness(self.positions, self.instances.labels, self.prototypes[0])

    @cached_property
    def own_omega(self) -> Tensor:
        """(N,) robustness of each object on the level that it belongs to.

        Raises:
            RuntimeError: prototypes were not chosen yet.
        """
        return self.omega[self.level, torch.arange(len(self.level), device=self.level.device)]

    # ---- what losses do ----------------------------------------------------------------------------------

    def require_prototypes(self) -> Prototypes:
        """Return the prototypes of all levels, one tensor for all.

        Raises:
            RuntimeError: they were not chosen yet.
        """
        if not self.prototypes:
            raise RuntimeError(NO_PROTOTYPES)
        return Prototypes.together(list(self.prototypes))

    def pool(self, boxes: Tensor, slots: Slots) -> PooledPair:
        """Pool features of the same boxes (N, 4) in both spaces, (L, N, C_s) and (L, N, C_t)."""
        pool = features.pool_reference_on_levels if self.reference else features.pool_boxes_on_levels
        found = pool([self.student_maps, self.teacher_maps], boxes, slots, self.grids)
        return found[0], found[1]

    def levels_of(self, boxes: Tensor) -> Tensor:
        """(N,) which of the common levels each box belongs to."""
        if self.reference:
            return features.assign_levels_reference(boxes, len(self.strides))
        return features.assign_levels(boxes, self.pixels_per_cell, self.student.cells_per_box)

    def over_levels(self, losses: Tensor) -> Tensor:
        """Of (L, ...) the mean in two-stage detectors, the sum in one-stage ones, as published."""
        return losses.mean(0) if is_two_stage(self.student) else losses.sum(0)

    def of_the_whole(self, mean: Tensor, rows: Tensor) -> Tensor:
        """Turn a mean over this process's rows into its part of the mean over those of all processes."""
        return mean * self.world.share(mean.new_full((), len(rows)))


class Loss(Protocol):
    """A loss of distillation: a frozen value that is called once a step."""

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Return named scalars, weighted as they enter the sum; names begin with `distill_`."""
        ...
