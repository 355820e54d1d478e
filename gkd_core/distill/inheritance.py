"""Inheritance: neck and head of a student start from the teacher's where shapes agree (`student.inherit`).

The student then imitates features that its head can already read. The control starts from the same weights, so that it
still differs from the student in the losses alone.

A block (convolution and norm of one place) is taken as a whole or not at all: statistics of a norm mean nothing behind
another convolution. A head is one block. Its rows are those of the data's classes, by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from gkd_core.config.detector import Part
from gkd_core.config.inheritance import not_inheritable
from gkd_core.detectors.detector import Detector
from gkd_core.detectors.weights import BY_CLASS
from gkd_core.errors import SpecError

PREFIXES: dict[Part, tuple[str, ...]] = {
    "fpn": ("backbone.fpn.",),
    "head": ("head.", "rpn.head.", "roi_heads."),
}
"""How the names of a part's tensors begin, in all families."""
_BOXES_BY_CLASS = "roi_heads.box_predictor.bbox_pred."
"""Four rows for each class, one class behind the other; elsewhere all classes of an anchor follow each other."""
_COUNTER = "num_batches_tracked"
"""Of batch norms; no computation depends on it, and norms that are frozen have none."""

Block = dict[str, Tensor]
"""The tensors of a block by name."""


def inherit(student: Detector, teacher: Detector, parts: Iterable[Part], columns: Tensor) -> list[str]:
    """Copy the teacher's weights and statistics into the student, where they fit.

    Draws no random number, and leaves the teacher as it is.

    Args:
        student: freshly built; changes in place.
        teacher: of any device.
        parts: which parts.
        columns: (C,) for each class of the student, its label in the teacher's scores, from 1.

    Returns:
        Remarks for people: what was taken, and what not.

    Raises:
        SpecError: nothing of a part fits.
    """
    return [_inherit_part(student, teacher, part, columns) for part in dict.fromkeys(parts)]


def _inherit_part(student: Detector, teacher: Detector, part: Part, columns: Tensor) -> str:
    """Copy the blocks of a part that fit; return the remark.

    Raises:
        SpecError: none fits.
    """
    _require_same_meaning(student, teacher, part)
    own, blocks = _blocks(student, part), _blocks(teacher, part)
    given = {name: _of_classes(block, teacher, columns) for name, block in blocks.items()}
    taken = [name for name, block in own.items() if _shapes(block) == _shapes(given.get(name, {}))]
    if not taken:
        raise SpecError([not_inheritable(part, f"its blocks {', '.join(own)} have other shapes")])
    with torch.no_grad():
        for name in taken:
            for tensor, values in own[name].items():
                values.copy_(given[name][tensor])
    return _remark(part, taken, [name for name in own if name not in taken])


def _require_same_meaning(student: Detector, teacher: Detector, part: Part) -> None:
    """Raise unless a part works on the same levels, and a head predicts the same.

    Raises:
        SpecError: levels have other strides, or heads are of other families.
    """
    if tuple(student.strides) != tuple(teacher.strides):
        why = f"the levels have strides {tuple(student.strides)} and {tuple(teacher.strides)}"
        raise SpecError([not_inheritable(part, why)])
    if part == "head" and student.architecture != teacher.architecture:
        why = f"it is of {student.architecture}, the teacher's of {teacher.architecture}"
        raise SpecError([not_inheritable(part, why)])


def _blocks(detector: Detector, part: Part) -> dict[str, Block]:
    """Return the blocks of a part by name, as views of the detector's own tensors."""
    found: dict[str, Block] = {}
    for name, tensor in detector.state_dict().items():
        if name.startswith(PREFIXES[part]) and not name.endswith(_COUNTER):
            found.setdefault(_block_of(name, part), {})[name] = tensor
    return found


def _block_of(name: str, part: Part) -> str:
    """Return the block that a tensor belongs to: a place of the pyramid such as `layer_blocks.0`, or the head."""
    return ".".join(name.split(".")[2:4]) if part == "fpn" else "head"


def _shapes(block: Block) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in block.items()}


def _of_classes(block: Block, teacher: Detector, columns: Tensor) -> Block:
    """Return a block of the teacher with the rows of the student's classes only, in the student's order."""
    return {
        name: _rows(name, tensor, _scores(teacher), columns) if name.startswith(BY_CLASS) else tensor
        for name, tensor in block.items()
    }


def _rows(name: str, tensor: Tensor, scores: int, columns: Tensor) -> Tensor:
    """Return the rows of background and of some classes.

    Args:
        name: of the tensor.
        tensor: (A x scores, ...) for A anchors, or (scores x 4, ...) for boxes by class.
        scores: classes and background of the teacher.
        columns: (C,) labels in the teacher's scores.
    """
    chosen = torch.cat([columns.new_zeros(1), columns]).to(tensor.device)
    if name.startswith(_BOXES_BY_CLASS):
        return tensor.reshape(scores, -1, *tensor.shape[1:])[chosen].flatten(0, 1)
    return tensor.reshape(-1, scores, *tensor.shape[1:])[:, chosen].flatten(0, 1)


def _scores(detector: Detector) -> int:
    """Return the number of classes with background."""
    if hasattr(detector, "roi_heads"):
        return int(detector.roi_heads.box_predictor.cls_score.out_features)
    return int(detector.head.classification_head.num_classes)


def _remark(part: Part, taken: Sequence[str], left: Sequence[str]) -> str:
    """Return what was taken of a part and what not."""
    if not left:
        return f"the whole {part} starts from the teacher's"
    return f"of the {part}, {', '.join(taken)} start from the teacher's; {', '.join(left)} have other shapes and do not"
