"""The Distiller: one module whose forward gives every named loss of a step, the student's own and RDM's.

The teacher is frozen, in evaluation mode, runs under `inference_mode` on the same pixels as the student, or on the
same part of the picture with 2 or 4 times as many on each side, and is no part of the module's state. Adapters are:
they train with the student and are thrown away afterwards.

Shapes: B pictures, N instances of the batch (ground truth), L levels that both pyramids have (matched by
stride), P prototypes, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from gkd_core.compute.world import World, keep_norms_apart
from gkd_core.config import DistillConfig, Workers
from gkd_core.data.records import HasImages, ImageRecord
from gkd_core.detectors.detector import Detector, Targets, as_module
from gkd_core.detectors.norms import with_batch_statistics
from gkd_core.detectors.predict import image_size_of
from gkd_core.distill import features
from gkd_core.distill.bank import Bank, PooledPair, of_all_processes
from gkd_core.distill.freshness import with_newer_features
from gkd_core.distill.instances import InstancePool, Pooled, choose_instances, pool_instances
from gkd_core.distill.losses import Loss, LossContext, of_config
from gkd_core.distill.losses.method import Pair, modules_of
from gkd_core.distill.pairing import (
    classes_of,
    common_levels,
    remarks_on,
    why_incomparable,
    with_settled_weights,
)
from gkd_core.distill.positives import outputs_of, scoring_head
from gkd_core.distill.prototypes import Chosen, Prototypes, generate, selection_called
from gkd_core.distill.teacher import match_classes, pyramid_on_cells_of

NOTHING_TAUGHT = (
    "nothing is distilled, every weight under distill is 0: the student trains as its control does"
)


class Distiller(nn.Module):
    """Student, adapters, and a teacher that is not trained."""

    teacher_columns: Tensor
    pixels_per_cell: Tensor
    """(L,) `strides`, where the distiller is."""
    prototypes: list[Prototypes]
    """One per level, set before the first forward and renewed by the epoch."""
    chosen: list[Tensor]
    """Of each level (P, 2) int64: picture id and row of the objects that the prototypes are, on the CPU."""
    losses: tuple[Loss, ...]
    """What is distilled, in the order in which a step computes it; `auto` resolved."""
    remarks: list[str]
    """What a person should know of this pair and that stops nothing."""
    cached: Pooled | None
    """What the last pass found, without the student's features; None before the first."""
    world: World
    """The processes that share a batch; losses are scaled so that their mean over all is that of the whole batch."""

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        config: DistillConfig | None = None,
        teacher_columns: Tensor | None = None,
        *,
        losses: Sequence[Loss] | None = None,
        zoom: int = 1,
    ) -> None:
        """Match the two pyramids by the size of their cells on the student's pictures, the first map with the first.

        Args:
            student: trains.
            teacher: is frozen here.
            config: what is distilled and how strongly, and how prototypes are chosen; None: the defaults.
            teacher_columns: (C,) for each class of the data, its label in the teacher's scores; None: both detectors
                know their classes, which are matched by name.
            losses: what is distilled; None: what the config says. Of one without a weight nothing is computed.
            zoom: 1, 2 or 4, how many times as large the teacher's pictures are. Its map of stride 16 then is on the
                cells of the student's stride 8, and `strides`, boxes and grids are those of the student's pictures.

        Raises:
            SpecError: no common stride, or a response loss asked for between heads that cannot be compared.
        """
        super().__init__()
        self.student: Detector = student
        self._teacher = (teacher.eval().requires_grad_(False),)  # in a tuple: no part of the module's state
        self.config = config or DistillConfig()
        self.zoom = zoom
        self.strides, self.student_levels, self.teacher_levels = common_levels(student, teacher, zoom)
        incomparable = why_incomparable(student, teacher, zoom)
        wanted = of_config(self.config) if losses is None else losses
        settled = with_settled_weights(wanted, student, self.config, incomparable)
        self.losses = tuple(loss for loss in settled if getattr(loss, "active", True))
        self.remarks = remarks_on(wanted, incomparable) + ([] if self.has_losses else [NOTHING_TAUGHT])
        if teacher_columns is None:
            teacher_columns = match_classes(classes_of(teacher), classes_of(student))
        columns = torch.cat([torch.zeros(1, dtype=torch.int64), teacher_columns])  # background stays first
        self.register_buffer("teacher_columns", columns, persistent=False)
        self.register_buffer(
            "pixels_per_cell", torch.tensor(self.strides, dtype=torch.float32), persistent=False
        )
        self.adapters = nn.ModuleList(
            nn.Conv2d(student.backbone.out_channels, teacher.backbone.out_channels, 3, padding=1)
            for _ in self.strides
        )
        channels = student.backbone.out_channels, teacher.backbone.out_channels
        self.loss_modules = modules_of(self.losses, Pair(*channels, len(self.strides)))
        self.prototypes = []
        self.chosen = []
        self.world = World(columns.device)
        self.bank: Bank | None = None
        self.cached = None
        self._seen_in: tuple[Sequence[ImageRecord], int, int] | None = None
        self._latest: PooledPair | None = None

    @property
    def teacher(self) -> Detector:
        """Return the frozen teacher."""
        return self._teacher[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        """Move or convert, as `to` and its like ask for, also what is no part of the state: teacher and prototypes."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        as_module(self.teacher)._apply(fn, recurse)
        self.prototypes = [Prototypes(*map(fn, level)) for level in self.prototypes]
        return self

    def auxiliary_parameters(self) -> Iterator[nn.Parameter]:
        """Return what trains with the student and is thrown away afterwards."""
        return chain(self.adapters.parameters(), self.loss_modules.parameters())

    @property
    def has_losses(self) -> bool:
        """Return whether any loss of distillation has a weight.

        Without one a student trains exactly as in kind `train`.
        """
        return bool(self.losses)

    def is_on(self, epoch: int) -> bool:
        """Return whether an epoch (from 0) distils.

        In others the student trains as its control does, without the teacher.
        """
        stop = self.config.stop_epoch
        return self.config.start_epoch <= epoch and (stop is None or epoch < stop)

    def forward(
        self,
        pictures: list[Tensor],
        targets: Targets,
        attenuation: float = 1.0,
        zoomed: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses of one step.

        Args:
            pictures: B float tensors (3, H, W) in 0..1.
            targets: B dicts with boxes (n, 4) in pixels and labels (n,) from 1.
            attenuation: factor of the global and the local losses, in 0..1.
            zoomed: B tensors (3, zoom x H, zoom x W), what the teacher sees; None where `zoom` is 1.

        Returns:
            Named scalars, weighted as they enter the sum: the student's own, and `distill_*`.

        Raises:
            RuntimeError: a loss asked for prototypes, and they were not chosen yet.
            ValueError: two losses have one name, or `zoomed` is missing or of another size.
        """
        context, losses = self.look(pictures, targets, attenuation, zoomed)
        for loss in self.losses:
            found = loss(context)
            if twice := losses.keys() & found.keys():
                raise ValueError(f"two losses are called {', '.join(sorted(twice))}")
            losses.update(found)
        self._latest = self._pooled_by(context)
        return losses

    def look(
        self,
        pictures: list[Tensor],
        targets: Targets,
        attenuation: float,
        zoomed: list[Tensor] | None = None,
    ) -> tuple[LossContext, dict[str, Tensor]]:
        """Run both models on a batch; return what losses may look at, and the student's own losses."""
        with torch.inference_mode():  # first: what it needs is gone before the student's maps pile up
            teacher_pyramid = pyramid_on_cells_of(self.student, self.teacher, pictures, zoomed, self.zoom)
        if not self.student.training:  # after it was asked what is on a picture
            self.student.train()
        with outputs_of(self.student.backbone) as maps, outputs_of(scoring_head(self.student)) as scores:
            losses = dict(self.student(pictures, targets))
        student_pyramid = list(maps[0].values())
        context = LossContext(
            student=self.student,
            teacher=self.teacher,
            targets=targets,
            attenuation=attenuation,
            strides=self.strides,
            student_maps=[student_pyramid[level] for level in self.student_levels],
            teacher_maps=[teacher_pyramid[level] for level in self.teacher_levels],
            teacher_pyramid=teacher_pyramid,
            sizes=[(picture.shape[1], picture.shape[2]) for picture in pictures],
            student_scores=scores[0],
            teacher_columns=self.teacher_columns,
            modules=dict(self.loss_modules.items()),
            adapters=self.adapters,
            pixels_per_cell=self.pixels_per_cell,
            prototypes=self.prototypes,
            world=self.world,
            reference=self.config.conventions == "reference",
        )
        return context, losses

    def _pooled_by(self, context: LossContext) -> PooledPair | None:
        """Return what a step pooled, for the bank if there is one, else where a loss asked for it."""
        if self.bank is None and "pooled" not in vars(context):
            return None
        student, teacher = context.pooled
        return student.detach(), teacher

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
        pooling = features.pool_reference if self.config.conventions == "reference" else features.pool_boxes
        student: Detector
        if statistics == "batch":
            student = keep_norms_apart(with_batch_statistics(self.student), self.world)
        else:
            student = self.student.eval()
        return InstancePool(
            teacher=None if again else self.teacher,
            student=student,
            teacher_levels=self.teacher_levels,
            student_levels=self.student_levels,
            strides=self.strides,
            pooling=pooling,
            device=self.teacher_columns.device,
            precision=precision,
            known=None if again else self.cached,
            zoom=self.zoom,
        )

    def cache_teacher_features(self, pooled: Pooled) -> None:
        """Keep what a pass pooled in main memory: the next one over the same boxes need not run the teacher."""
        self.cached = replace(pooled, student=[]).to(torch.device("cpu"))

    def refresh(self, pooled: Pooled, *, both: bool = False) -> float:
        """Put newer features of the chosen objects in the place of those that the prototypes hold.

        Args:
            pooled: features of objects, those of the prototypes among them.
            both: also the teacher's: what a bank holds was pooled in augmented pictures, by both models alike.

        Returns:
            The mean cosine of the student's features before and now, in [-1, 1]; 1 without prototypes.
        """
        self.prototypes, cosine = with_newer_features(self.prototypes, self.chosen, pooled, both=both)
        return cosine

    def update_bank(self, targets: Sequence[dict[str, Tensor]], epoch: int) -> None:
        """Pass what the last forward pooled to the bank, if there is one, and forget it.

        Args:
            targets: of each picture boxes and origins, on the CPU.
            epoch: that is trained.
        """
        if self.bank is not None and self._latest is not None:
            levels = list(zip(*self._latest, strict=True))
            self.bank.keep(*of_all_processes(self.world, levels, targets), epoch)
        self._latest = None

    def update_prototypes(
        self,
        split: HasImages,
        *,
        image_size: int | None = None,
        batch_size: int = 8,
        workers: Workers = "auto",
        seed: int = 0,
    ) -> None:
        """Choose prototypes anew, by a pass over the pictures of a split; the first time the teacher runs too.

        Args:
            split: with `images`, the training split.
            image_size: longer side in pixels; None: the student's own.
            batch_size: pictures at a time.
            workers: threads that load pictures.
            seed: decides which objects are pooled where a class has many, and for selections that draw.

        Raises:
            SpecError: nobody says how large pictures are.
        """
        size = image_size or image_size_of(self.student)
        if self._seen_in is None or self._seen_in[0] is not split.images or self._seen_in[1:] != (size, seed):
            self.cached = None  # the teacher found it in other boxes
        classes = len(self.teacher_columns) - 1
        choice = choose_instances(split.images, classes, size, self.config.prototypes, seed)
        pooled = pool_instances(self.instance_pool(), split.images, choice, size, batch_size, workers)
        self.cache_teacher_features(pooled)
        self._seen_in = split.images, size, seed
        levels = self.choose_prototypes(pooled, torch.Generator().manual_seed(seed))
        self.prototypes = [chosen.prototypes for chosen in levels]
        self.chosen = [pooled.origins(chosen.indices) for chosen in levels]

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
        wanted, classes = self.config.prototypes, len(self.teacher_columns) - 1
        selection = selection_called(wanted.selection, generator or torch.Generator())
        both = torch.stack(pooled.teacher), torch.stack(pooled.student)
        return generate(*both, pooled.labels, classes, wanted.per_class, wanted.alpha, selection, between)
