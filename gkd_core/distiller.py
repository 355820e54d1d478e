"""The Distiller: one module whose forward gives every named loss of a step, the student's own and RDM's.

The teacher is frozen, in evaluation mode, runs under `inference_mode` on the same pixels as the student, and is
no part of the module's state. Adapters are: they train with the student and are thrown away afterwards.

Shapes: B pictures, N instances of the batch (ground truth), L levels that both pyramids have (matched by
stride), P prototypes, C classes.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gkd_core import features
from gkd_core.config import Architecture, DistillConfig, incomparable_scores, response_weight
from gkd_core.detectors import Detector, Targets, pyramid
from gkd_core.errors import Problem, SpecError
from gkd_core.instances import InstancePool, Pooled, Pooling
from gkd_core.losses.global_knowledge import global_loss, global_projection_loss
from gkd_core.losses.local import (
    foreground_mask,
    foreground_mask_reference,
    local_losses,
    local_losses_reference,
)
from gkd_core.losses.response import response_sigmoid, response_softmax
from gkd_core.losses.robustness import robustness
from gkd_core.prototypes import (
    Prototypes,
    Selection,
    explained_shares,
    generate,
    joint_reconstruction_error,
    select_kmeans,
    select_orthogonal,
    select_random,
    select_reference,
)


class Instances(NamedTuple):
    """The objects of a batch."""

    boxes: Tensor
    """(N, 4) pixels."""
    labels: Tensor
    """(N,) from 0."""
    image_index: Tensor
    """(N,) which picture of the batch."""
    start: Tensor
    """(B + 1,) instances of picture b are start[b] up to start[b + 1]."""
    most: int
    """Instances of the picture that has the most."""


class Chosen(NamedTuple):
    """The prototypes of a level, as a choice among pooled instances."""

    indices: Tensor
    """(P,) which of the pooled instances they are, class by class."""
    error: float
    """Joint reconstruction error per instance: that of each class, weighted by its instances."""
    shares: Tensor
    """(P,) `explained_shares` of each within its class, on the CPU."""


class Distiller(nn.Module):
    """Student, adapters, and a teacher that is only looked at."""

    teacher_columns: Tensor
    prototypes: list[Prototypes]
    """One per level, set before the first forward and renewed by the epoch."""
    response_weight: float
    """That of the config; `auto` resolved."""
    remarks: tuple[Problem, ...]
    """What a person should know of this pair and that stops nothing."""

    def __init__(
        self, student: Detector, teacher: Detector, config: DistillConfig, teacher_columns: Tensor
    ) -> None:
        """Match the two pyramids by stride.

        Args:
            student: trains.
            teacher: is frozen here.
            config: what is distilled and how strongly.
            teacher_columns: (C,) for each class of the data, its label in the teacher's scores.

        Raises:
            SpecError: no common stride, or a response loss asked for between heads that cannot be compared.
        """
        super().__init__()
        self.student = student
        self._teacher = (teacher.eval().requires_grad_(False),)  # in a tuple: no part of the module's state
        self.config = config
        self.strides = tuple(stride for stride in student.strides if stride in teacher.strides)
        if not self.strides:
            message = f"pyramid strides {student.strides} and {teacher.strides} have none in common"
            raise SpecError([Problem(loc=("student", "architecture"), message=message)])
        self.student_levels = [student.strides.index(stride) for stride in self.strides]
        self.teacher_levels = [teacher.strides.index(stride) for stride in self.strides]
        incomparable = _incomparable(student, teacher)
        self.response_weight = response_weight(config.response.weight, incomparable)
        self.remarks = _remarks(config, incomparable)
        columns = torch.cat([torch.zeros(1, dtype=torch.int64), teacher_columns])  # background stays first
        self.register_buffer("teacher_columns", columns, persistent=False)
        self.adapters = nn.ModuleList(
            nn.Conv2d(student.backbone.out_channels, teacher.backbone.out_channels, 3, padding=1)
            for _ in self.strides
        )
        self.prototypes = []

    @property
    def teacher(self) -> Detector:
        """The frozen teacher."""
        return self._teacher[0]

    @property
    def pooling(self) -> Pooling:
        """How box features are pooled under the chosen conventions."""
        reference = self.config.conventions == "reference"
        return features.pool_reference if reference else features.pool_boxes

    def forward(self, pictures: list[Tensor], targets: Targets, attenuation: float) -> dict[str, Tensor]:
        """The losses of one step.

        Args:
            pictures: B float tensors (3, H, W) in 0..1.
            targets: B dicts with boxes (n, 4) in pixels and labels (n,) from 1.
            attenuation: factor of the global and the local losses, in 0..1.

        Returns:
            Named scalars, weighted as they enter the sum: the student's own, and `distill_*`.
        """
        with outputs_of(self.student.backbone) as maps, outputs_of(scoring_head(self.student)) as scores:
            losses = dict(self.student(pictures, targets))
        student_maps = list(maps[0].values())
        with torch.inference_mode():
            teacher_maps, sizes = pyramid(self.teacher, pictures)
        instances = _instances(targets)
        pooled = [
            self._pool(level, student_maps, teacher_maps, instances) for level in range(len(self.strides))
        ]
        omega = torch.stack(
            [
                robustness(s, t, instances.labels, prototypes)
                for (s, t), prototypes in zip(pooled, self.prototypes, strict=True)
            ]
        )  # (L, N)
        if self.config.global_.weight:
            losses["distill_global"] = attenuation * self._global_loss(pooled, omega)
        if self.config.local.weight:
            foreground, background = self._local_losses(student_maps, teacher_maps, instances, omega)
            losses["distill_foreground"] = attenuation * foreground
            losses["distill_background"] = attenuation * background
        if self.response_weight:
            losses["distill_response"] = self._response_loss(scores[0], teacher_maps, sizes, instances, omega)
        return losses

    # ---- prototypes --------------------------------------------------------------------------------------

    def instance_pool(self, *, untrained: bool = False) -> InstancePool:
        """An empty pool for the features from which prototypes are chosen.

        Args:
            untrained: the student has seen no picture, so its batch norms have no statistics; a copy of it then
                runs with those of each batch, as it does in training.
        """
        return InstancePool(
            teacher=self.teacher,
            student=copy.deepcopy(self.student).train() if untrained else self.student.eval(),
            teacher_levels=self.teacher_levels,
            student_levels=self.student_levels,
            strides=self.strides,
            pooling=self.pooling,
            device=self.teacher_columns.device,
        )

    def choose_prototypes(
        self, pooled: Pooled, level: int, generator: torch.Generator | None = None
    ) -> Chosen:
        """Renew the prototypes of a level.

        Args:
            pooled: features of instances.
            level: which of the common levels.
            generator: for selections that draw, on the CPU; None: one that always starts alike.
        """
        wanted = self.config.prototypes
        teacher, student = pooled.teacher[level], pooled.student[level]
        classes = len(self.teacher_columns) - 1
        select = _selection(wanted.selection, generator or torch.Generator())
        prototypes, indices = generate(
            teacher, student, pooled.labels, classes, wanted.per_class, wanted.alpha, select
        )
        self.prototypes[level : level + 1] = [prototypes]
        error, shares = 0.0, torch.zeros(len(indices))
        for label in pooled.labels.unique():
            members = (pooled.labels == label).nonzero().squeeze(1)
            own = pooled.labels[indices] == label
            space = teacher[members], student[members], torch.searchsorted(members, indices[own])
            error += float(joint_reconstruction_error(*space, wanted.alpha)) * len(members)
            shares[own.cpu()] = explained_shares(*space, wanted.alpha).cpu()
        return Chosen(indices, error / len(pooled.labels), shares)

    # ---- parts -------------------------------------------------------------------------------------------

    def _pool(
        self, level: int, student_maps: list[Tensor], teacher_maps: list[Tensor], instances: Instances
    ) -> tuple[Tensor, Tensor]:
        """Features of all instances on a level: (N, C_s) with gradient, (N, C_t) without."""
        where = (instances.boxes, instances.image_index, self.strides[level], instances.most)
        return (
            self.pooling(student_maps[self.student_levels[level]], *where),
            self.pooling(teacher_maps[self.teacher_levels[level]], *where),
        )

    def _over_levels(self, losses: Sequence[Tensor]) -> Tensor:
        """Averaged in two-stage detectors, summed in one-stage ones, as published."""
        stacked = torch.stack(list(losses))
        return stacked.mean(0) if is_two_stage(self.student) else stacked.sum(0)

    def _global_loss(self, pooled: Sequence[tuple[Tensor, Tensor]], omega: Tensor) -> Tensor:
        loss = global_loss if self.config.global_.form == "cosine" else global_projection_loss
        levels = zip(pooled, omega, self.prototypes, strict=True)
        return self.config.global_.weight * self._over_levels(
            [
                loss(student, teacher, weights, prototypes)
                for (student, teacher), weights, prototypes in levels
            ]
        )

    def _local_losses(
        self, student_maps: list[Tensor], teacher_maps: list[Tensor], instances: Instances, omega: Tensor
    ) -> tuple[Tensor, Tensor]:
        reference = self.config.conventions == "reference"
        make_mask = foreground_mask_reference if reference else foreground_mask
        loss = local_losses_reference if reference else local_losses
        assigned = self._levels_of(instances.boxes)
        parts = []
        for level, stride in enumerate(self.strides):
            student = self.adapters[level](student_maps[self.student_levels[level]])
            teacher = teacher_maps[self.teacher_levels[level]]
            shape = (student.shape[0], *student.shape[-2:])
            mask = make_mask(
                instances.boxes, omega[level], instances.image_index, assigned == level, stride, shape
            )
            scale = 1.0 if reference else _unit_power(teacher)
            parts.append(torch.stack(list(loss(student * scale, teacher * scale, mask))))
        foreground, background = self._over_levels(parts)
        local = self.config.local
        return local.weight * local.foreground * foreground, local.weight * local.background * background

    def _levels_of(self, boxes: Tensor) -> Tensor:
        """(N,) which of the common levels each box belongs to."""
        if self.config.conventions == "reference":
            return features.assign_levels_reference(boxes, len(self.strides))
        return features.assign_levels(boxes, self.strides, self.student.cells_per_box)

    def _response_loss(
        self,
        scores: Any,
        teacher_maps: list[Tensor],
        sizes: list[tuple[int, int]],
        instances: Instances,
        omega: Tensor,
    ) -> Tensor:
        """Teacher and student score the same places: matched anchors, or the student's positive proposals."""
        if is_two_stage(self.student):
            student, owner = self._student_proposals(scores, instances)
            with torch.inference_mode():
                teacher = self._teacher_scores_of_proposals(teacher_maps, sizes)
            weights = omega[
                self._levels_of(instances.boxes), torch.arange(omega.shape[1], device=omega.device)
            ]
            loss = response_softmax(
                student, teacher.clone(), weights[owner], self.config.response.temperature
            )
        else:
            matched = torch.stack(self.student.head.matched)  # (B, A)
            picture, anchor = (matched >= 0).nonzero(as_tuple=True)
            with torch.inference_mode():
                teacher = self.teacher.head.classification_head(teacher_maps)[picture, anchor]
                teacher = teacher[:, self.teacher_columns][:, 1:]
            student = scores["cls_logits"][picture, anchor][:, 1:]
            owner = instances.start[picture] + matched[picture, anchor]
            weights = omega[self._level_of_anchors(teacher_maps, matched.shape[1])[anchor], owner]
            loss = response_sigmoid(student, teacher.clone(), weights, self.config.response.temperature)
        return self.response_weight * loss

    def _level_of_anchors(self, maps: list[Tensor], anchors: int) -> Tensor:
        """(A,) which level each anchor of a picture lies on."""
        cells = [level.shape[-2] * level.shape[-1] for level in maps]
        per_cell = anchors // sum(cells)
        return torch.cat([torch.full((per_cell * count,), level) for level, count in enumerate(cells)]).to(
            maps[0].device
        )

    def _student_proposals(
        self, scores: tuple[Tensor, Tensor], instances: Instances
    ) -> tuple[Tensor, Tensor]:
        """Student scores (M, C + 1) of its positive proposals, and the instance (M,) of each."""
        _, matched, labels = self.student.roi_heads.sampled
        positive = torch.cat(labels) > 0
        owner = torch.cat([start + index for start, index in zip(instances.start, matched, strict=False)])
        return scores[0][positive], owner[positive]

    def _teacher_scores_of_proposals(self, maps: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Teacher scores (M, C + 1) of the student's positive proposals."""
        proposals, _, labels = self.student.roi_heads.sampled
        chosen = [boxes[found > 0] for boxes, found in zip(proposals, labels, strict=True)]
        heads = self.teacher.roi_heads
        named = OrderedDict((str(level), feature) for level, feature in enumerate(maps))
        scores, _ = heads.box_predictor(heads.box_head(heads.box_roi_pool(named, chosen, sizes)))
        return scores[:, self.teacher_columns]


def _selection(name: str, generator: torch.Generator) -> Selection:
    """The function that chooses, by its name in the config."""
    if name in ("kmeans", "random"):
        return partial(select_kmeans if name == "kmeans" else select_random, generator=generator)
    return select_reference if name == "reference" else select_orthogonal


ARCHITECTURES: dict[str, Architecture] = {
    "RetinaNet": "retinanet",
    "FasterRCNN": "faster_rcnn",
    "FCOS": "fcos",
}
"""By torchvision's class."""


def _incomparable(student: Detector, teacher: Detector) -> Problem | None:
    """Why the scores of the two heads cannot be compared place by place."""
    mine, theirs = (ARCHITECTURES[type(detector).__name__] for detector in (student, teacher))
    anchors = None
    if mine == theirs == "retinanet":
        anchors = _finest_anchor(student), _finest_anchor(teacher)
    return incomparable_scores(mine, theirs, anchors)


def _finest_anchor(retinanet: Detector) -> float:
    """Pixels; the other levels follow by powers of two."""
    return float(retinanet.anchor_generator.sizes[0][0])


def _remarks(config: DistillConfig, incomparable: Problem | None) -> tuple[Problem, ...]:
    """That `auto` left the response loss out, and why."""
    if incomparable is None or config.response.weight != "auto":
        return ()
    message = f"distill.response.weight is 0: {incomparable.message}"
    hint = "Nothing is wrong: the other losses carry the distillation."
    return (Problem(loc=("distill", "response", "weight"), message=message, hint=hint),)


def _unit_power(teacher: Tensor) -> Tensor:
    """What a teacher's map is multiplied with to have a mean square of 1.

    The published code compares raw maps, whose size differs between teachers and levels by orders of magnitude, so
    that a weight that suits one pair drowns the detection losses of another. Relative to the teacher's own power
    one weight fits all: a student that gives zeros everywhere has a loss of 1/2 per level.
    """
    return teacher.float().square().mean().clamp_min(1e-12).rsqrt()


def is_two_stage(detector: Detector) -> bool:
    """Whether a detector scores proposals (Faster R-CNN) or every place (RetinaNet, FCOS)."""
    return hasattr(detector, "roi_heads")


def scoring_head(detector: Detector) -> nn.Module:
    """The module whose output holds the class scores."""
    return detector.roi_heads.box_predictor if is_two_stage(detector) else detector.head


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[Any]]:
    """Collect what a module returns while the block runs."""
    collected: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: collected.append(output))
    try:
        yield collected
    finally:
        handle.remove()


def _instances(targets: Targets) -> Instances:
    """The ground truth of a batch, flattened."""
    device = targets[0]["boxes"].device
    numbers = [len(target["labels"]) for target in targets]
    counts = torch.tensor(numbers, device=device)
    return Instances(
        boxes=torch.cat([target["boxes"] for target in targets]),
        labels=torch.cat([target["labels"] for target in targets]) - 1,
        image_index=torch.repeat_interleave(
            torch.arange(len(targets), device=device), counts, output_size=sum(numbers)
        ),
        start=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        most=max(1, *numbers),
    )
