"""Where a step of distillation spends its time, part by part, and how far each part is from its lower bound.

    python bench/parts.py [--runs 5] [--teacher resnet50 --student resnet18 --height 320 --width 320 --batch 8]

The setting is that of step.py. A part's floor is the longer of two times: its operations, counted by torch, at the rate
of one large convolution, and the bytes that it must at least read and write (its inputs, once, and their gradients,
once) at the rate of a large copy. Both rates are measured in the same run, in the same precision. Parts are timed
alone, forward and backward together, where they have a backward. The difference between their sum and a whole step is
the optimiser, averaged weights, and everything that is not listed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple
from unittest import mock

import torch
from figures import Figure, device, in_turn, report, seconds
from step import Setting, asked, batch_of, distilled
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from gkd_core.compute.amp import autocast
from gkd_core.detectors.build import pyramid
from gkd_core.distill.distiller import Distiller
from gkd_core.distill.losses import GlobalLoss, LocalLoss, LossContext, ResponseLoss
from gkd_core.distill.losses.response import teacher_scores_of_places

CHANNELS, CELLS, COPIED = 256, 64, 2**26
"""Channels and side (in cells) of the convolution, and the numbers of the copy, that measure the machine's speed."""


class Part(NamedTuple):
    """One part of a step."""

    name: str
    run: Callable[[], Sequence[Tensor]]
    """Its forward; the sum of what it returns is back-propagated."""
    enters: Sequence[Tensor]
    """Its inputs; those that require a gradient get one."""


class Parts:
    """The parts of a step, each with the inputs that it has in a step."""

    def __init__(self, setting: Setting) -> None:
        """Run the student once to compute the inputs of the other parts."""
        self.batch, self.training = batch_of(setting), distilled(setting)
        assert self.training.distiller is not None
        self.distiller: Distiller = self.training.distiller
        self.student = self.training.detector.train()
        self.pictures, self.targets = self.training._on_device(self.batch)
        with autocast(device(), setting.precision):
            context, _ = self.distiller.look(self.pictures, self.targets, 1.0)
            with torch.no_grad():
                self.teacher_scores = teacher_scores_of_places(context, False)
        own = [level.detach().requires_grad_() for level in context.student_maps]
        self.scores = {name: one.detach().requires_grad_() for name, one in context.student_scores.items()}
        self.context = replace(context, student_maps=own, student_scores=self.scores)
        student, teacher = self.context.pooled
        self.pooled = student.detach().requires_grad_(), teacher
        self.omega = self.context.omega.detach()

    def _anew(self, **known: object) -> LossContext:
        """Return the inputs of a loss, of which only the places and what is given are computed already."""
        context, places = replace(self.context), ("instances", "positives", "grids", "slots", "level")
        vars(context).update({name: getattr(self.context, name) for name in places} | known)
        return context

    def __iter__(self) -> Iterator[Part]:
        """Yield the parts in the order of a step."""
        teacher, maps = self.distiller.teacher, [*self.context.student_maps, *self.context.teacher_maps]
        weights = [*self.student.parameters()], [*teacher.parameters()]
        yield Part("student, with its own losses", self._student, [*self.pictures, *weights[0]])
        yield Part("teacher: body and pyramid", self._pyramid, [*self.pictures, *weights[1]])
        yield Part("teacher: class scores", self._scores, self.context.teacher_pyramid)
        adapters = [*self.distiller.adapters.parameters()]
        yield Part("adapters", self._adapted, [*self.context.student_maps, *adapters])
        yield Part("pooling", self._pool, maps)
        yield Part("cosines, robustness and global loss", self._global, self.pooled)
        yield Part("masks and local losses", self._local, maps)
        yield Part("response loss, teacher's scores given", self._response, [*self.scores.values()])

    def _student(self) -> list[Tensor]:
        return list(self.student(self.pictures, self.targets).values())

    def _pyramid(self) -> list[Tensor]:
        with torch.inference_mode():
            pyramid(self.distiller.teacher, self.pictures)
        return []

    def _scores(self) -> list[Tensor]:
        with torch.inference_mode():
            self.distiller.teacher.head.classification_head(self.context.teacher_pyramid)
        return []

    def _adapted(self) -> list[Tensor]:
        return self._anew().adapted

    def _pool(self) -> list[Tensor]:
        return [self._anew().pooled[0]]

    def _global(self) -> list[Tensor]:
        return list(GlobalLoss()(self._anew(pooled=self.pooled)).values())

    def _local(self) -> list[Tensor]:  # both pyramids have as many channels
        return list(LocalLoss()(self._anew(omega=self.omega, adapted=self.context.student_maps)).values())

    def _response(self) -> list[Tensor]:
        given = {"return_value": self.teacher_scores}
        with mock.patch("gkd_core.distill.losses.response.teacher_scores_of_places", **given):
            return list(ResponseLoss(1.0)(self._anew(omega=self.omega)).values())

    def whole(self) -> None:
        """Run a whole step."""
        self.training.train_step(self.batch)
        self.training.epoch = 0


