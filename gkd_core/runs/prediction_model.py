"""The detector that `gkd predict` runs, opened from its file: with torch, or a .onnx file without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gkd_core.config import TeacherConfig
from gkd_core.detectors.onnx import OnnxDetector
from gkd_core.errors import Problem, SpecError

Detect = Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]
"""(3, H, W) in 0..1 -> boxes (N, 4) in its pixels, labels (N,) from 1, scores (N,)."""


class Model(NamedTuple):
    """A detector that is ready to run."""

    detect: Detect
    classes: tuple[str, ...]
    """Label 1 is the first."""
    image_size: int
    """Longer side of its input images, in pixels."""
    white: int | None = None
    """Value of white in images of 16 or 32 bits, as in its training; None: derived from each image."""


def open_model(path: str) -> Model:
    """Load a detector from its file.

    Raises:
        SpecError: there is no such file, it holds no detector, or the package that runs it is not installed.
    """
    if Path(path).suffix.lower() != ".onnx":
        return _open_in_torch(path)
    if not Path(path).is_file():
        raise SpecError([Problem(loc=("model",), message=f"there is no file {path}")])
    detector = OnnxDetector(Path(path))
    return Model(detector, detector.classes, detector.image_size, detector.white)


def _open_in_torch(path: str) -> Model:
    try:
        import torch

        from gkd_core.detectors.build import detect
        from gkd_core.distill.teacher import open_model
    except ImportError as error:
        hint = "Install it, pip install 'gkd[engine]', or name a .onnx file, which needs onnxruntime only."
        message = f"running {path} needs {error.name}, which is not installed"
        raise SpecError([Problem(loc=("model",), message=message, hint=hint)]) from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    detector, card = open_model(TeacherConfig(weights=path), device)

    def run(picture: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        found = detect(detector, [torch.from_numpy(picture).to(device)])[0]
        return {name: values.cpu().numpy() for name, values in found.items()}

    return Model(run, card.classes, card.image_size, card.white)
