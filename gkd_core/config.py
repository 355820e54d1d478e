"""What goes into the engine: one frozen value, strict at the border. No torch here.

A `RunConfig` is what `python -m gkd_core.train RUN_DIR` reads from `RUN_DIR/config.json`. Every field has a
default, and the reason stands beside it; unknown fields are refused. In a config that reaches the engine all
paths are absolute and nothing is left to be looked up (`jobs.spec` does that for the service).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

Architecture = Literal["retinanet", "faster_rcnn", "fcos"]
Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101"]


class Strict(BaseModel):
    """A frozen value that refuses unknown fields, NaN and infinity. A field's docstring is its description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, use_attribute_docstrings=True
    )


# ---- data ------------------------------------------------------------------------------------------------


class Split(Strict):
    """One split of a data set."""

    images: str
    """Folder of pictures; `file_name` (COCO) or stem (VOC) is relative to it."""
    annotations: str
    """COCO: the JSON file. VOC: the folder of XML files."""
    names: str | None = None
    """VOC only: text file with one stem per line (`ImageSets/Main/train.txt`); None takes every XML file."""


class DataConfig(Strict):
    """A data set: either a folder whose layout is recognised (`path`), or both splits spelt out.

    In JSON a plain string stands for `{"path": ...}`.
    """

    format: Literal["auto", "coco", "voc"] = "auto"
    """`auto` recognises it by the layout; COCO where both are there."""
    path: str | None = None
    """Folder of a data set whose layout is recognised; instead of `train` and `val`."""
    train: Split | None = None
    """The split that is learnt from; instead of `path`."""
    val: Split | None = None
    """The split that every model is judged on."""
    classes: tuple[str, ...] | None = None
    """The class names, in label order (label 1 is the first). None takes those of the training split. A list
    that differs from the data set's own (as a set) is refused: a typo here would silently drop objects."""

    @model_validator(mode="before")
    @classmethod
    def _a_string_is_a_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _path_or_splits(self) -> DataConfig:
        if (self.path is None) == (self.train is None):
            raise ValueError("give either `path` (a folder whose layout is recognised) or `train` and `val`")
        if (self.train is None) != (self.val is None):
            raise ValueError("`train` and `val` belong together; distillation is judged on `val`")
        return self


# ---- detectors -------------------------------------------------------------------------------------------


class FpnConfig(Strict):
    """Feature pyramid."""

    channels: int = Field(default=256, ge=8, le=1024, multiple_of=8)
    """torchvision's and the papers' 256; 64 to 128 is enough for few classes and small pictures."""


class HeadConfig(Strict):
    """Prediction heads."""

    depth: int = Field(default=4, ge=1, le=8)
    """Convolutions in each tower (RetinaNet, FCOS) or in the box head (Faster R-CNN); 4 as in the papers."""
    width: int | None = Field(default=None, ge=8, le=1024, multiple_of=8)
    """Channels of the towers; None: those of the FPN."""


class DetectorConfig(Strict):
    """A detector on a torchvision ResNet with an FPN."""

    architecture: Architecture = "fcos"
    """FCOS has no anchors to fit, and trains quickly from scratch."""
    backbone: Backbone = "resnet18"
    """resnet18 does less than half the work of resnet50, which suits a student."""
    backbone_width: float = Field(default=1.0, ge=0.125, le=2)
    """Channels of the backbone, relative to the usual ones. 0.5 has a quarter of the weights and of the work; weights
    published elsewhere fit 1 only."""
    fpn: FpnConfig = FpnConfig()
    """Feature pyramid between backbone and head."""
    head: HeadConfig = HeadConfig()
    """Heads that predict classes and boxes on every level."""
    norm: Literal["batch", "group", "frozen"] = "batch"
    """Backbone and FPN: `batch` and `group` learn from scratch; `frozen` keeps the statistics of loaded weights.
    Heads always use group norm: their weights are shared over levels whose statistics differ."""
    weights: str | None = None
    """Start from this checkpoint (a safetensors file of GKD) instead of from scratch."""


