"""The config of a run: the input of the engine as one frozen, strictly validated value. No torch here.

A `RunConfig` is what `python -m gkd_core.train RUN_DIR` reads from `RUN_DIR/config.json`. Fields have defaults, with
the reason in their docstrings; unknown fields are errors. In a config that reaches the engine all paths are absolute
and all references are resolved (`jobs.specs.resolve` does that for the service).
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from gkd_core.errors import Problem, SpecError

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
Metric = Literal[
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl", "VOC07", "VOC12"
]
"""A number that models can be ranked by: COCO's twelve, and the mean AP50 of VOC 2007 (11 points) and 2012."""


Workers = Annotated[int, Field(ge=0, le=256)] | Literal["auto"]
"""Threads that load pictures."""


class Strict(BaseModel):
    """A frozen value that refuses unknown fields, NaN and infinity.

    It also refuses `true` where a number belongs, which Python would take for 1. A field's docstring is its
    description.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any) -> Any:
        fields = cls.model_fields
        given = value.items() if isinstance(value, dict) else ()
        odd = [name for name, each in given if isinstance(each, bool) and name in fields]
        wrong = {
            name: "needs a number, got a truth value" for name in odd if _is_number(fields[name].annotation)
        }
        if wrong:
            raise _wrong_at(**wrong)
        return value


def _is_number(annotation: Any) -> bool:
    """Return whether a type takes numbers and neither true nor false."""
    parts = [get_args(part)[0] if get_origin(part) is Annotated else part for part in get_args(annotation)]
    kinds = {annotation, *parts}
    return not kinds.isdisjoint((int, float)) and bool not in kinds


def _wrong_at(**messages: str) -> ValidationError:
    """Return the error that a validator raises for fields of its model: messages by field.

    `a__b` stands for `b` in `a`.
    """
    details = [
        InitErrorDetails(
            type=PydanticCustomError("value_error", "{message}", {"message": message}),
            loc=tuple(field.split("__")),
            input=None,
        )
        for field, message in messages.items()
    ]
    return ValidationError.from_exception_data("config", details)


# ---- data ------------------------------------------------------------------------------------------------


class Split(Strict):
    """One split of a data set."""

    images: str
    """Folder of pictures; `file_name` (COCO) or stem (VOC) is relative to it. YOLO: also a text file
    that lists them, or the `data.yaml` where that names several folders."""
    annotations: str
    """COCO: the JSON file. VOC: the folder of XML files. YOLO: the folder of label files, or, where a text file lists
    the pictures, the folder that holds `images/` and `labels/`."""
    names: str | None = None
    """VOC: text file with one stem per line (`ImageSets/Main/train.txt`); None takes every XML file. YOLO: the
    `data.yaml` that names the classes, or a text file with one class a line."""


SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
TO_TRAIN: tuple[SplitName, ...] = ("train", "val")
"""The splits that a training needs."""


class DataConfig(Strict):
    """A data set: either a folder whose layout is recognised (`path`), or its splits one by one.

    In JSON a plain string stands for `{"path": ...}`.
    """

    format: Literal["auto", "coco", "voc", "yolo"] = "auto"
    """`auto` recognises it by the layout; COCO where several are there."""
    path: str | None = None
    """Folder of a data set whose layout is recognised (YOLO: also its `data.yaml`); instead of the splits."""
    train: Split | None = None
    """The split to train on; instead of `path`."""
    val: Split | None = None
    """The split that every model is evaluated on, and that chooses the best epoch."""
    test: Split | None = None
    """Held-out pictures that no choice depends on, not even that of the best epoch: every model is scored on them
    once, at the end. May be absent."""
    val_share: float | None = Field(default=None, gt=0, lt=1)
    """For data without a validation split: the share of its pictures that is set aside as `val`, such as 0.2. With
    `path`, or with `train` alone. Which pictures those are depends on their names and `val_seed`, not their order."""
    val_seed: int = Field(default=0, ge=0, lt=2**63)
    """Decides which pictures `val_share` sets aside. Not the seed of a training, or two trainings would be judged on
    different pictures."""
    classes: tuple[str, ...] | None = None
    """The class names, in label order (label 1 is the first). None takes those of the training split. A list
    that differs from the data set's own (as a set, after `rename` and `only`) is refused: a typo here would silently
    drop objects."""
    rename: dict[str, str] = {}
    """New names by the names that the annotations use; several classes given one name become one class."""
    only: tuple[str, ...] | None = None
    """The classes to keep, by their new names; objects of the others are left out, pictures stay. None keeps all."""

    @model_validator(mode="before")
    @classmethod
    def _a_string_is_a_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _path_or_splits(self) -> DataConfig:
        if (self.path is None) != bool(self.splits):
            raise ValueError(
                "give either `path` (a folder whose layout is recognised), or `train` and `val` and, if there is one, "
                "`test`"
            )
        if self.val_share is not None and self.val not in (None, self.train):
            raise ValueError("give either `val`, or `val_share`, which sets pictures of `train` aside")
        if self.val_share is not None and not (self.path or self.train):
            raise ValueError("`val_share` sets pictures of `train` aside, and there is none")
        if self.val_share is None and self.val_seed:
            raise ValueError(
                "`val_seed` decides which pictures `val_share` sets aside, and that is not given"
            )
        return self

    @property
    def splits(self) -> dict[SplitName, Split]:
        """Return the splits that are given, by name."""
        return {name: split for name in SPLITS if (split := getattr(self, name)) is not None}


# ---- detectors -------------------------------------------------------------------------------------------


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


def _can_learn(detector: DetectorConfig) -> DetectorConfig:
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
        raise _wrong_at(**wrong)
    return detector


DetectorToTrain = Annotated[DetectorConfig, AfterValidator(_can_learn)]
"""A detector that is about to be trained: its frozen parts have initial weights."""


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


# ---- distillation ----------------------------------------------------------------------------------------


STRONGEST_TIE = 1e6
"""Largest `alpha`. Measured on random instances, of rank 3 and with copies: the error of the choices is constant from
1e4 on, and the first factorisation fails at 1e9."""


class PrototypeChoice(Strict):
    """PGM: which instances are pooled, and how prototypes are chosen among them (docs/method.md)."""

    selection: Literal["orthogonal", "reference", "kmeans", "random"] = "orthogonal"
    """`orthogonal`: distinct, jointly re-fitted, any class size. `reference`: the authors' pursuit, repeats and all.
    `kmeans`: the instances nearest to cluster centres of the joint space. `random`: a baseline."""
    per_class: int = Field(default=10, ge=1, le=100)
    """K of the paper."""
    alpha: float = Field(default=10.0, ge=0, le=STRONGEST_TIE)
    """The paper's lambda: how strongly the coefficients in both spaces are tied. At most 1e6: they are equal then in
    all digits that a choice depends on, and from 1e9 on float64 cannot solve for them."""
    max_instances: int = Field(default=800, ge=1)
    """Instances pooled per class at most, the paper's number of images; a fixed random subset beyond that."""
    min_box_side: float = Field(default=8.0, ge=0)
    """Shorter side of a box, in pixels of the resized picture, from which its features are worth pooling:
    one cell of the finest level. The authors ask for 30 on pictures of 1333 x 800."""


