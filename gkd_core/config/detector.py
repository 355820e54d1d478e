"""Which detector is built and trained, and which trained detector is a teacher."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, model_validator

from gkd_core.config.strict import Strict, wrong_at

Architecture = Literal["retinanet", "faster_rcnn", "fcos"]

TORCHVISION_BACKBONES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("mobilenet_v3_small", "mobilenet_v3_large"),
    *(f"efficientnet_b{size}" for size in range(8)),
    *("efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l"),
)
"""Backbones from torchvision; any other comes from timm, as `timm:<name>`."""


def _known_backbone(name: str) -> str:
    if name in TORCHVISION_BACKBONES or re.fullmatch(r"timm:[A-Za-z0-9_.]+", name):
        return name
    close = difflib.get_close_matches(name, TORCHVISION_BACKBONES, n=1)
    meant = f"did you mean `{close[0]}`? " if close else ""
    raise ValueError(
        f"there is no backbone {name!r}; {meant}Torchvision's are {', '.join(TORCHVISION_BACKBONES)}; "
        "any timm model that gives features is timm:<name>"
    )


Backbone = Annotated[
    str,
    AfterValidator(_known_backbone),
    Field(max_length=100, examples=[*TORCHVISION_BACKBONES[:3], "timm:convnext_atto"]),
]
"""One of `TORCHVISION_BACKBONES`, or `timm:<name>`."""


TORCHVISION_LAYOUTS: dict[str, tuple[tuple[str, str], ...]] = {
    "torchvision": (
        ("retinanet", "resnet50"),
        ("fcos", "resnet50"),
        ("faster_rcnn", "resnet50"),
        ("faster_rcnn", "mobilenet_v3_large"),
    ),
    "torchvision_v2": (("retinanet", "resnet50"), ("faster_rcnn", "resnet50")),
}
"""The detectors that torchvision publishes weights for: architecture and backbone by layout."""


class FpnConfig(Strict):
    """Feature pyramid."""

    channels: int = Field(default=256, ge=8, le=1024, multiple_of=8)
    """torchvision's and the papers' 256; 64 to 128 is enough for few classes and small pictures."""
    depth: int = Field(default=1, ge=1, le=4)
    """3x3 convolutions on each level after the merge; 1 as in the paper."""
    depthwise: bool = False
    """Depthwise-separable 3x3 convolutions instead of full ones, in all levels: about a ninth of the work, for very
    small students."""


class HeadConfig(Strict):
    """Prediction heads."""

    depth: int = Field(default=4, ge=1, le=8)
    """Convolutions in each tower (RetinaNet, FCOS) or in the box head (Faster R-CNN); 4 as in the papers."""
    width: int | None = Field(default=None, ge=8, le=1024, multiple_of=8)
    """Channels of the towers; None: those of the FPN."""
    depthwise: bool = False
    """Depthwise-separable 3x3 convolutions in the towers (Faster R-CNN: in its RPN and its box head) instead of full
    ones: about a ninth of the work."""


class DetectorConfig(Strict):
    """A torchvision detector on a torchvision or timm backbone with an FPN."""

    architecture: Architecture = "fcos"
    """FCOS has no anchors to fit, and trains quickly from scratch."""
    layout: Literal["gkd", "torchvision", "torchvision_v2"] = "gkd"
    """`gkd`: all widths are free, and everything trains from scratch. `torchvision` and `torchvision_v2`: exactly the
    detector of torchvision's builders (`..._fpn` and `..._fpn_v2`), so that its published weights fit; then widths
    and heads are torchvision's."""
    backbone: Backbone = "resnet18"
    """resnet18 does less than half the work of resnet50, which suits a student."""
    backbone_width: float = Field(default=1.0, ge=0.125, le=2)
    """Channels of the backbone, relative to the usual ones. 0.5 has a quarter of the weights and of the work; weights
    published elsewhere fit 1 only, timm's backbones come in 1 only, and ResNeXts from 0.25."""
    fpn: FpnConfig = FpnConfig()
    """Feature pyramid between backbone and head."""
    head: HeadConfig = HeadConfig()
    """Heads that predict classes and boxes on every level."""
    norm: Literal["batch", "group", "frozen"] = "batch"
    """Batch norms of backbone and FPN: `batch` and `group` learn from scratch; `frozen` keeps the statistics of
    loaded weights. Layer norms stay what they are. Heads use group norm: their weights are shared over levels whose
    statistics differ. Torchvision's layouts have no `group`; the weights of `torchvision` need `frozen`."""
    frozen_stages: int = Field(default=0, ge=0, le=5)
    """How many stages of the backbone keep their initial weights and statistics: 0 from scratch; 2 is
    usual with published weights and little data. Stage n has feature maps of stride 2**n, and the stem is stage 1:
    in a ResNet the stem, layer1, layer2, layer3 and layer4."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of each channel (RGB in 0..1), subtracted from the pixels; ImageNet's, as nearly all published weights
    expect. A few of timm's were trained with 0.5 in all three."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)
    """Standard deviation of each channel, by which pixels are divided; see `mean`. Teacher and student may differ."""
    weights: str | None = None
    """Start from these weights instead of from scratch: a safetensors file of GKD, a plain state dict (`.pth` or
    `.safetensors`) of a backbone or of a whole detector, or torchvision's name of published weights such as
    `ResNet50_Weights.IMAGENET1K_V2`."""

    @model_validator(mode="after")
    def _what_widths_there_are(self) -> DetectorConfig:
        if self.backbone.startswith("timm:") and self.backbone_width != 1:
            raise ValueError(
                f"`backbone_width` of {self.backbone} can only be 1; timm's models have their widths"
            )
        if self.backbone.startswith("resnext") and self.backbone_width < 0.25:
            raise ValueError(f"`backbone_width` of {self.backbone} starts at 0.25, one channel in each group")
        return self

    @model_validator(mode="after")
    def _what_torchvision_builds(self) -> DetectorConfig:
        if self.layout == "gkd":
            return self
        built = TORCHVISION_LAYOUTS[self.layout]
        if (self.architecture, self.backbone) not in built:
            known = ", ".join(f"{architecture} on {backbone}" for architecture, backbone in built)
            raise ValueError(
                f"layout {self.layout!r} has no {self.architecture} on {self.backbone}; it has {known}"
            )
        for field in ("backbone_width", "fpn", "head"):
            if getattr(self, field) != type(self).model_fields[field].default:
                raise ValueError(f"`{field}` is torchvision's own in layout {self.layout!r}; leave it out")
        if self.norm == "group":
            raise ValueError(
                f"`norm` in layout {self.layout!r} is `batch` or `frozen`; torchvision has no group norm"
            )
        return self


Part = Literal["fpn", "head"]
"""Parts of a detector that can start from the teacher's: the feature pyramid, and the heads."""