class TeacherConfig(Strict):
    """The teacher: a published checkpoint, which knows its own architecture and classes."""

    weights: str
    """Path of a safetensors file of GKD."""
    architecture: Architecture | None = None
    """Optional check: refused when the file says otherwise."""
    backbone: Backbone | None = None
    """Optional check: refused when the file says otherwise."""


# ---- distillation ----------------------------------------------------------------------------------------


class PrototypesConfig(Strict):
    """PGM: prototype generation (docs/method.md)."""

    selection: Literal["orthogonal", "reference"] = "orthogonal"
    """`orthogonal`: distinct, jointly re-fitted, any class size. `reference`: the authors' pursuit, repeats and all."""
    per_class: int = Field(default=10, ge=1, le=100)
    """K of the paper."""
    alpha: float = Field(default=10.0, ge=0)
    """The paper's lambda: how strongly the coefficients in both spaces are tied."""
    max_instances: int = Field(default=800, ge=1)
    """Instances pooled per class at most, the paper's number of images; a fixed random subset beyond that."""
    min_box_side: float = Field(default=8.0, ge=0)
    """Shorter side of a box, in pixels of the resized picture, from which its features are worth pooling:
    one cell of the finest level. The authors ask for 30 on pictures of 1333 x 800."""
    every: int = Field(default=1, ge=1)
    """Epochs between two renewals."""


class GlobalConfig(Strict):
    """Global loss of RDM."""

    weight: float = Field(default=0.5, ge=0)
    """Published `factor` 5, for detectors that start from converged weights. From scratch 5 sends four times the
    gradient of the detection losses through a backbone that knows nothing yet (docs/decisions/0008)."""
    form: Literal["cosine", "projection"] = "cosine"
    """`cosine`: smooth-L1 of weighted cosines (published code). `projection`: squared distance (the paper)."""


class LocalConfig(Strict):
    """Local loss of RDM: decoupled feature imitation."""

    weight: float = Field(default=0.3, ge=0)
    """Multiplies both parts below. Published 1; see `global.weight`."""
    foreground: float = Field(default=1.0, ge=0)
    """Weight inside boxes, as published."""
    background: float = Field(default=0.3, ge=0)
    """Weight outside boxes. Published 4: most of the gradient would then teach what is not there."""


class ResponseConfig(Strict):
    """Response loss of RDM: the student's scores imitate the teacher's."""

    weight: float = Field(default=10.0, ge=0)
    """Published 1, for softmax heads. Of the three losses this one points where the detection losses point, and it
    is a mean over classes and places, so it is small (docs/decisions/0008)."""
    temperature: float = Field(default=2.0, gt=0)
    """Published T."""


class DistillConfig(Strict):
    """What is distilled, and how strongly. A weight of 0 leaves a part out."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    conventions: Literal["default", "reference"] = "default"
    """`reference` keeps the published code's pooling, levels and masks, defects included (docs/method.md)."""
    prototypes: PrototypesConfig = PrototypesConfig()
    """How prototypes are chosen (PGM)."""
    global_: GlobalConfig = Field(default=GlobalConfig(), alias="global")
    """How an instance relates to the prototypes should agree."""
    local: LocalConfig = LocalConfig()
    """What the features are should agree."""
    response: ResponseConfig = ResponseConfig()
    """What is predicted should agree."""
    attenuation: Literal["linear", "constant"] = "linear"
    """`linear`: 1 - epoch / epochs on global and local loss, as published."""
    control: bool = True
    """Also train the same student, from the same start, in the same order, with distillation off. Without it
    nobody can say what distillation gained."""


# ---- training --------------------------------------------------------------------------------------------


class OptimizerConfig(Strict):
    """Optimiser. The defaults train small detectors from scratch."""

    name: Literal["adamw", "sgd"] = "adamw"
    """AdamW needs less tuning from scratch."""
    lr: float = Field(default=6e-4, gt=0)
    """Peak, for the whole batch. For SGD 0.01 at batch 8 is usual."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Not applied to norms and biases."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD only."""
    clip_norm: float = Field(default=10.0, gt=0)
    """Gradients are scaled down to this norm: early spikes from scratch cost epochs."""


