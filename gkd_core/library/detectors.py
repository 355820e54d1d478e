"""Detectors by name: a config, a fresh detector, or a trained one from its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gkd_core.config import StudentConfig, TeacherConfig
from gkd_core.detectors import build
from gkd_core.detectors.detector import Detector
from gkd_core.detectors.predict import describe
from gkd_core.detectors.weights import load_weights
from gkd_core.distill.inheritance import inherit
from gkd_core.distill.pairing import classes_of
from gkd_core.distill.teacher import match_classes, open_model
from gkd_core.errors import Problem, SpecError, checked
from gkd_core.runs.session import find_device


def detector(architecture: str = "fcos", backbone: str = "resnet18", **options: Any) -> StudentConfig:
    """Return the config of a detector, to be built and trained by `distill`.

    Args:
        architecture: `retinanet`, `faster_rcnn` or `fcos`.
        backbone: one of torchvision's, or `timm:<name>`.
        options: other fields of `config.StudentConfig`, such as `backbone_width=0.5`, `fpn={"channels": 96}` or
            `inherit=["fpn", "head"]`.

    Raises:
        SpecError: a field is wrong.
    """
    return checked(StudentConfig, "student", architecture=architecture, backbone=backbone, **options)


def build_detector(
    architecture: str = "fcos",
    backbone: str = "resnet18",
    *,
    classes: Sequence[str],
    image_size: int = 640,
    teacher: Detector | None = None,
    **options: Any,
) -> Detector:
    """Return a freshly initialised detector, in training mode, for a training loop of your own.

    It is one of torchvision's: `detector(images, targets)` gives named losses; labels count from 1. Initial weights
    are drawn from torch's global generator.

    Args:
        architecture: `retinanet`, `faster_rcnn` or `fcos`.
        backbone: one of torchvision's, or `timm:<name>`.
        classes: the C names in label order; label 1 is the first.
        image_size: longer side of the pictures in pixels; decides the anchors.
        teacher: whose weights the parts in `inherit` start from; it knows its classes.
        options: other fields of `config.StudentConfig`; `weights` are loaded, and over them what is in `inherit`.

    Raises:
        SpecError: a field is wrong, weights do not fit, or nothing of a part can be inherited.
    """
    names = _names(classes)
    config = detector(architecture, backbone, **options)
    built = build.build_detector(config, len(names), image_size)
    if config.weights:
        load_weights(built, config.weights, names)
    if config.inherit:
        _inherit(built, config, teacher, names)
    return describe(built, names, image_size, backbone=config.backbone)


def load_detector(weights: str | Path, *, device: str = "auto", **declared: Any) -> Detector:
    """Return a trained detector, in evaluation mode.

    Args:
        weights: a `.safetensors` file of GKD, a plain state dict of a torchvision detector, or torchvision's name of
            published weights.
        device: `auto`, `cpu` or `cuda`.
        declared: what a plain state dict does not record: `architecture`, `backbone`, `layout` and `classes`.

    Raises:
        SpecError: there is no such file, or it holds no detector that fits.
    """
    config = checked(TeacherConfig, "teacher", weights=str(weights), **declared)
    opened, card = open_model(config, find_device(device))
    return describe(
        opened, card.classes, card.image_size, card.white, backbone=card.backbone, source=str(weights)
    )


def _inherit(
    built: Detector, config: StudentConfig, teacher: Detector | None, names: tuple[str, ...]
) -> None:
    if teacher is None:
        message = "`inherit` needs a teacher, and there is none"
        raise SpecError([Problem(loc=("student", "inherit"), message=message, hint="Give teacher=.")])
    inherit(built, teacher, config.inherit, match_classes(classes_of(teacher), names))


def _names(classes: Sequence[str]) -> tuple[str, ...]:
    names = () if isinstance(classes, str) else tuple(classes)
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        message = f"`classes` are different names in label order, got {classes!r:.80}"
        hint = "Give those of the data: classes=data.classes."
        raise SpecError([Problem(loc=("classes",), message=message, hint=hint)])
    return names
