"""The teacher: a trained detector, frozen, and how its classes correspond to those of the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gkd_core.config import DetectorConfig, TeacherConfig
from gkd_core.detectors.adapt import padded_size, padded_to
from gkd_core.detectors.build import build_detector, pyramid
from gkd_core.detectors.checkpoint import load_model
from gkd_core.detectors.detector import Detector
from gkd_core.detectors.model_card import ModelCard, carries_card
from gkd_core.detectors.published import COCO_CLASSES, DETECTORS, IMAGE_SIZE, image_size, is_name
from gkd_core.detectors.weights import load_weights
from gkd_core.errors import Problem, SpecError

DECLARED = ("architecture", "backbone", "layout", "classes")
"""Fields that a spec may declare of a model, and must where its file does not record them."""


class OpenedModel(NamedTuple):
    """A trained detector in memory."""

    detector: Detector
    card: ModelCard
    """Its model card: classes, and metadata for reports."""


class Teacher(NamedTuple):
    """A frozen detector that the student imitates."""

    detector: Detector
    """In evaluation mode, without gradients."""
    columns: Tensor
    """(C,) for each class of the data, its column in the teacher's scores."""
    labels: np.ndarray
    """(known classes + 1,) for each label of the teacher, that of the data; 0 for a class the data lacks."""

    @classmethod
    def load(cls, config: TeacherConfig, classes: Sequence[str], device: torch.device) -> Teacher:
        """Rebuild the teacher from its file.

        Raises:
            SpecError: the file is no model, is not what the spec declares, or lacks a class of the data.
        """
        return cls.of(OpenedModel(*open_model(config, device)), classes)

    @classmethod
    def of(cls, model: OpenedModel, classes: Sequence[str]) -> Teacher:
        """Freeze a detector in memory.

        Raises:
            SpecError: it lacks a class of the data.
        """
        detector, known = model.detector, model.card.classes
        columns = match_classes(known, classes)
        return cls(detector.eval().requires_grad_(False), columns, labels_of(known, classes))


def open_model(config: TeacherConfig, device: torch.device | str = "cpu") -> tuple[Detector, ModelCard]:
    """Load a trained detector from a file of GKD, torchvision's published weights, or a plain state dict.

    Raises:
        SpecError: the weights cannot be read or do not fit, or they are not what the config declares.
    """
    if carries_card(config.weights) or (not Path(config.weights).is_file() and not is_name(config.weights)):
        detector, card = load_model(config.weights, device)
    else:
        card = _card_from_config(config)
        detector = build_detector(card.detector(), len(card.classes), card.image_size)
        load_weights(detector, config.weights)
        detector = detector.to(device, memory_format=torch.channels_last).eval()
    _require_as_declared(config, card)
    return detector, card


def _card_from_config(config: TeacherConfig) -> ModelCard:
    """Return the card of a detector whose file contains none."""
    if config.weights in DETECTORS:
        return ModelCard.of(DETECTORS[config.weights], COCO_CLASSES, image_size(config.weights))
    if is_name(config.weights):
        message = f"{config.weights} fills no detector; torchvision's are {', '.join(DETECTORS)}"
        raise SpecError([Problem(loc=("weights",), message=message)])
    missing = [field for field in DECLARED if getattr(config, field) is None]
    if missing:
        message = f"{config.weights} is a plain state dict, which says nothing of its {', '.join(missing)}"
        hint = "Declare architecture, backbone, layout and classes (in label order) beside the weights."
        raise SpecError([Problem(loc=(missing[0],), message=message, hint=hint)])
    if config.layout == "gkd":
        message = f"{config.weights} carries no card, and layout 'gkd' leaves widths and anchors open"
        hint = "Use the .safetensors file that a GKD job published."
        raise SpecError([Problem(loc=("layout",), message=message, hint=hint)])
    declared = {field: getattr(config, field) for field in DECLARED if field != "classes"}
    detector = DetectorConfig(**declared, norm="batch" if config.layout == "torchvision_v2" else "frozen")
    return ModelCard.of(detector, config.classes or (), IMAGE_SIZE)


def labels_of(known: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Return (len(known) + 1,), for each label of a model, from 0 for background, that of the data; 0: none.

    Args:
        known: the model's classes; label 1 is the first.
        wanted: the data's classes, likewise.
    """
    return np.array([0, *(wanted.index(name) + 1 if name in wanted else 0 for name in known)], dtype=np.int64)


def match_classes(known: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Return (C,) the label, from 1, that a model gives to each wanted class; matched by name.

    Raises:
        SpecError: the teacher lacks classes; they are named.
    """
    missing = [name for name in wanted if name not in known]
    if missing:
        message = f"the teacher does not know {', '.join(missing)}; it knows {', '.join(known)}"
        hint = "Train the teacher on the same classes."
        raise SpecError([Problem(loc=("teacher", "weights"), message=message, hint=hint)])
    return torch.tensor([list(known).index(name) + 1 for name in wanted])


def _require_as_declared(config: TeacherConfig, card: ModelCard) -> None:
    """Raise if a model differs from what the spec declares."""
    for field in DECLARED:
        declared, found = getattr(config, field), getattr(card, field)
        if declared not in (None, found):
            message = f"the spec says {_quoted(declared)}, the file says {_quoted(found)}"
            raise SpecError([Problem(loc=("teacher", field), message=message, hint="Leave the field out.")])


def _quoted(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def pyramid_on_cells_of(
    student: Detector, teacher: Detector, pictures: list[Tensor], zoomed: list[Tensor] | None, zoom: int
) -> list[Tensor]:
    """Return the teacher's maps, of pictures that are padded to `zoom` times the student's padded size.

    Args:
        student: whose padding counts.
        teacher: whose maps are wanted.
        pictures: B tensors (3, H, W), what the student sees.
        zoomed: B tensors (3, zoom x H, zoom x W), what the teacher sees; None where `zoom` is 1.
        zoom: how many times as large they are.

    Raises:
        ValueError: `zoomed` is missing or of another size.
    """
    if zoom == 1:
        return pyramid(teacher, pictures)[0]
    height, width = padded_size(student, pictures)
    wanted = [(zoom * picture.shape[1], zoom * picture.shape[2]) for picture in pictures]
    if zoomed is None or [(picture.shape[1], picture.shape[2]) for picture in zoomed] != wanted:
        raise ValueError(f"the teacher sees pictures {zoom} times as large: give them as `zoomed`")
    with padded_to(zoom * height, zoom * width, teacher):
        return pyramid(teacher, zoomed)[0]
