"""Prediction on single images, and the metadata that it needs: classes and image size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from gkd_core.config import Architecture, FpnConfig, HeadConfig
from gkd_core.data.augment import Picture, resize
from gkd_core.data.pictures import read_header, read_image
from gkd_core.detectors.detector import Detections, Detector, Shown
from gkd_core.detectors.model_card import ModelCard
from gkd_core.errors import Problem, SpecError

SCORE = 0.3
"""Default score threshold, as in `gkd predict`."""


class Predicts:
    """A detector that knows its classes, and so can predict on images."""

    architecture: Architecture
    """Its architecture."""
    classes: tuple[str, ...] = ()
    """Label 1 is the first."""
    image_size: int = 0
    """Longer side of its input images, in pixels."""
    white: int | None = None
    """Value of white in images of 16 or 32 bits; None: derived from each image."""
    backbone_name: str = ""
    """Name of the backbone, for reports."""
    source: str | None = None
    """The file that it was loaded from."""

    @overload
    def predict(self, pictures: Shown, *, score: float = SCORE) -> Detections: ...

    @overload
    def predict(
        self, pictures: list[Shown] | tuple[Shown, ...], *, score: float = SCORE
    ) -> list[Detections]: ...

    def predict(self: Any, pictures: Any, *, score: float = SCORE) -> Detections | list[Detections]:
        """Detect on an image, or on each of a list; the mode of the detector is restored afterwards.

        Args:
            pictures: a file, an array (H, W, 3) of 8 bits in RGB, a Pillow image, or a list of such.
            score: lowest score of a detection.

        Raises:
            PictureError: a file cannot be decoded.
            SpecError: an argument is no image, or the classes of the detector are unknown.
        """
        if not self.classes:
            message = f"this {type(self).__name__} does not know its classes and picture size"
            hint = "Build, load or wrap it with `gkd`."
            raise SpecError([Problem(loc=("classes",), message=message, hint=hint)])
        several = isinstance(pictures, list | tuple)
        with _evaluating(self):
            found = [_look_at(self, each, score) for each in (pictures if several else [pictures])]
        return found if several else found[0]


def describe(
    detector: Detector,
    classes: Sequence[str],
    image_size: int,
    white: int | None = None,
    *,
    backbone: str = "",
    source: str | None = None,
) -> Detector:
    """Attach the metadata of `Predicts` to a detector and return it. None of it is part of its state dict."""
    detector.classes, detector.image_size, detector.white = tuple(classes), image_size, white
    detector.backbone_name, detector.source = backbone, source
    return detector


def image_size_of(detector: Detector) -> int:
    """Return the longer side of the pictures, in pixels, that a detector carries.

    Raises:
        SpecError: it carries none.
    """
    size: int = getattr(detector, "image_size", 0)
    if not size:
        message = f"this {type(detector).__name__} does not say how large its pictures are"
        raise SpecError([Problem(loc=("image_size",), message=message, hint="Give image_size=.")])
    return size


def card_of(detector: Detector) -> ModelCard:
    """Return a model card of a detector in memory, for a report.

    Widths and heads are left at their defaults, and the backbone may be one that no config knows, so it is not
    checked: nothing is rebuilt from this card, and it is written to no file.
    """
    return ModelCard.model_construct(
        architecture=detector.architecture,
        backbone=detector.backbone_name,
        fpn=FpnConfig(),
        head=HeadConfig(),
        norm="batch",
        classes=detector.classes,
        image_size=detector.image_size,
        white=detector.white,
    )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, without gradients, while the block runs."""
    was = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was)


def _look_at(detector: Detector, shown: Shown, score: float) -> Detections:
    """Detect on one image, resized as in evaluation."""
    image, (true_width, true_height) = _opened(shown, 2 * detector.image_size, detector.white)
    none = np.zeros(0, np.int64)
    pixels = resize(Picture(image, np.zeros((0, 4), np.float32), none, none), detector.image_size).pixels
    height, width = pixels.shape[:2]
    device = next(detector.parameters()).device
    picture = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)).to(device)
    found = {name: _array(values) for name, values in detector([picture])[0].items()}
    kept = np.flatnonzero((found["scores"] >= score) & (found["labels"] > 0))
    labels = found["labels"][kept]
    boxes = found["boxes"][kept] * np.array([true_width / width, true_height / height] * 2, np.float32)
    names = tuple(detector.classes[label - 1] for label in labels)
    return Detections(boxes.astype(np.float32), labels, found["scores"][kept], names)


def _array(values: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = values.cpu().numpy()
    return found


def _opened(shown: Shown, at_least: int, white: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """Return an image in RGB, perhaps reduced, and its true width and height."""
    match shown:
        case str() | Path():
            return read_image(Path(shown), at_least, white), read_header(Path(shown))
        case Image.Image():
            return shown.convert("RGB"), shown.size
        case np.ndarray() if shown.dtype == np.uint8 and shown.ndim == 3 and shown.shape[2] == 3:
            image = Image.fromarray(shown)
            return image, image.size
    seen = f"{shown.dtype} {shown.shape}" if isinstance(shown, np.ndarray) else type(shown).__name__
    message = f"a picture is a path, an array (height, width, 3) of uint8, or a Pillow image, got {seen}"
    raise SpecError([Problem(loc=("pictures",), message=message)])
