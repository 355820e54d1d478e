"""What is distilled and how strongly: prototypes (PGM) and the three losses (RDM)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from gkd_core.config.detector import Architecture, DistillTeacherConfig
from gkd_core.config.loss_base import LossConfig
from gkd_core.config.losses import AnyLoss, L, settled
from gkd_core.config.strict import Strict, wrong_at
from gkd_core.config.train import TrainConfig
from gkd_core.errors import Problem, SpecError

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
    losses: tuple[AnyLoss, ...] = ()
    """Losses of other methods, each by its name and with its settings, beside the three above (docs/losses.md)."""
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
            raise wrong_at(
                stop_epoch=f"distillation would stop at epoch {self.stop_epoch} and start at {self.start_epoch} only: "
                "raise `stop_epoch`, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _each_loss_once(self) -> DistillConfig:
        names = [loss.name for loss in self.losses]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise wrong_at(losses=f"{twice} is listed twice: list it once, with the sum of the weights")
        return self


RESPONSE_WEIGHT = 10 / 3
"""The value of `response.weight` "auto" where the two heads can be compared: 10 for the mean over three classes, for
which it was tuned, and so 10 / 3 for the sum over any number."""
RESPONSE_WEIGHT_OF_MEAN = 10.0
"""The same for the mean over classes, which `conventions` "reference" takes."""
LEAVE_OUT = "Leave it out, or use one family for both; losses that compare features alone fit any pair."
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


def settled_losses(losses: Sequence[L], student: Architecture, problem: Problem | None) -> tuple[L, ...]:
    """Return listed losses with a number for every weight; `problem` says why the heads cannot be compared.

    Raises:
        SpecError: a loss compares the heads, and they cannot be compared; or it does not fit the student.
    """
    asked = [(index, loss) for index, loss in enumerate(losses) if loss.weight]
    wrong = [
        Problem(loc=("distill", "losses", index), message=f"{loss.name}: {reason}", hint=hint)
        for index, loss in asked
        for reason, hint in _reasons_against(loss, student, problem)
    ]
    if wrong:
        raise SpecError(wrong)
    return tuple(settled(loss, student) for loss in losses)


def _reasons_against(
    loss: LossConfig, student: Architecture, problem: Problem | None
) -> Iterator[tuple[str, str]]:
    """Yield why a pair cannot have a loss, each with a hint."""
    if reason := loss.misfit(student):
        yield reason, "Leave it out, or change what it compares."
    elif problem and loss.needs_equal_heads():
        yield problem.message, LEAVE_OUT


def finest_anchor(layout: str, image_size: int) -> float:
    """Return the side in pixels of the smallest anchor of a RetinaNet.

    `image_size` is the longer side of the pictures that it is trained on.

    32 on 800 pixels as in the paper, in proportion on others, but never under two strides, where neighbouring anchors
    would leave gaps; torchvision's own detectors keep their 32.
    """
    return max(32 * image_size / 800, 16.0) if layout == "gkd" else 32.0


ZOOMS = (1, 2, 4)
"""How many times as large a teacher's pictures may be: each doubling shifts its pyramid by one level."""


def zoom_of(teacher: DistillTeacherConfig, train: TrainConfig) -> int:
    """Return how many times as large the teacher's pictures are as the student's."""
    return (teacher.image_size or train.image_size) // train.image_size


def require_whole_zoom(teacher: DistillTeacherConfig, train: TrainConfig) -> None:
    """Raise in validators of runs and specs that distil if the cells of both pyramids would not agree.

    Raises:
        ValidationError: the teacher's pictures are not 1, 2 or 4 times as large.
    """
    sizes = [zoom * train.image_size for zoom in ZOOMS]
    if teacher.image_size not in (None, *sizes):
        raise wrong_at(
            teacher__image_size=f"the teacher would see pictures of {teacher.image_size} pixels and the student of "
            f"{train.image_size}, and no cell of one would be a cell of the other: take {sizes[1]} or {sizes[2]}"
        )


def zoomed_scores(zoom: int) -> Problem | None:
    """Return why scores cannot be compared place by place if the teacher sees larger pictures; None if it does not."""
    if zoom == 1:
        return None
    message = f"the teacher sees pictures {zoom} times as large, so that its heads score other places"
    hint = "Set distill.response.weight to 0, or leave teacher.image_size out."
    return Problem(loc=("distill", "response", "weight"), message=message, hint=hint)


def require_beginning(distill: DistillConfig, train: TrainConfig) -> None:
    """Raise in validators of runs and specs that distil if distillation never starts.

    Raises:
        ValidationError: all epochs are over before distillation begins.
    """
    if distill.start_epoch >= train.epochs:
        raise wrong_at(
            distill__start_epoch=f"distillation would start at epoch {distill.start_epoch}, and epochs 0 to "
            f"{train.epochs - 1} are all there are: lower `start_epoch`, or raise `train.epochs`"
        )
