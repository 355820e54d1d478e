"""Where student and teacher are compared: the objects of a batch, and the places that the student calls positive.

Nothing here is a loss; the distiller pools and scores at these places. What a detector matched in its last training
step is read from its head, which remembers it (`detectors.py`).

Shapes: B pictures, N objects of the batch (ground truth), M positives (a proposal, anchor or location each), A
anchors or locations of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.fcos import FCOSHead

from gkd_core.compute.transfers import to_device, to_host
from gkd_core.config import Architecture
from gkd_core.detectors.detector import Detector, Targets

ARCHITECTURES: dict[str, Architecture] = {
    "RetinaNet": "retinanet",
    "FasterRCNN": "faster_rcnn",
    "FCOS": "fcos",
}
"""By class: torchvision's, and our own FCOS."""


class Instances(NamedTuple):
    """The objects of a batch."""

    boxes: Tensor
    """(N, 4) pixels."""
    labels: Tensor
    """(N,) from 0."""
    image_index: Tensor
    """(N,) which picture of the batch."""
    start: Tensor
    """(B + 1,) instances of picture b are start[b] up to start[b + 1]."""
    most: int
    """Instances of the picture that has the most."""

    @classmethod
    def of(cls, targets: Targets) -> Instances:
        """Return the ground truth of a batch, flattened."""
        numbers = [len(target["labels"]) for target in targets]
        owners = torch.from_numpy(np.repeat(np.arange(len(targets)), numbers))
        starts = torch.tensor([0, *accumulate(numbers)])
        image_index, start = to_device([owners, starts], targets[0]["boxes"].device)
        return cls(
            boxes=torch.cat([target["boxes"] for target in targets]),
            labels=torch.cat([target["labels"] for target in targets]) - 1,
            image_index=image_index,
            start=start,
            most=max(1, *numbers),
        )


class Positives(NamedTuple):
    """What the student learnt objects from in its last step."""

    boxes: Tensor
    """(M, 4) pixels: of the proposal or anchor; of FCOS, whose locations have none, of the matched object."""
    owner: Tensor
    """(M,) the instance that each is matched with."""
    image_index: Tensor
    """(M,) which picture of the batch."""
    place: Tensor
    """(M,) which anchor or location of the picture; of Faster R-CNN which row of the box head's output."""
    most: int
    """Positives of the picture that has the most."""


def positives_of(student: Detector, instances: Instances) -> Positives:
    """Return the positive proposals (Faster R-CNN) or matched anchors or locations (RetinaNet, FCOS) of the last step.

    FCOS's locations have no boxes: an object comes once for each location that is matched with it, so that it counts
    as much here as in FCOS's own losses.
    """
    return (_of_proposals if is_two_stage(student) else _of_places)(student, instances)


def _of_proposals(student: Detector, instances: Instances) -> Positives:
    proposals, matched, labels = student.roi_heads.sampled
    positive = torch.cat(labels) > 0
    pictures = torch.from_numpy(np.repeat(np.arange(len(labels)), [len(found) for found in labels]))
    [picture] = to_device([pictures], positive.device)
    numbers = to_host(
        torch.zeros(len(labels), device=positive.device).index_add(0, picture, positive.float())
    )
    place = positive.nonzero().squeeze(1)  # waits, so the numbers have come too
    owner = instances.start[picture] + torch.cat(matched)
    return Positives(torch.cat(proposals)[place], owner[place], picture[place], place, int(numbers.max()))


def _of_places(student: Detector, instances: Instances) -> Positives:
    matched = torch.stack(student.head.matched)  # (B, A)
    numbers = to_host((matched >= 0).sum(1))
    picture, place = (matched >= 0).nonzero(as_tuple=True)  # waits, so the numbers have come too
    owner = instances.start[picture] + matched[picture, place]
    if architecture_of(student) == "fcos":
        return Positives(instances.boxes[owner], owner, picture, place, int(numbers.max()))
    boxes = torch.stack(student.head.anchors)[picture, place]
    return Positives(boxes, owner, picture, place, int(numbers.max()))


def level_of_places(maps: Sequence[Tensor], places: int) -> Tensor:
    """Return (A,) the level of each anchor or location of a picture; maps are (B, C, H, W)."""
    cells = [level.shape[-2] * level.shape[-1] for level in maps]
    per_cell = places // sum(cells)
    levels = torch.from_numpy(np.repeat(np.arange(len(cells)), np.multiply(cells, per_cell)))
    return to_device([levels], maps[0].device)[0]


def scores_of_places(outputs: dict[str, Tensor], ranked: bool) -> Tensor:
    """Return (B, A, C) logits of each class from a one-stage head.

    Args:
        outputs: of the head.
        ranked: return the score that boxes are ranked by. torchvision's FCOS ranks by sqrt(class score x
            centre-ness), since its class score does not judge the box; in the other heads it is the class score.
    """
    logits = outputs["cls_logits"]
    if not ranked or "bbox_ctrness" not in outputs:
        return logits
    log_score = (functional.logsigmoid(logits) + functional.logsigmoid(outputs["bbox_ctrness"])) / 2
    return log_score - log_score.clamp(max=-1e-6).expm1().neg().log()


# ---- what kind of detector it is ---------------------------------------------------------------------------


def architecture_of(detector: Detector) -> Architecture:
    """Return the family, by the name that configs use."""
    return ARCHITECTURES[type(detector).__name__]


def is_two_stage(detector: Detector) -> bool:
    """Return whether a detector scores proposals (Faster R-CNN) or every place (RetinaNet, FCOS)."""
    return hasattr(detector, "roi_heads")


def has_centre_ness(detector: Detector) -> bool:
    """Return whether it is torchvision's FCOS, which scores box quality apart from the class; ours scores both."""
    return not is_two_stage(detector) and isinstance(detector.head, FCOSHead)


def scoring_head(detector: Detector) -> nn.Module:
    """Return the module whose output holds the class scores."""
    head: nn.Module = detector.roi_heads.box_predictor if is_two_stage(detector) else detector.head
    return head


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[Any]]:
    """Collect what a module returns while the block runs."""
    collected: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: collected.append(output))
    try:
        yield collected
    finally:
        handle.remove()