class PrototypesConfig(PrototypeChoice):
    """PGM in a training: how prototypes are chosen, from what, and when."""

    source: Literal["pass", "bank"] = "pass"
    """Where the features come from: `pass` runs teacher and student over the chosen pictures as they are, `bank`
    keeps those that the training steps of the last epoch computed anyway, augmented pictures and all, at no cost."""
    every: int = Field(default=1, ge=1)
    """Epochs between two selections. Between them the student's features of the prototypes are refreshed, see
    `refresh`."""
    refresh: Annotated[int, Field(ge=1)] | Literal["auto"] | None = "auto"
    """Steps between two refreshes of the student's features of the prototypes, which change as it learns: after two
    epochs from scratch the cosine of an object's features before and after was 0.2. `auto`: whenever that cosine
    falls to about 0.9, but at most so often that a refresh runs as many pictures as the steps before it trained on.
    None: never."""


class GlobalConfig(Strict):
    """Global loss of RDM."""

    weight: float = Field(default=0.5, ge=0)
    """Published `factor` 5, for detectors that start from converged weights. From scratch 5 sends four times the
    gradient of the detection losses through a backbone that has learnt nothing yet (docs/decisions/0047)."""
    form: Literal["cosine", "projection"] = "cosine"
    """`cosine`: smooth-L1 of weighted cosines (published code). `projection`: squared distance (the paper)."""
    robust: bool = True
    """Weight each instance by its robustness; False: all alike."""
    levels: Literal["own", "neighbours", "all"] = "own"
    """Where an object counts: on the pyramid level of its size, there and on the levels next to it, or on all, as
    published (and always under `conventions` `reference`): most levels then carry no information about the object."""