def forth_and_back(part: Part, precision: str) -> Callable[[], None]:
    """Run a part forward and backward; gradients are dropped."""

    def run() -> None:
        with autocast(device(), precision):
            outputs = part.run()
        if outputs:
            torch.autograd.backward(outputs, [torch.ones_like(one) for one in outputs])
        for tensor in part.enters:
            tensor.grad = None

    return run


def operations(run: Callable[[], None]) -> int:
    """Return the operations of all products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def least_bytes(part: Part) -> int:
    """Return the bytes of reading each input once and writing its gradient once."""
    return sum(_size(tensor) * (2 if tensor.requires_grad else 1) for tensor in part.enters)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def rates(precision: str) -> tuple[float, float]:
    """Return the operations a second of a large convolution and the bytes a second of a large copy."""
    kind = {"device": device(), "dtype": getattr(torch, precision)}
    maps = torch.randn(8, CHANNELS, CELLS, CELLS, **kind).to(memory_format=torch.channels_last)
    kernel = torch.randn(CHANNELS, CHANNELS, 3, 3, **kind).to(memory_format=torch.channels_last)
    numbers, other = torch.zeros(2, COPIED, device=device())
    with torch.inference_mode():
        convolution = min(seconds(lambda: functional.conv2d(maps, kernel, padding=1)) for _ in range(6))
        copy = min(seconds(lambda: other.copy_(numbers)) for _ in range(6))
    return 2 * 9 * CHANNELS * maps.numel() / convolution, 2 * _size(numbers) / copy


def main() -> None:
    """Time every part."""
    report(measured(*asked(__doc__)))


def measured(setting: Setting, runs: int) -> list[Figure]:
    """Return the machine's rates, the ratio of each part to its floor, and the rest of a step."""
    arithmetic, memory = rates(setting.precision)
    step = Parts(setting)
    parts = list(step)
    ways = {part.name: forth_and_back(part, setting.precision) for part in parts}
    costs = {part.name: (operations(ways[part.name]), least_bytes(part)) for part in parts}
    taken = in_turn({**ways, "whole": step.whole}, runs)
    whole = statistics.median(taken.pop("whole"))
    left = whole - sum(map(statistics.median, taken.values()))
    return [
        Figure(f"one large convolution, {setting}", arithmetic / 1e9, "Gop/s"),
        Figure("one large copy", memory / 1e9, "GB/s"),
        *(_over_its_floor(name, taken[name], whole, *costs[name], arithmetic, memory) for name in ways),
        Figure(
            "all that is not listed: share of a step", left / whole, "", details={"step, ms": 1e3 * whole}
        ),
    ]


def _over_its_floor(
    name: str, taken: list[float], whole: float, work: int, moved: int, arithmetic: float, memory: float
) -> Figure:
    floor, middle = max(work / arithmetic, moved / memory), statistics.median(taken)
    details = {
        "ms": round(1e3 * middle, 2),
        "share of a step": round(middle / whole, 4),
        "giga-operations": round(work / 1e9, 2),
        "MiB": round(moved / 2**20, 1),
        "floor, ms": round(1e3 * floor, 2),
        "bound by": "operations" if work / arithmetic > moved / memory else "bytes",
    }
    spread = min(taken) / floor, max(taken) / floor
    return Figure(f"{name}: time / floor", middle / floor, spread=spread, details=details)


if __name__ == "__main__":
    main()
