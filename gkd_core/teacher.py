"""The teacher: a published detector, frozen, and how its classes correspond to those of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gkd_core.checkpoint import load_model
from gkd_core.config import TeacherConfig
from gkd_core.detectors import Detector
from gkd_core.errors import Problem, SpecError
from gkd_core.model_card import ModelCard


class Teacher(NamedTuple):
    """A frozen detector that is looked at."""

    detector: Detector
    """In evaluation mode, without gradients."""
    known: int
    """How many classes it knows."""
    columns: Tensor
    """(C,) for each class of the data, its label in the teacher's scores."""

    @property
    def labels(self) -> np.ndarray:
        """(known classes + 1,) for each label of the teacher, that of the data; 0 for a class the data lacks."""
        labels = np.zeros(self.known + 1, dtype=np.int64)
        labels[self.columns.numpy()] = np.arange(1, len(self.columns) + 1)
        return labels

    @classmethod
    def load(cls, config: TeacherConfig, classes: Sequence[str], device: torch.device) -> Teacher:
        """Rebuild the teacher from its file.

        Raises:
            SpecError: the file is no model, is not what the spec declares, or lacks a class of the data.
        """
        detector, card = load_model(config.weights, device)
        _require_as_declared(config, card)
        return cls(detector.requires_grad_(False), len(card.classes), match_classes(card.classes, classes))


def match_classes(known: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """(C,) the label, from 1, that a teacher who knows `known` gives to each wanted class; matched by name.

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
    """A teacher that is not what the spec says is a mistake that somebody wants to hear of."""
    for field in ("architecture", "backbone"):
        declared, found = getattr(config, field), getattr(card, field)
        if declared not in (None, found):
            message = f"the spec says {declared}, the teacher's file says {found}"
            raise SpecError([Problem(loc=("teacher", field), message=message, hint="Leave the field out.")])
