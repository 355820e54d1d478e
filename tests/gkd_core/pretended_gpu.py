"""A pretended GPU: records what a step would ask of it, operator by operator, without computing a number.

Tensors are torch's fake ones: they have shape, type and device. Where the program reads a number, it gets a made-up
one, and the read is recorded, because on a real GPU it waits until everything before it is computed.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
FOUND = 16
"""Number of elements that `nonzero` and the like find in each row."""


QUESTIONS = (torch.ops.prim.device.default, torch.ops.aten.is_pinned.default)
"""Operators with which fake tensors query each other; with real ones, nothing is computed."""


PACKAGES = ("/tests/", "/gkd_core/", "/torchvision/")
"""Packages whose lines are named."""


def _below_package(file: str) -> str:
    """Return the path below the folder of packages, such as `gkd_core/distill/bank.py`."""
    start = max(file.rfind(part) for part in PACKAGES)
    return file[start + 1 :]


class Wait(NamedTuple):
    """A call that returns only when the GPU has finished the work before it."""

    operator: str
    part: str
    """The part that ran, see `Watch.part`."""
    places: tuple[str, ...]
    """Files and lines of the call stack, the innermost first."""


class Operators(TorchDispatchMode):
    """Counts operators and the sizes of their results."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.largest = 0
        """Bytes of the largest tensor that an operator gave while `part` was "own"."""
        self.part = "own"
        """What is at work."""

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Count under another name while the block runs."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def apart(self, module: nn.Module, part: str) -> None:
        """Count the operators of a module under a name of its own."""
        before: list[str] = []

        def enter(*_: Any) -> None:
            before.append(self.part)
            self.part = part

        def leave(*_: Any) -> None:
            self.part = before.pop()

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[self.part] += func not in QUESTIONS
        out = self._answer(func, args, kwargs or {})
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and self.part == "own" and not tensor._is_view():
                self.largest = max(self.largest, tensor.numel() * tensor.element_size())
        return out

    def _answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)


class Watch(Operators):
    """Records the calls that wait; must be entered within a `FakeTensorMode`."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Wait] = []
        self._pinned: set[int] = set()
        self._keep: list[Tensor] = []

    def _answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        aten = torch.ops.aten
        if func in (aten._pin_memory.default, aten.pin_memory.default):
            return self._pin(args[0].clone())
        if func is aten.is_pinned.default:
            return id(args[0]) in self._pinned
        if func is aten._local_scalar_dense.default:
            self._waits(func, args[0])
            return args[0].dtype.is_floating_point * 1.0 if args[0].dtype is not torch.bool else False
        if func is aten.nonzero.default:
            self._waits(func, args[0])
            rows = 1 if args[0].dim() < 2 else len(args[0])
            return args[0].new_zeros(min(rows * FOUND, args[0].numel()), args[0].dim(), dtype=torch.int64)
        if func is torch.ops.torchvision.nms.default:
            self._waits(func, args[0])
            return args[1].new_zeros(min(FOUND, len(args[1])), dtype=torch.int64)
        if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
            self._waits(func, args[0])
        if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
            args = (args[0], [self._found(index) for index in args[1]], *args[2:])
        out = func(*args, **kwargs)
        if func is aten._to_copy.default and out.device != args[0].device:
            self._moved(func, args[0], kwargs)
        if func is aten.copy_.default and args[0].device != args[1].device:
            self._moved(func, args[1], {"non_blocking": args[2] if len(args) > 2 else False})
        return out

    def _found(self, index: Tensor | None) -> Tensor | None:
        """Return the indices where a mask is true, as torch itself computes them."""
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            return index
        if index.dim() != 1:
            raise NotImplementedError("masks of one dimension only")
        self._waits(torch.ops.aten.nonzero.default, index)
        return index.new_zeros(min(FOUND, len(index)), dtype=torch.int64)

    def _pin(self, tensor: Tensor) -> Tensor:
        self._pinned.add(id(tensor))
        self._keep.append(tensor)
        return tensor

    def _moved(self, func: Any, source: Tensor, kwargs: dict[str, Any]) -> None:
        quick = kwargs.get("non_blocking") and (source.device.type == "cuda" or id(source) in self._pinned)
        if not quick:
            self._waits(func, None)

    def _waits(self, func: Any, asked: Tensor | None) -> None:
        if asked is not None and asked.device.type == "cpu":
            return
        frames = reversed(traceback.extract_stack()[:-3])
        places = tuple(
            f"{_below_package(frame.filename)}:{frame.lineno} {frame.name}"
            for frame in frames
            if any(part in frame.filename for part in PACKAGES) and "pretended_gpu" not in frame.filename
        )
        self.waits.append(Wait(str(func), self.part, places[:4]))


@contextmanager
def pretended_gpu() -> Iterator[Watch]:
    """Make tensors fake while the block runs, those on `GPU` too."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield Watch()