class ScheduleConfig(Strict):
    """Learning rate: linear warm-up, then a cosine down to `final` times the peak."""

    warmup_epochs: float = Field(default=1.0, ge=0)
    """From nearly 0 to the peak; networks that start from scratch diverge without."""
    final: float = Field(default=0.01, ge=0, le=1)
    """Share of the peak that is left at the end."""


Scale = Annotated[float, Field(ge=0.1, le=10)]
"""A factor on the size of a picture. Beyond these nothing of it would be left, or no memory."""


class AugmentConfig(Strict):
    """Augmentation; boxes follow, teacher and student see the same pixels."""

    flip: float = Field(default=0.5, ge=0, le=1)
    """Chance of a horizontal flip."""
    scale: tuple[Scale, Scale] = (0.6, 1.4)
    """Range of scale jitter; enlarged pictures are cropped, reduced ones are not padded."""
    mosaic: float = Field(default=0.5, ge=0, le=1)
    """Chance that four pictures are put together."""
    mosaic_until: float = Field(default=0.8, ge=0, le=1)
    """Share of the epochs with mosaic; the last ones see pictures as they are."""

    @model_validator(mode="after")
    def _a_range_ascends(self) -> AugmentConfig:
        low, high = self.scale
        if low > high:
            raise ValueError(
                f"`scale` is a range from the smaller to the larger factor, got {low:g} to {high:g}"
            )
        return self


class TrainConfig(Strict):
    """The training recipe, shared by student and control."""

    epochs: int = Field(default=30, ge=1, le=100_000)
    """Passes over the training split."""
    batch_size: int = Field(default=8, ge=1, le=4096)
    """Pictures per optimiser step."""
    accumulate: int = Field(default=1, ge=1)
    """Micro-batches per step; divides `batch_size`. Raised by itself after running out of memory."""
    image_size: int = Field(default=640, ge=64, le=4096, multiple_of=32)
    """Longer side of the resized picture, in pixels."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Decides initial weights, order and augmentation; the same seed gives the same run."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """What follows the gradients."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How the learning rate changes."""
    augment: AugmentConfig = AugmentConfig()
    """How pictures are varied."""
    ema: float | None = Field(default=0.998, ge=0, lt=1)
    """Decay of the averaged weights that are evaluated and published (it grows towards this at the start, so
    that short runs work); None: off."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the networks compute in while training; heads, losses, prototypes and evaluation stay in float32.
    `bfloat16` is about twice as fast on processors that have it (AVX-512 BF16, AMX, GPUs since Ampere) and slower
    on others, so it has to be asked for."""
    evaluate_every: int = Field(default=1, ge=1)
    """Epochs; the last epoch is always evaluated."""
    workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = "auto"
    """Threads that load pictures, 0: none of its own; auto: one less than the cores, at most 4."""

    @model_validator(mode="after")
    def _micro_batches_are_whole(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate {self.accumulate} does not divide batch_size {self.batch_size}")
        return self


# ---- the whole -------------------------------------------------------------------------------------------


class TrainRun(Strict):
    """Train one detector: a teacher, or a plain student."""

    kind: Literal["train"] = "train"
    data: DataConfig
    model: DetectorConfig = DetectorConfig()
    train: TrainConfig = TrainConfig()
    device: Literal["auto", "cpu", "cuda"] = "auto"


class DistillRun(Strict):
    """Distil a teacher into a student, with a control."""

    kind: Literal["distill"] = "distill"
    data: DataConfig
    teacher: TeacherConfig
    student: DetectorConfig = DetectorConfig()
    distill: DistillConfig = DistillConfig()
    train: TrainConfig = TrainConfig()
    device: Literal["auto", "cpu", "cuda"] = "auto"


RunConfig = Annotated[TrainRun | DistillRun, Field(discriminator="kind")]
run_config: TypeAdapter[TrainRun | DistillRun] = TypeAdapter(RunConfig)
"""Reads a config: `run_config.validate_json(text)`."""
