"""What the configs of all listed losses have in common; the methods themselves are in `losses.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gkd_core.config.detector import Architecture
from gkd_core.config.strict import Strict

NAME = "The method."
Weight = Annotated[float, Field(ge=0)] | Literal["auto"]


class LossConfig(Strict):
    """What the losses of all methods have in common."""

    one_stage: ClassVar[float]
    """What `auto` stands for with a RetinaNet or FCOS student."""
    two_stage: ClassVar[float]
    """The same with a Faster R-CNN student."""
    compares_heads: ClassVar[bool] = False
    """Whether scores or boxes of the two heads are compared place by place, so that both must be of one family."""
    families: ClassVar[tuple[Architecture, ...]] = ("retinanet", "faster_rcnn", "fcos")
    """The students that it fits."""

    name: str
    weight: Weight = "auto"
    """Multiplies the loss. `auto`: as published for the student's family."""
    attenuated: bool = False
    """Multiply by `distill.attenuation` too, which turns the global and the local loss down towards the end."""

    def needs_equal_heads(self) -> bool:
        """Return whether both models must be of one family with these settings."""
        return self.compares_heads

    def misfit(self, student: Architecture) -> str | None:
        """Return why students of a family cannot have this loss with these settings; None if they can."""
        if student in self.families:
            return None
        return f"it fits {' and '.join(self.families)} students, not {student}"


class FeatureLossConfig(LossConfig):
    """Losses that compare the feature maps of the pyramids level by level."""

    levels: int = Field(default=5, ge=1, le=5)
    """How many of the common levels are compared, from the finest on."""