class LocalConfig(Strict):
    """Local loss of RDM: decoupled feature imitation."""

    weight: float = Field(default=0.3, ge=0)
    """Multiplies both parts below. Published 1; see `global.weight`."""
    foreground: float = Field(default=1.0, ge=0)
    """Weight inside boxes, as published."""
    background: float = Field(default=0.3, ge=0)
    """Weight outside boxes. Published 4: most of the gradient would then come from the background."""
    robust: bool = True
    """Weight each instance by its robustness; False: all alike."""


class ResponseConfig(Strict):
    """Response loss of RDM: the student's scores imitate the teacher's."""

    weight: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """`auto`: 10/3 where the scores of the two heads can be compared location by location (10 under `conventions`
    `reference`, which takes the mean over classes instead of the sum), 0 where not; the resolved spec says which.
    Published 1, for softmax heads. Of the three losses this one has gradients in the direction of those of the
    detection losses (docs/decisions/0047)."""
    temperature: float = Field(default=2.0, gt=0)
    """Published T."""
    robust: bool = True
    """Weight each location by the robustness of its instance; False: all alike."""


class DistillConfig(Strict):
    """What is distilled, and how strongly. A weight of 0 leaves a part out."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    conventions: Literal["default", "reference"] = "default"
    """`reference` keeps the published code's pooling, levels and masks, defects included (docs/method.md)."""
    prototypes: PrototypesConfig = PrototypesConfig()
    """How prototypes are chosen (PGM)."""
    global_: GlobalConfig = Field(default=GlobalConfig(), alias="global")
    """Global loss: the relations of instances to the prototypes."""
    local: LocalConfig = LocalConfig()
    """Local loss: the features themselves."""
    response: ResponseConfig = ResponseConfig()
    """Response loss: the class scores."""
    instances: Literal["truth", "positives"] = "truth"
    """What is pooled in the global loss: the ground-truth boxes, or the boxes of the student's positive proposals or
    matched anchors (published setting), which are many times more and overlap."""
    attenuation: Literal["linear", "cosine", "constant"] = "linear"
    """Decay of the global and the local loss. `linear`: 1 - epoch / epochs, as published. `cosine`: half a cosine
    from 1 to 0."""
    start_epoch: int = Field(default=0, ge=0)
    """Epochs of plain training before distillation begins."""
    stop_epoch: int | None = Field(default=None, ge=1)
    """Epoch (from 0) at which distillation ends; None: never."""
    control: bool = True
    """Also train the same student, from the same start, in the same order, with distillation off. Without it the gain
    of distillation is unknown."""

    @model_validator(mode="after")
    def _starts_before_it_stops(self) -> DistillConfig:
        if self.stop_epoch is not None and self.stop_epoch <= self.start_epoch:
            raise _wrong_at(
                stop_epoch=f"distillation would stop at epoch {self.stop_epoch} and start at {self.start_epoch} only: "
                "raise `stop_epoch`, or leave it out"
            )
        return self


RESPONSE_WEIGHT = 10 / 3
"""The value of `response.weight` "auto" where the two heads can be compared: 10 for the mean over three classes, for
which it was tuned, and so 10 / 3 for the sum over any number."""
RESPONSE_WEIGHT_OF_MEAN = 10.0
"""The same for the mean over classes, which `conventions` "reference" takes."""
ANCHOR_TOLERANCE = 0.05
"""Relative difference of sides up to which anchors count as equal: torchvision rounds its own to whole pixels."""


