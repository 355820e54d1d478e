"""Losses of other methods that a spec can list under `distill.losses`: their names, weights and settings.

One class a method; the formula of each is a file of the same name in `gkd_core/distill/losses/`, whose docstring names
the source. `weight: "auto"` is the published one for the student's family.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field

from gkd_core.config.detector import Architecture
from gkd_core.config.loss_base import NAME, FeatureLossConfig, LossConfig


class AicsdConfig(FeatureLossConfig):
    """AICSD (Mansourian et al. 2023): the divergences between the maps of classes are the teacher's.

    Published for segmentation; the weight is ours.
    """

    one_stage: ClassVar[float] = 1.0
    two_stage: ClassVar[float] = 1.0
    name: Literal["aicsd"] = Field(default="aicsd", description=NAME)
    maps: Literal["scores", "prototypes"] = "scores"
    """What shows where a class is. `scores`: of RetinaNet's or FCOS's head, so both models must be of one family.
    `prototypes`: cosines with the mean prototype of each class, for any pair; our own."""

    def needs_equal_heads(self) -> bool:
        """Return whether the maps come from the heads."""
        return self.maps == "scores"

    def misfit(self, student: Architecture) -> str | None:
        """Return that Faster R-CNN scores no cells."""
        if self.maps == "prototypes" or student != "faster_rcnn":
            return None
        return "a faster_rcnn student scores proposals and not cells: set maps to prototypes"


class AttnFdConfig(FeatureLossConfig):
    """AttnFD (Mansourian et al. 2024): maps, attended by gates without parameters, agree in direction.

    Published weight 2, a norm over the whole batch and a division by its 6 pictures: 2 / 6 here, where each picture is
    normalised by itself.
    """

    one_stage: ClassVar[float] = 1 / 3
    two_stage: ClassVar[float] = 1 / 3
    name: Literal["attnfd"] = Field(default="attnfd", description=NAME)


class BckdConfig(LossConfig):
    """BCKD (Yang et al. 2023): a binary cross entropy for each class and GIoU for boxes, where the models differ."""

    one_stage: ClassVar[float] = 1.0
    two_stage: ClassVar[float] = 0.0
    compares_heads: ClassVar[bool] = True
    families: ClassVar[tuple[Architecture, ...]] = ("retinanet", "fcos")
    name: Literal["bckd"] = Field(default="bckd", description=NAME)
    boxes: float = Field(default=4.0, ge=0)
    """Weight of the boxes beside the class scores, as published."""


class CwdConfig(FeatureLossConfig):
    """CWD (Shu et al. 2021): each channel is a distribution over the cells of its picture, compared by KL."""

    one_stage: ClassVar[float] = 10.0
    two_stage: ClassVar[float] = 10.0
    name: Literal["cwd"] = Field(default="cwd", description=NAME)
    temperature: float = Field(default=1.0, gt=0)
    """Divides the maps before the softmax; 1 as published for detectors."""


class DrkdConfig(LossConfig):
    """DRKD (Ni et al. 2023), its instance relations: to which objects of its picture each object is akin.

    The published weight is not known to us; with ours the gradient on the backbone is of the size of the detection
    losses' (measured with small RetinaNets on drawn pictures).
    """

    one_stage: ClassVar[float] = 1.0
    two_stage: ClassVar[float] = 1.0
    name: Literal["drkd"] = Field(default="drkd", description=NAME)
    temperature: float = Field(default=0.5, gt=0)
    """Divides the cosines before the softmax; ours."""
    robust: bool = False
    """Multiply the relations of each object by its robustness."""


class DistConfig(LossConfig):
    """DIST (Huang et al. 2022): the probabilities of the two heads correlate, over classes and over places."""

    one_stage: ClassVar[float] = 1.0
    two_stage: ClassVar[float] = 1.0
    compares_heads: ClassVar[bool] = True
    name: Literal["dist"] = Field(default="dist", description=NAME)
    rows: float = Field(default=1.0, ge=0)
    """Weight of the correlation over the classes of a place; beta of the paper, as published."""
    columns: float = Field(default=1.0, ge=0)
    """Weight of the correlation over the places of a class; gamma of the paper, as published."""


class DkdConfig(LossConfig):
    """DKD (Zhao et al. 2022): the target's score and the division among the others are compared apart."""

    one_stage: ClassVar[float] = 0.0
    two_stage: ClassVar[float] = 1.0
    compares_heads: ClassVar[bool] = True
    families: ClassVar[tuple[Architecture, ...]] = ("faster_rcnn",)
    name: Literal["dkd"] = Field(default="dkd", description=NAME)
    target: float = Field(default=1.0, ge=0)
    """Weight of the target against all others together; alpha of the paper, as published."""
    others: float = Field(default=0.25, ge=0)
    """Weight of the division among the others; beta of the paper, as published for Faster R-CNN."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the scores; 1 as published."""


