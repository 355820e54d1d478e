"""Detector: the interface of a RetinaNet, FCOS or Faster R-CNN, whoever built it.

A protocol, since the classes are torchvision's. The modules inside are untyped, as torchvision leaves them. Detectors
are `nn.Module`s too; where torch expects one, `as_module` casts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, cast, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from gkd_core.config import Architecture

Targets = list[dict[str, Tensor]]
"""Of each picture boxes (n, 4) x1, y1, x2, y2 in pixels, and labels (n,) from 1."""
Shown = str | Path | NDArray[np.uint8] | Image.Image
"""An image: its file, (H, W, 3) RGB of 8 bits, or a Pillow image."""


@dataclass(frozen=True, eq=False)
class Detections:
    """The N detections on an image, highest score first."""

    boxes: NDArray[np.float32]
    """(N, 4) x1, y1, x2, y2 in pixels of the picture."""
    labels: NDArray[np.int64]
    """(N,) from 1."""
    scores: NDArray[np.float32]
    """(N,) in 0..1."""
    names: tuple[str, ...]
    """(N,) the class of each."""

    def __len__(self) -> int:
        return len(self.boxes)


class Detector(Protocol):
    """A detector of torchvision with what this engine adds (`adapt.adapt`)."""

    # ---- added here --------------------------------------------------------------------------------------

    strides: tuple[int, ...]
    """Pixels per cell of each level of its pyramid, finest first."""
    cells_per_box: float
    """A box belongs to the level on which it is at least so many cells wide."""
    architecture: Architecture
    classes: tuple[str, ...]
    """Label 1 is the first; empty unless `predict.describe` set it and the next ones."""
    image_size: int
    white: int | None
    backbone_name: str
    source: str | None

    @overload
    def predict(self, pictures: Shown, *, score: float = ...) -> Detections: ...

    @overload
    def predict(
        self, pictures: list[Shown] | tuple[Shown, ...], *, score: float = ...
    ) -> list[Detections]: ...

    # ---- torchvision's -----------------------------------------------------------------------------------

    transform: Any
    """Normalises and pads."""
    score_thresh: float
    """Of RetinaNet and FCOS, as the next two: what detections must reach, where two overlap, how many count."""
    nms_thresh: float
    detections_per_img: int
    backbone: Any
    """(B, 3, H, W) to the maps of the pyramid, by number; has `out_channels`."""
    head: Any
    """Of RetinaNet and FCOS."""
    rpn: Any
    """Of Faster R-CNN, as the next one."""
    roi_heads: Any
    anchor_generator: Any
    """Of RetinaNet and FCOS."""

    # ---- torch's -----------------------------------------------------------------------------------------

    training: bool

    def __call__(self, images: list[Tensor], targets: Targets | None = None) -> Any:
        """Return named losses in training; in evaluation mode boxes, labels and scores of each picture."""
        ...

    def train(self, mode: bool = True) -> Self:
        """Set training mode."""
        ...

    def eval(self) -> Self:
        """Set evaluation mode."""
        ...

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device, or convert."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze or unfreeze the weights."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return the parameters."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """Return this module and all submodules."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return weights and statistics by name."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Load weights and statistics by name."""
        ...


def as_module(detector: Detector) -> nn.Module:
    """Return the same object as the module that it is."""
    return cast(nn.Module, detector)


def as_detector(module: nn.Module) -> Detector:
    """Return the same object as the detector that it is."""
    return cast(Detector, module)
