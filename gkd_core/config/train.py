"""The training recipe: optimiser, schedule, augmentation, precision."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gkd_core.config.strict import Strict

Metric = Literal[
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl", "VOC07", "VOC12"
]
"""A number that models can be ranked by: COCO's twelve, and the mean AP50 of VOC 2007 (11 points) and 2012."""


Workers = Annotated[int, Field(ge=0, le=256)] | Literal["auto"]
"""Threads that load pictures."""


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
