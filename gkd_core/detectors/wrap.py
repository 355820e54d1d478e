"""`wrap`: use a plain RetinaNet, Faster R-CNN or FCOS of torchvision, with any backbone, as a detector of GKD.

The weights are shared with the given detector; what is put around them belongs to the wrapped one alone: it takes
images that are already resized, and stores which locations were assigned which object.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.ops import MultiScaleRoIAlign

from gkd_core.config import Architecture
from gkd_core.detectors.adapt import adapt
from gkd_core.detectors.detector import Detector, as_detector
from gkd_core.detectors.predict import Predicts, describe
from gkd_core.detectors.published import COCO_CLASSES
from gkd_core.errors import Problem, SpecError

FAMILIES: dict[type[nn.Module], Architecture] = {
    detection.RetinaNet: "retinanet",
    detection.FasterRCNN: "faster_rcnn",
    detection.FCOS: "fcos",
}
LOOKED_AT = 512
"""Side in pixels of the empty image from whose feature maps strides are measured: four cells at stride 128."""


def wrap(
    detector: nn.Module, classes: Sequence[str] | None = None, *, image_size: int | None = None
) -> Detector:
    """Return a detector of torchvision as teacher or student; its normalisation is kept.

    Args:
        detector: a `RetinaNet`, `FasterRCNN` or `FCOS` with any backbone.
        classes: the names in label order, without background; None: what its attribute `classes` says, or COCO's
            where it has torchvision's 91 scores.
        image_size: longer side of the pictures in pixels, for `predict`; None: the longest that its own transform
            makes.

    Raises:
        SpecError: it is no such detector, or its classes are unknown.
    """
    if isinstance(detector, Predicts):
        ours = as_detector(detector)
        return describe(ours, classes or ours.classes, image_size or ours.image_size)
    family = FAMILIES.get(type(detector))
    if family is None:
        known = ", ".join(each.__name__ for each in FAMILIES)
        message = f"torchvision's {known} can be wrapped, got {type(detector).__name__}"
        raise SpecError([Problem(loc=("detector",), message=message)])
    names = _class_names(detector, classes)
    shell = _shell_of(detector)
    given: Any = shell.transform
    strides = _number_levels(shell)
    adapt(shell, family, _three(given.image_mean, "mean"), _three(given.image_std, "std"), strides)
    shell.transform.size_divisible = given.size_divisible
    backbone = type(getattr(shell.backbone, "body", shell.backbone)).__name__
    return describe(shell, names, image_size or int(given.max_size), backbone=backbone)


def _shell_of(detector: nn.Module) -> Any:
    """Return a shallow copy with the same children, so that the given detector keeps its own transform."""
    shell = copy.copy(detector)
    shell._modules = dict(detector._modules)
    return shell


def _number_levels(detector: Any) -> tuple[int, ...]:
    """Make the backbone name its feature maps 0, 1, 2, ..., as all other code expects; return their strides."""
    names = list(_maps(detector))
    pool = getattr(getattr(detector, "roi_heads", None), "box_roi_pool", None)
    if isinstance(pool, MultiScaleRoIAlign):
        pool.featmap_names = [str(names.index(name)) for name in pool.featmap_names if name in names]
    if _numbered not in detector.backbone._forward_hooks.values():
        detector.backbone.register_forward_hook(_numbered)
    return tuple(round(LOOKED_AT / level.shape[-1]) for level in _maps(detector).values())


@torch.no_grad()
def _maps(detector: Any) -> dict[str, Tensor]:
    """Return the feature maps of an empty image, by name."""
    backbone, was = detector.backbone, detector.backbone.training
    weight = next(detector.parameters())
    maps = backbone.eval()(torch.zeros(1, 3, LOOKED_AT, LOOKED_AT, device=weight.device, dtype=weight.dtype))
    backbone.train(was)
    return {"0": maps} if isinstance(maps, Tensor) else dict(maps)


def _numbered(_module: nn.Module, _inputs: Any, maps: Any) -> OrderedDict[str, Tensor]:
    """Return feature maps by number, in a forward hook of the backbone; also of one with a single map."""
    levels = [maps] if isinstance(maps, Tensor) else maps.values()
    return OrderedDict((str(number), level) for number, level in enumerate(levels))


# ---- metadata of the given detector ----------------------------------------------------------------------


def _class_names(detector: Any, given: Sequence[str] | None) -> tuple[str, ...]:
    scores = _scores(detector)
    names = given if given is not None else getattr(detector, "classes", None)
    if names is None and scores == len(COCO_CLASSES) + 1:
        names = COCO_CLASSES
    if names is None:
        message = f"the detector scores {scores - 1} classes and does not say which"
        hint = "Give classes=(...), the names in label order; label 1 is the first."
        raise SpecError([Problem(loc=("classes",), message=message, hint=hint)])
    if isinstance(names, str) or len(names) != scores - 1:
        message = (
            f"{len(names)} class names for a detector of {scores} scores, of which the first is background"
        )
        hint = f"Give {scores - 1} names in label order; torchvision's labels count from 1."
        raise SpecError([Problem(loc=("classes",), message=message, hint=hint)])
    return tuple(names)


def _scores(detector: Any) -> int:
    """Return the number of scores of a box, background included."""
    if hasattr(detector, "roi_heads"):
        predictor = detector.roi_heads.box_predictor
        return int(getattr(predictor, "cls_score", predictor).out_features)
    return int(detector.head.classification_head.num_classes)


def _three(values: Sequence[float], what: str) -> tuple[float, float, float]:
    if len(values) != 3:
        message = f"its {what} has {len(values)} channels; pictures here have 3"
        raise SpecError([Problem(loc=("detector", what), message=message)])
    first, second, third = map(float, values)
    return first, second, third
