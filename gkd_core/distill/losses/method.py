"""What the losses of other methods have in common: a config, checked, and a formula that a `LossContext` feeds.

A new method is a config in `gkd_core/config/losses.py`, a file here with its formula, and a line in `METHODS`:

    class PkdLoss(FeatureLoss[PkdConfig]):
        config_class = PkdConfig

        def compare(self, student, teacher, visible): ...

Losses are means over pictures, so that two processes with half of the pictures each train as one with all; cells of
padding count nowhere, so that what a picture adds does not depend on the batch that it is in.

Shapes: B pictures, C channels of the teacher's maps, H x W cells of a level, L levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from torch import Tensor, nn

from gkd_core.compute.full_precision import full_precision
from gkd_core.config.loss_base import FeatureLossConfig, LossConfig
from gkd_core.distill.losses.context import Loss, LossContext
from gkd_core.errors import checked

C = TypeVar("C", bound=LossConfig)
M = TypeVar("M", bound=nn.Module)
F = TypeVar("F", bound=FeatureLossConfig)


class Pair(NamedTuple):
    """What a loss may know of both models when its trainable parts are built."""

    student_channels: int
    """Of the pyramid's maps."""
    teacher_channels: int
    levels: int
    """L, common to both pyramids."""


class MethodLoss(ABC, Generic[C]):
    """A loss with a name, a weight and settings; a step reports it as `distill_<name>`."""

    config_class: ClassVar[type[LossConfig]]

    config: C

    def __init__(self, **fields: Any) -> None:
        """Check the fields, those of the config.

        Raises:
            SpecError: a field is wrong.
        """
        self.config = checked(self.config_class, "distill", "losses", **fields)  # type: ignore[assignment]

    @property
    def name(self) -> str:
        """Return the name by which specs list it."""
        return self.config.name

    @property
    def active(self) -> bool:
        """Return whether it adds anything."""
        return self.config.weight != 0

    def modules(self, pair: Pair) -> nn.Module | None:
        """Return what trains with the student and is thrown away afterwards, if there is anything."""
        return None

    @abstractmethod
    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Return named scalars, weighted as they enter the sum."""

    def weighted(self, context: LossContext, of_pictures: Tensor) -> dict[str, Tensor]:
        """Return the named loss as it enters the sum, of values (B,), one a picture."""
        return {
            f"distill_{self.name}": self.factor(context)
            * context.of_the_whole(of_pictures.mean(), of_pictures)
        }

    def factor(self, context: LossContext) -> float:
        """Return what the loss is multiplied by.

        Raises:
            ValueError: `auto` was left for no distiller to settle.
        """
        if self.config.weight == "auto":
            raise ValueError(f"the weight of {self.name} is `auto`, and no distiller has settled it")
        return self.config.weight * (context.attenuation if self.config.attenuated else 1.0)


def modules_of(losses: Sequence[Loss], pair: Pair) -> nn.ModuleDict:
    """Return the trainable parts of the losses that have any, by the loss's name."""
    methods = [loss for loss in losses if isinstance(loss, MethodLoss)]
    return nn.ModuleDict({loss.name: part for loss in methods if (part := loss.modules(pair)) is not None})


class FeatureLoss(MethodLoss[F]):
    """Compares maps level by level; the levels are added up, as all published methods of this kind do."""

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
        """Return (B,) the unweighted loss of each picture on one level.

        Args:
            student: (B, C, H, W) in float32 at least.
            teacher: (B, C, H, W) in float32 at least, without gradient.
            visible: (B, 1, H, W) 1.0 in cells of the picture, 0.0 in its padding.
        """

    def modules(self, pair: Pair) -> nn.Module | None:
        """Return 1x1 convolutions, one a level, where the channels differ."""
        return one_by_one(pair) if pair.student_channels != pair.teacher_channels else None

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        """Compare the finest levels."""
        compare = full_precision(self.compare)
        maps = zip(adapted(self.name, context), context.teacher_maps, context.visible, strict=True)
        levels = [compare(*level) for level in list(maps)[: self.config.levels]]
        return self.weighted(context, sum(levels[1:], levels[0]))


def adapted(name: str, context: LossContext) -> list[Tensor]:
    """Return the student's maps with the teacher's channels, L of (B, C_t, H, W), if need be by a loss's adapters."""
    if name not in context.modules:
        return context.student_maps
    return [adapt(level) for adapt, level in zip(context.modules[name], context.student_maps, strict=True)]


def one_by_one(pair: Pair) -> nn.ModuleList:
    """Return 1x1 convolutions from the student's to the teacher's channels, one a level."""
    return nn.ModuleList(
        nn.Conv2d(pair.student_channels, pair.teacher_channels, 1) for _ in range(pair.levels)
    )


def zeroed(layer: M) -> M:
    """Return a layer with parameters of 0: what it adds starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def masked_mean(values: Tensor, visible: Tensor) -> Tensor:
    """Return (B,) the mean of values (B, C, H, W) over channels and visible cells (B, 1, H, W)."""
    return (values * visible).sum((1, 2, 3)) / (visible.sum((1, 2, 3)).clamp_min(1) * values.shape[1])


def cell_mean(maps: Tensor, visible: Tensor) -> Tensor:
    """Return (B, C) the mean of maps (B, C, H, W) over the visible cells (B, 1, H, W)."""
    return (maps * visible).sum((2, 3)) / visible.sum((2, 3)).clamp_min(1)


def relative_squares(student: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
    """Return (B, C, H, W) squared differences over the teacher's mean square in each picture: zeros give a mean of 1.

    Relative to the teacher's power one weight fits all teachers and levels, whose maps differ by orders of magnitude.

    Args:
        student: (B, C, H, W).
        teacher: (B, C, H, W), without gradient.
        visible: (B, 1, H, W) 1.0 in cells of the picture, 0.0 in its padding.
    """
    power = masked_mean(teacher.square(), visible).clamp_min(1e-12)
    return (student - teacher).square() / power[:, None, None, None]
