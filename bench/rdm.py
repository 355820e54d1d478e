"""The cost of the losses of RDM, forward and backward, against a form that loops over boxes in Python.

    python bench/rdm.py [--runs 5] [--sizes 320x320 800x1333]

One step: 8 pictures, 64 positives each, 5 pyramid levels, 256 channels, 80 classes with 10 prototypes. Both forms
pool features in the boxes, weigh each instance by its robustness, and add up global, local and response loss; the
loop form does it as published code does (docs/method.md): it crops each box of each level by itself, paints masks box
by box and repeats them over the channels. Convolutions of adapters are left out of both. Both forms follow the
conventions called `reference`, so their losses must agree. On a GPU where there is one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from figures import RUNS, Figure, device, in_turn, ratio, report
from torch import Tensor
from torch.nn import functional

from gkd_core.distill.features import assign_levels_reference, pool_reference
from gkd_core.distill.losses import (
    foreground_mask_reference,
    global_loss,
    local_losses_reference,
    positions,
    response_softmax,
    robustness,
)
from gkd_core.distill.prototypes import Prototypes

IMAGES, POSITIVES, CHANNELS, CLASSES, PER_CLASS = 8, 64, 256, 80, 10
STRIDES = (8, 16, 32, 64, 128)


class Step:
    """Outputs of both detectors for a batch, drawn at random."""

    def __init__(self, height: int, width: int) -> None:
        """Draw the outputs for pictures of a size in pixels."""
        torch.manual_seed(0)
        cells = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
        self.teacher = [self._map(*level) for level in cells]
        self.student = [self._map(*level).requires_grad_() for level in cells]
        self.adapted = [self._map(*level).requires_grad_() for level in cells]
        count, size = IMAGES * POSITIVES, torch.tensor([width, height])
        corner = torch.rand(count, 2) * size * 0.6
        side = torch.rand(count, 2) * size * 0.35 + 8
        self.boxes = torch.cat([corner, corner + side], 1).to(device())
        self.image_index = torch.arange(IMAGES, device=device()).repeat_interleave(POSITIVES)
        self.labels = torch.randint(CLASSES, (count,)).to(device())
        ends = (torch.arange(CLASSES + 1) * PER_CLASS).to(device())
        self.prototypes = [Prototypes(self._rows(ends[-1]), self._rows(ends[-1]), ends) for _ in STRIDES]
        self.scores = torch.randn(count, CLASSES + 1).to(device()).requires_grad_()
        self.teacher_scores = torch.randn(count, CLASSES + 1).to(device())

    def _map(self, height: int, width: int) -> Tensor:
        return torch.randn(IMAGES, CHANNELS, height, width).relu().to(device())

    def _rows(self, count: Tensor) -> Tensor:
        return torch.randn(int(count), CHANNELS).to(device())


def batched(step: Step) -> Tensor:
    """Compute the losses as the distiller does."""
    assigned = assign_levels_reference(step.boxes, len(STRIDES))
    parts, weights = [], []
    for level, stride in enumerate(STRIDES):
        places = step.boxes, step.image_index, stride, POSITIVES
        pooled = pool_reference(step.student[level], *places), pool_reference(step.teacher[level], *places)
        place = positions(*pooled, step.prototypes[level])
        omega = robustness(place, step.labels, step.prototypes[level])
        weights.append(omega)
        parts.append(global_loss(place, omega))
        adapted = step.adapted[level]
        shape = (IMAGES, *adapted.shape[-2:])
        mask = foreground_mask_reference(
            step.boxes, omega, step.image_index, assigned == level, stride, shape
        )
        parts.extend(local_losses_reference(adapted, step.teacher[level], mask))
    parts.append(response_softmax(step.scores, step.teacher_scores, torch.stack(weights).mean(0)))
    return torch.stack(parts).sum()


def looped(step: Step) -> Tensor:
    """Compute the losses box by box."""
    assigned = assign_levels_reference(step.boxes, len(STRIDES)).tolist()
    parts, weights = [], []
    for level, stride in enumerate(STRIDES):
        student, teacher = (
            torch.stack([_crop(maps[level], box, int(at), stride) for box, at in _boxes(step)])
            for maps in (step.student, step.teacher)
        )
        prototypes = step.prototypes[level]
        omega = torch.stack(
            [
                _alike(s.detach(), t, int(label), prototypes)
                for s, t, label in zip(student, teacher, step.labels, strict=True)
            ]
        )
        weights.append(omega)
        places = _cosines(student, prototypes.student), _cosines(teacher, prototypes.teacher)
        parts.append(functional.smooth_l1_loss(*(omega[:, None] * place for place in places)))
        parts.extend(_imitation(step, level, stride, omega, assigned))
    parts.append(_answers(step, torch.stack(weights).mean(0)))
    return torch.stack(parts).sum()


def _boxes(step: Step) -> zip:
    return zip(step.boxes.tolist(), step.image_index.tolist(), strict=True)


def _crop(maps: Tensor, box: list[float], at: int, stride: int) -> Tensor:
    x1, y1, x2, y2 = (int(abs(side) / stride) for side in box)
    return maps[at, :, y1 : y2 + 1, x1 : x2 + 1].mean((1, 2))


def _cosines(features: Tensor, rows: Tensor) -> Tensor:
    return functional.normalize(features, dim=1) @ functional.normalize(rows, dim=1).T


def _alike(student: Tensor, teacher: Tensor, label: int, prototypes: Prototypes) -> Tensor:
    own = slice(label * PER_CLASS, (label + 1) * PER_CLASS)
    nearest_s = functional.cosine_similarity(student[None], prototypes.student[own]).max()
    nearest_t = functional.cosine_similarity(teacher[None], prototypes.teacher[own]).max()
    return 1 - (nearest_s - nearest_t).abs()


def _imitation(step: Step, level: int, stride: int, omega: Tensor, assigned: list[int]) -> list[Tensor]:
    student, teacher = step.adapted[level], step.teacher[level]
    mask = torch.zeros_like(student, dtype=torch.float64)
    for row, (box, at) in enumerate(_boxes(step)):
        if assigned[row] == level:
            x1, y1, x2, y2 = (int(side / stride) for side in box)
            mask[at, :, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = omega[row].double()
    squared = (student - teacher).square()
    background = mask == 0
    return [
        ((squared * mask).sum() / (2 * mask.sum()).clamp_min(1)).float(),
        (squared * background).sum() / (2 * background.sum()).clamp_min(1),
    ]


def _answers(step: Step, omega: Tensor) -> Tensor:
    soft_s, soft_t = step.scores / 2.0, step.teacher_scores / 2.0
    rows = [
        weight * (t.softmax(0) * (t.log_softmax(0) - s.log_softmax(0))).mean()
        for s, t, weight in zip(soft_s, soft_t, omega, strict=True)
    ]
    return 4 * torch.stack(rows).mean()


def stepping(form: Callable[[Step], Tensor], step: Step) -> Callable[[], Tensor]:
    """Return a function that runs forward and backward in one form."""

    def run() -> Tensor:
        loss = form(step)
        loss.backward()
        for leaf in (*step.student, *step.adapted, step.scores):
            leaf.grad = None
        return loss.detach()

    return run


def main() -> None:
    """Time both forms in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--sizes", nargs="*", default=["320x320", "800x1333"])
    options = parser.parse_args()
    report([compared(*map(int, size.split("x")), options.runs) for size in options.sizes])


def compared(height: int, width: int, runs: int) -> Figure:
    """Time both forms in turn on one size of pictures."""
    step = Step(height, width)
    ways = {"loop": stepping(looped, step), "ours": stepping(batched, step)}
    losses = {name: float(run()) for name, run in ways.items()}
    agreed = abs(losses["loop"] / losses["ours"] - 1) < 1e-4
    taken = in_turn(ways, runs, warm_up=0)  # both forms have run once
    wanted = (100 if torch.cuda.is_available() else 30) if agreed else float("inf")
    what = (
        f"RDM losses, {IMAGES} x {POSITIVES} positives, {len(STRIDES)} levels, {height}x{width}: loop / ours"
    )
    return ratio(what, taken["loop"], taken["ours"], at_least=wanted, details={"losses": losses})


if __name__ == "__main__":
    main()