def incomparable_scores(
    student: Architecture, teacher: Architecture, finest_anchors: tuple[float, float] | None = None
) -> Problem | None:
    """Return why the class scores of two detectors cannot be compared location by location; None if they can.

    Args:
        student: its architecture.
        teacher: its architecture.
        finest_anchors: sides in pixels, student's and teacher's; None where they are unknown. Only those of two
            RetinaNets matter: Faster R-CNN's heads score the student's proposals, FCOS has no anchors.
    """
    if student != teacher:
        message = (
            f"the scores of a {student} student and a {teacher} teacher cannot be compared place by place"
        )
        hint = "Set distill.response.weight to 0, or use one family for both."
        return Problem(loc=("distill", "response", "weight"), message=message, hint=hint)
    mine, theirs = finest_anchors or (1.0, 1.0)
    if student == "retinanet" and abs(mine - theirs) > ANCHOR_TOLERANCE * theirs:
        message = f"the finest anchors of teacher and student differ: {theirs:g} and {mine:g} pixels"
        hint = "Train both at one train.image_size, or set distill.response.weight to 0."
        return Problem(loc=("train", "image_size"), message=message, hint=hint)
    return None


def response_weight(distill: DistillConfig, problem: Problem | None) -> float:
    """Return the weight of the response loss; `problem` says why the heads cannot be compared.

    Raises:
        SpecError: the config gives a weight, but the heads cannot be compared.
    """
    wanted = distill.response.weight
    if wanted == "auto":
        found = RESPONSE_WEIGHT_OF_MEAN if distill.conventions == "reference" else RESPONSE_WEIGHT
        return 0.0 if problem else found
    if wanted and problem:
        raise SpecError([problem])
    return wanted


def finest_anchor(layout: str, image_size: int) -> float:
    """Return the side in pixels of the smallest anchor of a RetinaNet.

    `image_size` is the longer side of the pictures that it is trained on.

    32 on 800 pixels as in the paper, in proportion on others, but never under two strides, where neighbouring anchors
    would leave gaps; torchvision's own detectors keep their 32.
    """
    return max(32 * image_size / 800, 16.0) if layout == "gkd" else 32.0


# ---- training --------------------------------------------------------------------------------------------


class OptimizerConfig(Strict):
    """Optimiser. The defaults train small detectors from scratch."""

    name: Literal["adamw", "sgd"] = "adamw"
    """AdamW needs less tuning from scratch."""
    lr: float = Field(default=6e-4, gt=0)
    """Peak learning rate, for the whole batch. For SGD 0.01 at batch 8 is usual."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Not applied to norms and biases."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD only."""
    clip_norm: float | None = Field(default=10.0, gt=0)
    """Gradients are clipped to this norm: spikes early in training from scratch cost epochs. None: never."""


class ScheduleConfig(Strict):
    """Learning rate: linear warm-up, then a cosine down to `final` times the peak, or steps."""

    form: Literal["cosine", "step"] = "cosine"
    """A cosine needs no milestones to be tuned."""

    warmup_epochs: float = Field(default=1.0, ge=0)
    """From nearly 0 to the peak; networks that start from scratch diverge without it."""
    final: float = Field(default=0.01, ge=0, le=1)
    """`cosine`: share of the peak that is left at the end."""
    steps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (2 / 3, 11 / 12)
    """`step`: shares of the epochs after which the rate falls; as published, 16 and 22 of 24."""
    factor: float = Field(default=0.1, gt=0, lt=1)
    """`step`: what the rate is multiplied with at each step."""


Scale = Annotated[float, Field(ge=0.1, le=10)]
"""A factor on the size of a picture. Beyond these limits nothing of it would be left, or memory would not suffice."""


class AugmentConfig(Strict):
    """Augmentation; boxes follow, teacher and student see the same pixels."""

    flip: float = Field(default=0.5, ge=0, le=1)
    """Chance of a horizontal flip."""
    flip_vertical: float = Field(default=0.0, ge=0, le=1)
    """Chance of a vertical flip; for pictures without an orientation, such as those of microscopes."""
    crop: float = Field(default=0.0, ge=0, le=1)
    """Chance of a random crop that contains the centre of at least one box."""
    crop_least: float = Field(default=0.3, gt=0, le=1)
    """Least share of each side that a crop keeps."""
    colour: float = Field(default=0.0, ge=0, le=1)
    """Strength of random brightness, contrast, saturation and hue; 0: off, 1: up to half as much again."""
    scale: tuple[Scale, Scale] = (0.6, 1.4)
    """Range of scale jitter; enlarged pictures are cropped, reduced ones are not padded."""
    mosaic: float = Field(default=0.5, ge=0, le=1)
    """Chance of a mosaic of four pictures."""
    mosaic_until: float = Field(default=0.8, ge=0, le=1)
    """Share of the epochs with mosaic; the last ones have none."""

    @model_validator(mode="after")
    def _a_range_ascends(self) -> AugmentConfig:
        low, high = self.scale
        if low > high:
            raise ValueError(
                f"`scale` is a range from the smaller to the larger factor, got {low:g} to {high:g}"
            )
        return self


