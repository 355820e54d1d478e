"""The Distiller: one module whose forward gives every named loss of a step, the student's own and RDM's.

The teacher is frozen, in evaluation mode, runs under `inference_mode` on the same pixels as the student, and is
no part of the module's state. Adapters are: they train with the student and are thrown away afterwards.

Shapes: B pictures, N instances of the batch (ground truth), L levels that both pyramids have (matched by
stride), P prototypes, C classes.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gkd_core.compute.world import World, keep_norms_apart
from gkd_core.config import DistillConfig, incomparable_scores, response_weight
from gkd_core.detectors.build import Detector, Targets, pyramid
from gkd_core.distill import features
from gkd_core.distill.bank import Bank, PooledPair, of_all_processes
from gkd_core.distill.grids import Grids, Slots
from gkd_core.distill.instances import InstancePool, Pooled, Pooling, pairs
from gkd_core.distill.losses.global_knowledge import Positions, global_loss, global_projection_loss, positions
from gkd_core.distill.losses.local import (
    foreground_masks,
    foreground_masks_reference,
    local_losses_on_levels,
    local_losses_reference_on_levels,
)
from gkd_core.distill.losses.response import (
    response_sigmoid,
    response_sigmoid_reference,
    response_softmax,
    response_softmax_reference,
)
from gkd_core.distill.losses.robustness import robustness
from gkd_core.distill.positives import (
    Instances,
    Positives,
    architecture_of,
    has_centre_ness,
    is_two_stage,
    level_of_places,
    outputs_of,
    positives_of,
    scores_of_places,
    scoring_head,
)
from gkd_core.distill.prototypes import (
    Chosen,
    Prototypes,
    Selection,
    generate,
    select_kmeans,
    select_random,
    select_reference,
)
from gkd_core.errors import Problem, SpecError

LOCAL_LOSSES = ("distill_foreground", "distill_background")
ResponseLoss = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(student's scores (N, C), teacher's, weights (N,), temperature) -> scalar."""
NO_PROTOTYPES = (
    "no prototypes yet: fill `pool = distiller.instance_pool()` with `pool.add(...)`, then set `distiller.prototypes = "
    "[chosen.prototypes for chosen in distiller.choose_prototypes(pool.finish())]`, before the first step"
)
NOTHING_TAUGHT = (
    "nothing is distilled, every weight under distill is 0: the student trains as its control does"
)


class Pair(NamedTuple):
    """What both detectors make of a batch."""

    student_maps: list[Tensor]
    """Of each level of the student's pyramid (B, C_s, H, W), with gradient."""
    teacher_maps: list[Tensor]
    """Of each level of the teacher's pyramid (B, C_t, H, W)."""
    sizes: list[tuple[int, int]]
    """Height and width of each picture before padding."""
    student_scores: Any
    """What the student's scoring head returned."""


class Layout(NamedTuple):
    """Where the objects of a batch lie, on all common levels at once."""

    grids: Grids
    """Of the common levels."""
    slots: Slots
    """Of the objects."""
    level: Tensor
    """(N,) int64, which of the common levels each object belongs to."""