class FgdConfig(FeatureLossConfig):
    """FGD (Yang et al. 2022): objects and background apart, weighted by the teacher's attention, and their context.

    The published weights are for sums over 256 channels, and ours for means over any number, so `weight` is the
    published weight of the foreground times 256; the others are relative to it.
    """

    one_stage: ClassVar[float] = 0.256
    two_stage: ClassVar[float] = 0.0128
    name: Literal["fgd"] = Field(default="fgd", description=NAME)
    foreground: float = Field(default=1.0, ge=0)
    """Weight of the cells of objects."""
    background: float = Field(default=0.5, ge=0)
    """Weight of the other cells, as published."""
    attention: float = Field(default=1 / 512, ge=0)
    """Weight of the distance of the attentions, as published for one-stage detectors, which is no mean over channels;
    for Faster R-CNN twice as much was published."""
    relation: float = Field(default=0.005, ge=0)
    """Weight of the context, as published for one-stage detectors; for Faster R-CNN twice as much."""
    temperature: float = Field(default=0.5, gt=0)
    """Of both attentions; 0.8 was published for FCOS."""
    robust: bool = False
    """Multiply the foreground of each object by its robustness."""


class FgfiConfig(LossConfig):
    """FGFI (Wang et al. 2019): imitate where anchors lie near objects.

    Published weight 0.01 of a sum over channels: times 256 for our mean.
    """

    one_stage: ClassVar[float] = 2.56
    two_stage: ClassVar[float] = 2.56
    name: Literal["fgfi"] = Field(default="fgfi", description=NAME)
    overlap: float = Field(default=0.5, gt=0, lt=1)
    """A cell is near an object if an anchor's IoU is more than this share of the largest, as published."""
    robust: bool = False
    """Multiply the cells of each object by its robustness."""


class GidConfig(LossConfig):
    """GID (Dai et al. 2021), its relation term: distances between the objects of a batch."""

    one_stage: ClassVar[float] = 40.0
    two_stage: ClassVar[float] = 40.0
    name: Literal["gid"] = Field(default="gid", description=NAME)
    robust: bool = False
    """Multiply each pair by the robustness of both objects."""


class IbfiConfig(LossConfig):
    """IBFI and GRI, a stand-in after Ju et al. (2024): imitation where the teacher's scores and boxes disagree.

    The weights are ours.
    """

    one_stage: ClassVar[float] = 0.5
    two_stage: ClassVar[float] = 0.5
    compares_heads: ClassVar[bool] = True
    name: Literal["ibfi"] = Field(default="ibfi", description=NAME)
    foreground: float = Field(default=1.0, ge=0)
    """Weight of the cells of objects."""
    background: float = Field(default=0.3, ge=0)
    """Weight of the others."""
    relation: float = Field(default=1.0, ge=0)
    """Weight of the relations between levels (GRI)."""


class MaskdConfig(FeatureLossConfig):
    """MasKD (Huang et al. 2023): learnt tokens cut the map into regions, each of which counts alike."""

    one_stage: ClassVar[float] = 7.0
    two_stage: ClassVar[float] = 1.0
    name: Literal["maskd"] = Field(default="maskd", description=NAME)
    tokens: int = Field(default=6, ge=1, le=64)
    """Regions of each level; 6 as published."""