class GpuArithmetic(Strict):
    """Precision and determinism of a GPU. On a CPU neither changes anything."""

    deterministic: bool = False
    """Make a GPU give the same bits in every run: no search for the fastest convolution, and of each operator the
    form that adds in a fixed order, where torch has one; the log names those that have none. Slower, so it has to be
    asked for. A CPU gives the same bits anyway."""
    tf32: bool = True
    """Let convolutions in `float32` round their inputs to 10 bits on GPUs since Ampere (TF32), several times faster
    and what torch does by itself. Matrix products, on which prototypes and losses depend, stay in float32 either
    way."""


class TrainConfig(GpuArithmetic):
    """The training recipe, shared by student and control."""

    epochs: int = Field(default=30, ge=1, le=100_000)
    """Passes over the training split."""
    batch_size: int = Field(default=8, ge=1, le=4096)
    """Pictures per optimiser step."""
    accumulate: int = Field(default=1, ge=1)
    """Micro-batches per step; divides `batch_size`. Raised automatically after running out of memory."""
    image_size: int = Field(default=640, ge=64, le=4096, multiple_of=32)
    """Longer side of the resized picture, in pixels."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Decides initial weights, order and augmentation; the same seed gives the same run."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimiser."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate schedule."""
    augment: AugmentConfig = AugmentConfig()
    """Data augmentation."""
    ema: float | None = Field(default=0.998, ge=0, lt=1)
    """Decay of the averaged weights that are evaluated and published (it grows towards this at the start, so
    that short runs work); None: off."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the networks compute in while training; heads, losses, prototypes and evaluation stay in float32.
    `bfloat16` is about twice as fast on processors that have it (AVX-512 BF16, AMX, GPUs since Ampere) and slower
    on others, so it is off by default. `float16` scales the loss to keep small gradients; for older GPUs."""
    channels_last: bool = True
    """Memory format (channels last) of pictures and weights; a tenth faster, also on a CPU."""
    compile: bool = False
    """Compile body and pyramid with `torch.compile`, for GPUs: minutes at the start, then faster steps. On a
    processor steps were not faster (docs/decisions/0055). Needs a C++ compiler; a resumed run need not end with the
    same bits."""
    evaluate_every: int = Field(default=1, ge=1)
    """Epochs; the last epoch is always evaluated."""
    best_by: Metric = "AP"
    """The number on the validation split by which the best epoch is chosen and published."""
    patience: int | None = Field(default=None, ge=1)
    """Stop early after this many evaluations without a better `best_by`; None: train all epochs. Student and control
    stop independently."""
    workers: Workers = "auto"
    """Threads that load pictures, 0: loading in the main thread; auto: one less than the cores, at most 4."""
    cache_mb: int = Field(default=1024, ge=0)
    """Memory for decoded pictures, in MiB; 1024 hold 850 of 640 x 480."""

    @model_validator(mode="after")
    def _micro_batches_are_whole(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate {self.accumulate} does not divide batch_size {self.batch_size}")
        return self


def require_beginning(distill: DistillConfig, train: TrainConfig) -> None:
    """Raise in validators of runs and specs that distil if distillation never starts.

    Raises:
        ValidationError: all epochs are over before distillation begins.
    """
    if distill.start_epoch >= train.epochs:
        raise _wrong_at(
            distill__start_epoch=f"distillation would start at epoch {distill.start_epoch}, and epochs 0 to "
            f"{train.epochs - 1} are all there are: lower `start_epoch`, or raise `train.epochs`"
        )


# ---- other kinds of runs ---------------------------------------------------------------------------------


class EvaluateConfig(GpuArithmetic):
    """Settings of an evaluation."""

    split: SplitName = "val"
    """The pictures that it is scored on. If it is left out and the data have only one split, that one."""
    image_size: Annotated[int, Field(ge=64, le=4096, multiple_of=32)] | None = None
    """Longer side of the resized picture, in pixels; None: that of the model's training."""
    batch_size: int = Field(default=8, ge=1, le=4096)
    """Pictures at a time."""
    workers: Workers = "auto"
    """Threads that load pictures, as in `train.workers`."""


class ExportConfig(Strict):
    """The format of an export, and how the exported file is checked."""

    format: Literal["onnx"] = "onnx"
    """ONNX runs nearly everywhere."""
    opset: int = Field(default=17, ge=16, le=20)
    """Version of ONNX's operators; 17 is known to every runtime of the last years."""
    check_pictures: int = Field(default=20, ge=1, le=1000)
    """Pictures of the validation split on which the exported network is compared with torch."""
    box_tolerance: float = Field(default=0.5, gt=0)
    """Largest difference of a box coordinate that passes, in pixels."""
    score_tolerance: float = Field(default=1e-3, gt=0)
    """Largest difference of a score that passes."""


class PrototypesRunConfig(PrototypeChoice, GpuArithmetic):
    """PGM alone: how prototypes are chosen, and from which pictures. There are no epochs, so there is no `every`."""

    source: Literal["pass"] = "pass"
    """There are no training steps to take features from."""

    image_size: Annotated[int, Field(ge=64, le=4096, multiple_of=32)] | None = None
    """Longer side of the resized picture, in pixels; None: that of the student's training."""
    batch_size: int = Field(default=8, ge=1, le=4096)
    """Pictures at a time."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Decides which instances are pooled where a class has more than `max_instances`."""


# ---- run configs -----------------------------------------------------------------------------------------

Device = Literal["auto", "cpu", "cuda"]


class _DataRun(Strict):
    """Fields of every run on a data set."""

    data: DataConfig
    data_fingerprint: str | None = None
    """Fingerprint of the annotations when this config was made, to tell whether they changed. Null: unknown."""


class TrainRun(_DataRun):
    """Train one detector: a teacher, or a plain student."""

    kind: Literal["train"] = "train"
    model: DetectorToTrain = DetectorConfig()
    train: TrainConfig = TrainConfig()
    device: Device = "auto"
    processes: int = Field(default=1, ge=1, le=64)
    """How many train together, each on a GPU of its own (on a CPU: for tests)."""


class DistillRun(_DataRun):
    """Distil a teacher into a student, with a control."""

    kind: Literal["distill"] = "distill"
    teacher: TeacherConfig
    student: DetectorToTrain = DetectorConfig()
    distill: DistillConfig = DistillConfig()
    train: TrainConfig = TrainConfig()
    device: Device = "auto"
    processes: int = Field(default=1, ge=1, le=64)
    """How many train together, each on a GPU of its own (on a CPU: for tests)."""

    @model_validator(mode="after")
    def _distils_at_all(self) -> DistillRun:
        require_beginning(self.distill, self.train)
        return self


class EvaluateRun(_DataRun):
    """Score a model on one split."""

    kind: Literal["evaluate"] = "evaluate"
    model: TeacherConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    device: Device = "auto"


class PrototypesRun(_DataRun):
    """PGM alone: the prototypes of a teacher and a student on the training split, to look at."""

    kind: Literal["prototypes"] = "prototypes"
    teacher: TeacherConfig
    student: TeacherConfig
    prototypes: PrototypesRunConfig = PrototypesRunConfig()
    device: Device = "auto"


class ExportRun(_DataRun):
    """Turn a model into ONNX, and check it on pictures of the validation split."""

    kind: Literal["export"] = "export"
    model: TeacherConfig
    export: ExportConfig = ExportConfig()
    device: Literal["auto", "cpu"] = "auto"
    """The CPU either way: there torch and onnxruntime compute the same."""


AnyRun = TrainRun | DistillRun | EvaluateRun | PrototypesRun | ExportRun
RunConfig = Annotated[AnyRun, Field(discriminator="kind")]
run_config: TypeAdapter[AnyRun] = TypeAdapter(RunConfig)
"""Reads a config: `run_config.validate_json(text)`."""