class Distiller(nn.Module):
    """Student, adapters, and a teacher that is only looked at."""

    teacher_columns: Tensor
    pixels_per_cell: Tensor
    """(L,) `strides`, where the distiller is."""
    prototypes: list[Prototypes]
    """One per level, set before the first forward and renewed by the epoch."""
    chosen: list[Tensor]
    """Of each level (P, 2) int64: picture id and row of the objects that the prototypes are, on the CPU."""
    response_weight: float
    """That of the config; `auto` resolved."""
    remarks: list[str]
    """What a person should know of this pair and that stops nothing."""
    seen: Pooled | None
    """What the last pass found, without the student's features; None before the first."""
    world: World
    """The processes that share a batch; losses are scaled so that their mean over all is that of the whole batch."""

    def __init__(
        self, student: Detector, teacher: Detector, config: DistillConfig, teacher_columns: Tensor
    ) -> None:
        """Match the two pyramids by stride, the first map of a stride with the first.

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
        # once each: torchvision's MobileNet has two maps of stride 32, and levels are named by their strides
        self.strides = tuple(dict.fromkeys(s for s in student.strides if s in teacher.strides))
        if not self.strides:
            message = f"pyramid strides {student.strides} and {teacher.strides} have none in common"
            raise SpecError([Problem(loc=("student", "architecture"), message=message)])
        self.student_levels = [student.strides.index(stride) for stride in self.strides]
        self.teacher_levels = [teacher.strides.index(stride) for stride in self.strides]
        incomparable = _incomparable(student, teacher)
        self.response_weight = response_weight(config, incomparable)
        self.remarks = _remarks(config, incomparable) + ([] if self.teaches else [NOTHING_TAUGHT])
        columns = torch.cat([torch.zeros(1, dtype=torch.int64), teacher_columns])  # background stays first
        self.register_buffer("teacher_columns", columns, persistent=False)
        self.register_buffer(
            "pixels_per_cell", torch.tensor(self.strides, dtype=torch.float32), persistent=False
        )
        self.adapters = nn.ModuleList(
            nn.Conv2d(student.backbone.out_channels, teacher.backbone.out_channels, 3, padding=1)
            for _ in self.strides
        )
        self.prototypes = []
        self.chosen = []
        self.world = World(columns.device)
        self.bank: Bank | None = None
        self.seen = None
        self._latest: PooledPair | None = None

    @property
    def teacher(self) -> Detector:
        """The frozen teacher."""
        return self._teacher[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        """Move or convert, as `to` and its like ask for, also what is no part of the state: teacher and prototypes."""
        super()._apply(fn, recurse)
        self.teacher._apply(fn, recurse)
        self.prototypes = [Prototypes(*map(fn, level)) for level in self.prototypes]
        return self

    @property
    def teaches(self) -> bool:
        """Whether any loss of distillation has a weight; without one a student trains exactly as in kind `train`."""
        return any((self.config.global_.weight, *_local_weights(self.config), self.response_weight))

    @property
    def _needs_positives(self) -> bool:
        return bool(self.response_weight) or (
            bool(self.config.global_.weight) and self.config.instances == "positives"
        )

    @property
    def pooling(self) -> Pooling:
        """How box features are pooled under the chosen conventions."""
        reference = self.config.conventions == "reference"
        return features.pool_reference if reference else features.pool_boxes

    def is_on(self, epoch: int) -> bool:
        """Whether an epoch (from 0) distils; in others the student trains as its control does, without the teacher."""
        stop = self.config.stop_epoch
        return self.config.start_epoch <= epoch and (stop is None or epoch < stop)

    def forward(self, pictures: list[Tensor], targets: Targets, attenuation: float) -> dict[str, Tensor]:
        """The losses of one step.

        Args:
            pictures: B float tensors (3, H, W) in 0..1.
            targets: B dicts with boxes (n, 4) in pixels and labels (n,) from 1.
            attenuation: factor of the global and the local losses, in 0..1.

        Returns:
            Named scalars, weighted as they enter the sum: the student's own, and `distill_*`.

        Raises:
            RuntimeError: prototypes were not chosen yet.
        """
        if not self.prototypes:
            raise RuntimeError(NO_PROTOTYPES)
        with (
            torch.inference_mode()
        ):  # first: what it needs on the way is gone before the student's maps pile up
            teacher_maps, sizes = pyramid(self.teacher, pictures)
        with outputs_of(self.student.backbone) as maps, outputs_of(scoring_head(self.student)) as scores:
            losses = dict(self.student(pictures, targets))
        pair = Pair(list(maps[0].values()), teacher_maps, sizes, scores[0])
        instances = Instances.of(targets)
        positives = positives_of(self.student, instances) if self._needs_positives else None
        layout = self._layout(pair, instances)
        pooled = self._pool(pair, instances.boxes, layout.slots, layout.grids)
        self._latest = pooled[0].detach(), pooled[1]
        places = self._positions(pooled)
        omega = self._robustness(places, instances.labels)
        if self.config.global_.weight:
            loss = self._global_loss(pair, instances, positives, layout, pooled, places, omega)
            losses["distill_global"] = attenuation * loss
        weights = _local_weights(self.config)
        if any(weights):
            parts = self._local_losses(pair, instances, layout, omega)
            found = zip(LOCAL_LOSSES, weights, parts, strict=True)
            losses.update({name: attenuation * weight * loss for name, weight, loss in found if weight})
        if positives is not None and self.response_weight:
            losses["distill_response"] = self._response_loss(pair, positives, layout, omega)
        return losses

    # ---- prototypes --------------------------------------------------------------------------------------

    def instance_pool(
        self,
        *,
        precision: str = "float32",
        statistics: Literal["batch", "running"] = "batch",
        again: bool = False,
    ) -> InstancePool:
        """Return an empty pool for the features from which prototypes are chosen.

        Args:
            again: for the student's features of some of the objects that were pooled before; those of the teacher
                are not asked for.
            precision: in which detectors compute: float32, bfloat16 or float16.
            statistics: of the student's batch norms. `batch`: a copy of the student runs with those of each batch, as
                the features of a training step, which prototypes are compared with, have them. `running`: the student
                itself in evaluation mode, for one that does not train.
        """
        if statistics == "batch":
            student = keep_norms_apart(_with_batch_statistics(self.student), self.world)
        else:
            student = self.student.eval()
        return InstancePool(
            teacher=None if again else self.teacher,
            student=student,
            teacher_levels=self.teacher_levels,
            student_levels=self.student_levels,
            strides=self.strides,
            pooling=self.pooling,
            device=self.teacher_columns.device,
            precision=precision,
            known=None if again else self.seen,
        )

    def remember(self, pooled: Pooled) -> None:
        """What a pass found: the next one over the same boxes need not run the teacher. Kept in main memory."""
        self.seen = replace(pooled, student=[]).to(torch.device("cpu"))

    @torch.no_grad()
    def refresh(self, pooled: Pooled, *, both: bool = False) -> float:
        """Put newer features of the chosen objects in the place of those that the prototypes hold.

        Args:
            pooled: features of objects, those of the prototypes among them.
            both: also the teacher's: what a bank holds was pooled in augmented pictures, by both models alike.

        Returns:
            The mean cosine of the student's features before and now, in [-1, 1]; 1 without prototypes.
        """
        slots = {origin: slot for slot, origin in enumerate(pairs(pooled.image_ids, pooled.rows))}
        cosines = []
        for level, (old, chosen) in enumerate(zip(self.prototypes, self.chosen, strict=True)):
            where = torch.tensor([slots[origin] for origin in pairs(*chosen.T)], dtype=torch.int64)
            where = where.to(old.student.device)
            student = pooled.student[level][where].float()
            teacher = pooled.teacher[level][where].float() if both else old.teacher
            self.prototypes[level] = old._replace(student=student, teacher=teacher)
            cosines.append(functional.cosine_similarity(old.student, student))
        return float(torch.cat(cosines).mean()) if sum(map(len, cosines)) else 1.0

    def harvest(self, targets: Sequence[dict[str, Tensor]], epoch: int) -> None:
        """Give the bank, if there is one, what the last forward pooled; afterwards it is forgotten.

        Args:
            targets: of each picture boxes and origins, on the CPU.
            epoch: that is trained.
        """
        if self.bank is not None and self._latest is not None:
            levels = list(zip(*self._latest, strict=True))
            self.bank.keep(*of_all_processes(self.world, levels, targets), epoch)
        self._latest = None

    def choose_prototypes(
        self,
        pooled: Pooled,
        generator: torch.Generator | None = None,
        between: Callable[[], object] = lambda: None,
    ) -> list[Chosen]:
        """Choose prototypes for every level; `prototypes` stay as they are.

        Args:
            pooled: features of instances.
            generator: for selections that draw, on the CPU; None: one that always starts alike.
            between: is called now and then; what it raises ends the work.
        """
        wanted = self.config.prototypes
        return generate(
            torch.stack(pooled.teacher),
            torch.stack(pooled.student),
            pooled.labels,
            len(self.teacher_columns) - 1,
            wanted.per_class,
            wanted.alpha,
            _selection(wanted.selection, generator or torch.Generator()),
            between,
        )

    # ---- parts -------------------------------------------------------------------------------------------

    def _layout(self, pair: Pair, instances: Instances) -> Layout:
        """Return where the objects lie on the common levels."""
        finest = [pair.student_maps[level] for level in self.student_levels]
        grids = Grids.of(self.strides, [(m.shape[2], m.shape[3]) for m in finest], finest[0].device)
        slots = Slots.of(instances.image_index, len(finest[0]), instances.most)
        return Layout(grids, slots, self._levels_of(instances.boxes))

    def _pool(self, pair: Pair, boxes: Tensor, slots: Slots, grids: Grids) -> PooledPair:
        """Features of the same boxes in both spaces, (L, N, C_s) and (L, N, C_t)."""
        reference = self.config.conventions == "reference"
        pool = features.pool_reference_on_levels if reference else features.pool_boxes_on_levels
        student = [pair.student_maps[level] for level in self.student_levels]
        teacher = [pair.teacher_maps[level] for level in self.teacher_levels]
        found = pool([student, teacher], boxes, slots, grids)
        return found[0], found[1]

    def _positions(self, pooled: PooledPair) -> Positions:
        """Where each instance stands among the prototypes, (L, N, P) each."""
        return positions(*pooled, Prototypes.together(self.prototypes))

    def _robustness(self, places: Positions, labels: Tensor) -> Tensor:
        """(L, N) omega of each instance on each level."""
        return robustness(places, labels, self.prototypes[0])  # every level has as many of each class

    def _over_levels(self, losses: Tensor) -> Tensor:
        """Of (L, ...) the mean in two-stage detectors, the sum in one-stage ones, as published."""
        return losses.mean(0) if is_two_stage(self.student) else losses.sum(0)

    def _global_loss(
        self,
        pair: Pair,
        instances: Instances,
        positives: Positives | None,
        layout: Layout,
        pooled: PooledPair,
        places: Positions,
        omega: Tensor,
    ) -> Tensor:
        level = layout.level
        if positives is not None and self.config.instances == "positives":
            places = self._positions(self._pool_positives(pair, positives, layout, pooled))
            omega = self._robustness(places, instances.labels[positives.owner])
            level = self._levels_of(positives.boxes)
        weights = omega if self.config.global_.robust else torch.ones_like(omega)
        weights = weights * self._counts_on_level(level)
        loss = global_loss if self.config.global_.form == "cosine" else global_projection_loss
        losses = loss(places, weights)
        found = self._over_levels(losses) if self._on_all_levels else losses.sum(0)
        return self.config.global_.weight * self._of_the_whole(found, weights[0])

    @property
    def _on_all_levels(self) -> bool:
        """Whether an object counts on every level in the global loss, as published."""
        return self.config.conventions == "reference" or self.config.global_.levels == "all"

    def _counts_on_level(self, own: Tensor) -> Tensor:
        """(L, N) bool: on which levels each box counts in the global loss, by its own level (N,)."""
        level = torch.arange(len(self.strides), device=own.device)[:, None]
        if self._on_all_levels:
            return (level >= 0).expand(-1, len(own))
        reach = 1 if self.config.global_.levels == "neighbours" else 0
        return (level - own).abs() <= reach

    def _pool_positives(
        self, pair: Pair, positives: Positives, layout: Layout, pooled: PooledPair
    ) -> PooledPair:
        """Features in the boxes of the positives; those of FCOS are the objects', which are pooled already."""
        owner = positives.owner
        if architecture_of(self.student) == "fcos":
            return pooled[0][:, owner], pooled[1][:, owner]
        slots = Slots.of(positives.image_index, layout.slots.images, max(1, positives.most))
        return self._pool(pair, positives.boxes, slots, layout.grids)

    def _local_losses(
        self, pair: Pair, instances: Instances, layout: Layout, omega: Tensor
    ) -> tuple[Tensor, Tensor]:
        reference = self.config.conventions == "reference"
        paint = foreground_masks_reference if reference else foreground_masks
        compare = local_losses_reference_on_levels if reference else local_losses_on_levels
        weights = omega if self.config.local.robust else torch.ones_like(omega)
        masks = paint(instances.boxes, weights, layout.level, layout.grids, layout.slots)
        maps = (pair.student_maps[level] for level in self.student_levels)
        students = [adapter(one) for adapter, one in zip(self.adapters, maps, strict=True)]
        teachers = [pair.teacher_maps[level] for level in self.teacher_levels]
        found = compare(students, teachers, masks)
        parts = found.losses if reference else found.losses * self._per_power(teachers)[:, None]
        foreground, background = self._over_levels(parts * self.world.share(found.sizes)).unbind()
        return foreground, background

    def _levels_of(self, boxes: Tensor) -> Tensor:
        """(N,) which of the common levels each box belongs to."""
        if self.config.conventions == "reference":
            return features.assign_levels_reference(boxes, len(self.strides))
        return features.assign_levels(boxes, self.pixels_per_cell, self.student.cells_per_box)

    def _response_loss(self, pair: Pair, positives: Positives, layout: Layout, omega: Tensor) -> Tensor:
        """Teacher and student score the same places: matched anchors, or the student's positive proposals."""
        response = self.config.response
        compare = self._proposal_scores if is_two_stage(self.student) else self._place_scores
        student, teacher, level = compare(pair, positives, layout)
        weights = omega[level, positives.owner] if response.robust else torch.ones_like(student[:, 0])
        found = self._response_form(student, teacher, weights, response.temperature)
        return self.response_weight * self._of_the_whole(found, weights)

    @property
    def _response_form(self) -> ResponseLoss:
        """The divergence that fits what the student's scores mean."""
        reference = self.config.conventions == "reference"
        if is_two_stage(self.student):
            return response_softmax_reference if reference else response_softmax
        return response_sigmoid_reference if reference else response_sigmoid

    def _of_the_whole(self, mean: Tensor, rows: Tensor) -> Tensor:
        """A mean over this process's rows as a part of the mean over those of all."""
        return mean * self.world.share(mean.new_full((), len(rows)))

    def _per_power(self, teachers: Sequence[Tensor]) -> Tensor:
        """(L,) 1 / mean square of each of a teacher's maps, over the pictures of all processes.

        The published code compares raw maps, whose size differs between teachers and levels by orders of magnitude, so
        that a weight that suits one pair drowns the detection losses of another. Relative to the teacher's own power
        one weight fits all: a student that gives zeros everywhere has a loss of 1/2 per level.
        """
        lengths = [
            torch.linalg.vector_norm(each, dtype=torch.float32) / each.numel() ** 0.5 for each in teachers
        ]
        return self.world.mean(torch.stack(lengths).square()).clamp_min(1e-12).reciprocal()

    def _place_scores(
        self, pair: Pair, positives: Positives, _layout: Layout
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of student and teacher (M, C) at the matched anchors or locations, and the level (M,) of each."""
        at = positives.image_index, positives.place
        ranked = has_centre_ness(self.student) != has_centre_ness(self.teacher)
        scores = scores_of_places(pair.student_scores, ranked)
        with torch.inference_mode():
            teacher = self._teacher_scores_of_places(pair.teacher_maps, ranked)[at][:, self.teacher_columns]
        levels = level_of_places(pair.teacher_maps, scores.shape[1])
        return scores[at][:, 1:], teacher[:, 1:].clone(), levels[positives.place]

    def _teacher_scores_of_places(self, maps: list[Tensor], ranked: bool) -> Tensor:
        """Teacher scores (B, A, C + 1); boxes are only predicted where the scores need them."""
        head = self.teacher.head
        outputs = head(maps) if ranked else {"cls_logits": head.classification_head(maps)}
        return scores_of_places(outputs, ranked)

    def _proposal_scores(
        self, pair: Pair, positives: Positives, layout: Layout
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of student and teacher (M, C + 1) for the student's positive proposals; the level (M,) of their objects."""
        with torch.inference_mode():
            teacher = self._teacher_scores_of_proposals(pair.teacher_maps, pair.sizes)
        levels = layout.level[positives.owner]
        return pair.student_scores[0][positives.place], teacher.clone(), levels

    def _teacher_scores_of_proposals(self, maps: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Teacher scores (M, C + 1) of the student's positive proposals."""
        proposals, _, labels = self.student.roi_heads.sampled
        chosen = [boxes[found > 0] for boxes, found in zip(proposals, labels, strict=True)]
        heads = self.teacher.roi_heads
        named = OrderedDict((str(level), feature) for level, feature in enumerate(maps))
        scores, _ = heads.box_predictor(heads.box_head(heads.box_roi_pool(named, chosen, sizes)))
        return scores[:, self.teacher_columns]


def _with_batch_statistics(detector: Detector) -> Detector:
    """Return a copy whose batch norms alone are in training.

    Stochastic depth and dropout would draw random numbers, which the control does not, and blur the features.
    """
    twin = copy.deepcopy(detector).train()  # frozen stages know that they stay as they are
    for module in twin.modules():
        module.training &= isinstance(module, nn.modules.batchnorm._BatchNorm)
    return twin


def _selection(name: str, generator: torch.Generator) -> Selection | None:
    """The function that chooses, by its name in the config; None for `generate`'s own, which takes many classes at
    once."""
    if name in ("kmeans", "random"):
        return partial(select_kmeans if name == "kmeans" else select_random, generator=generator)
    return select_reference if name == "reference" else None


def _incomparable(student: Detector, teacher: Detector) -> Problem | None:
    """Why the scores of the two heads cannot be compared place by place."""
    mine, theirs = architecture_of(student), architecture_of(teacher)
    anchors = None
    if mine == theirs == "retinanet":
        anchors = _finest_anchor(student), _finest_anchor(teacher)
    return incomparable_scores(mine, theirs, anchors)


def _finest_anchor(retinanet: Detector) -> float:
    """Pixels; the other levels follow by powers of two."""
    return float(retinanet.anchor_generator.sizes[0][0])


def _local_weights(config: DistillConfig) -> tuple[float, float]:
    """Of the local loss inside and outside of boxes."""
    local = config.local
    return local.weight * local.foreground, local.weight * local.background


def _remarks(config: DistillConfig, incomparable: Problem | None) -> list[str]:
    """That `auto` left the response loss out, and why."""
    if incomparable is None or config.response.weight != "auto":
        return []
    return [f"the response loss is left out: {incomparable.message}"]