class MgdConfig(FeatureLossConfig):
    """MGD (Yang et al. 2022): the teacher's map is generated from the student's, of which random cells are left out.

    The published weights are for sums, and ours for means: times 256 channels and the cells of all levels of a picture
    of 800 x 1344 pixels.
    """

    one_stage: ClassVar[float] = 115.0
    two_stage: ClassVar[float] = 11.5
    name: Literal["mgd"] = Field(default="mgd", description=NAME)
    masked: float = Field(default=0.65, ge=0, lt=1)
    """Share of the cells that are left out; 0.65 as published for one-stage detectors, 0.45 for Faster R-CNN."""


class MseConfig(FeatureLossConfig):
    """Plain feature imitation, the baseline of every table: mean squared difference after a 1x1 convolution."""

    one_stage: ClassVar[float] = 1.0
    two_stage: ClassVar[float] = 1.0
    name: Literal["mse"] = Field(default="mse", description=NAME)


class PatchPairsConfig(FeatureLossConfig):
    """Patch pairs, a stand-in after Two Teachers (Eum 2024): all pairs of patches have the teacher's cosines.

    The weight is ours.
    """

    one_stage: ClassVar[float] = 2.0
    two_stage: ClassVar[float] = 2.0
    name: Literal["patch_pairs"] = Field(default="patch_pairs", description=NAME)
    levels: int = Field(default=3, ge=1, le=5)
    """How many of the common levels are compared, from the finest on; coarse ones have fewer cells than patches."""
    grid: int = Field(default=14, ge=2, le=32)
    """Patches along each axis of a picture."""


class PfiConfig(LossConfig):
    """PFI (Li et al. 2022): maps compared where the predictions of both models differ, or where they agree."""

    one_stage: ClassVar[float] = 1.5
    two_stage: ClassVar[float] = 1.5
    compares_heads: ClassVar[bool] = True
    name: Literal["pfi"] = Field(default="pfi", description=NAME)
    where: Literal["differ", "agree"] = "differ"
    """`differ`: the more the logits of a cell differ, the more it counts, as published. `agree`: the less."""


class PkdConfig(FeatureLossConfig):
    """PKD (Cao et al. 2022): one minus the Pearson correlation of each channel, blind to scale and offset."""

    one_stage: ClassVar[float] = 10.0
    two_stage: ClassVar[float] = 6.0
    name: Literal["pkd"] = Field(default="pkd", description=NAME)
    levels: int = Field(default=4, ge=1, le=5)
    """How many of the common levels are compared, from the finest on; 4 as published."""


class RelationConfig(LossConfig):
    """Relation of class and box, a stand-in after Wang et al. (2024): score times overlap is the teacher's.

    The weight is ours.
    """

    one_stage: ClassVar[float] = 1.0
    two_stage: ClassVar[float] = 1.0
    compares_heads: ClassVar[bool] = True
    name: Literal["relation"] = Field(default="relation", description=NAME)


class YoloAttentionConfig(FeatureLossConfig):
    """Attention distillation of YOLOv5, a stand-in after Cheng (2024): attended maps, where the teacher responds.

    The weights are ours.
    """

    one_stage: ClassVar[float] = 0.5
    two_stage: ClassVar[float] = 0.5
    name: Literal["yolo_attention"] = Field(default="yolo_attention", description=NAME)
    background: float = Field(default=0.1, ge=0)
    """Weight of the cells in which the teacher responds less than on average."""


AnyLoss = Annotated[
    AicsdConfig
    | AttnFdConfig
    | BckdConfig
    | CwdConfig
    | DrkdConfig
    | DistConfig
    | DkdConfig
    | FgdConfig
    | FgfiConfig
    | GidConfig
    | IbfiConfig
    | MaskdConfig
    | MgdConfig
    | MseConfig
    | PatchPairsConfig
    | PfiConfig
    | PkdConfig
    | RelationConfig
    | YoloAttentionConfig,
    Field(discriminator="name"),
]
"""Every method; the classes with the formulas are listed in `gkd_core.distill.losses.METHODS`."""

L = TypeVar("L", bound=LossConfig)


def settled(loss: L, student: Architecture) -> L:
    """Return the config with a number in place of the weight `auto`."""
    if loss.weight != "auto":
        return loss
    weight = loss.two_stage if student == "faster_rcnn" else loss.one_stage
    return loss.model_copy(update={"weight": weight})