class StudentConfig(DetectorConfig):
    """A detector that learns from a teacher, and may start from parts of it."""

    inherit: tuple[Part, ...] = ()
    """Parts that start from the teacher's weights where shapes agree, over those of `weights`: `fpn`, block by block
    (same strides, same `fpn.channels`), and `head`, as a whole (same architecture and head, the rows of the data's
    classes). The control starts from the same weights. The job says what was taken; a part of which nothing fits is
    refused."""


D = TypeVar("D", bound=DetectorConfig)


def _can_learn(detector: D) -> D:
    if detector.weights is not None:
        return detector
    wrong = {}
    if detector.norm == "frozen":
        wrong["norm"] = (
            "frozen norms keep the statistics of loaded weights, and there are none: give `weights`, or set `norm` to "
            "batch or group"
        )
    if detector.frozen_stages:
        wrong["frozen_stages"] = (
            "frozen stages keep the weights that they start with, and these would be random: give `weights`, or set "
            "`frozen_stages` to 0"
        )
    if wrong:
        raise wrong_at(**wrong)
    return detector


DetectorToTrain = Annotated[DetectorConfig, AfterValidator(_can_learn)]
"""A detector that is about to be trained: its frozen parts have initial weights."""


def _as_student(value: Any) -> Any:
    """Return the fields of a config that says nothing of a teacher; everything else as it is."""
    return value.model_dump() if type(value) is DetectorConfig else value


StudentToTrain = Annotated[StudentConfig, BeforeValidator(_as_student), AfterValidator(_can_learn)]
"""The same, with a teacher."""


class TeacherConfig(Strict):
    """A trained detector: a teacher, or one to evaluate or export.

    A file of GKD records its architecture and classes, and so does a name of torchvision's weights; for a plain state
    dict all four fields below must be given.
    """

    weights: str
    """Path of a safetensors file of GKD, a plain state dict of a torchvision detector (`.pth` or `.safetensors`), or
    torchvision's name of published weights such as `RetinaNet_ResNet50_FPN_Weights.COCO_V1`."""
    architecture: Architecture | None = None
    """Optional check: refused when the file says otherwise."""
    backbone: Backbone | None = None
    """Optional check: refused when the file says otherwise."""
    layout: Literal["gkd", "torchvision", "torchvision_v2"] | None = None
    """Optional check, as above."""
    classes: tuple[str, ...] | None = None
    """Optional check: class names in label order; label 1 is the first."""


class DistillTeacherConfig(TeacherConfig):
    """A teacher that a student is distilled from."""

    image_size: Annotated[int, Field(ge=64, le=16384, multiple_of=32)] | None = None
    """Longer side of the pictures that the teacher sees, in pixels: 1, 2 or 4 times `train.image_size`, so that the
    cells of both pyramids agree; None: the same. Best the size that it was trained at."""


def _as_distill_teacher(value: Any) -> Any:
    """Return the fields of a config that says nothing of pictures; everything else as it is."""
    return value.model_dump() if type(value) is TeacherConfig else value


DistillTeacher = Annotated[DistillTeacherConfig, BeforeValidator(_as_distill_teacher)]
"""The teacher of a distillation."""
