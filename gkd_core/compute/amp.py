"""What makes training quicker and changes no meaning: half precision, memory order, compiled backbones.

Nothing here knows losses or data. What must stay in float32 sees to that itself (`gkd_core.compute.precision`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from gkd_core.config import GpuArithmetic, TrainConfig
from gkd_core.errors import Problem, SpecError

_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
CUBLAS_WORKSPACE = ":4096:8"
"""What cuBLAS asks for, to give the same bits twice (NVIDIA, cuBLAS, results reproducibility); read when it begins."""
_COMPILERS = ("g++", "clang++", "c++")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The region in which a training step computes: half precision where asked for, else no change."""
    return torch.autocast(device.type, _HALF.get(precision), enabled=precision in _HALF)


def gradient_scaler(device: torch.device, precision: str) -> GradScaler:
    """Keeps small gradients of float16 from becoming 0, by scaling the loss up and the gradients down again.

    Without float16 it does nothing and has no state.
    """
    return GradScaler(device.type, enabled=precision == "float16")


def memory_format(config: TrainConfig) -> torch.memory_format:
    """The order in which weights and maps lie in memory."""
    return torch.channels_last if config.channels_last else torch.contiguous_format


@contextmanager
def gpu_arithmetic(wanted: GpuArithmetic, device: torch.device) -> Iterator[None]:
    """Let a GPU compute as a run wants it while the block runs; to be entered before the first work on the GPU.

    Args:
        wanted: what the run asks for.
        device: where it computes; on a CPU nothing changes.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    checked = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.backends.cudnn.allow_tf32 = wanted.tf32
    if wanted.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before
        torch.use_deterministic_algorithms(checked[0], warn_only=checked[1])


def compile_backbone(backbone: nn.Module, order: torch.memory_format, backend: str = "inductor") -> None:
    """Compile body and pyramid of a backbone, each where it stands: names of weights and hooks stay.

    Not as a whole: distilling hooks it for one call at a time, and compiled code may leave out a hook
    that was not there when it was compiled. Copies that were made before (the averaged one) are not compiled.

    Args:
        backbone: of a detector; it may be compiled already.
        order: that of its weights in memory; pictures are brought into it before they enter compiled code.
        backend: torch's name of what makes the code.

    Raises:
        SpecError: no C++ compiler is there, which `inductor` needs.
    """
    if backend == "inductor" and not _has_compiler():
        message = f"compiling needs a C++ compiler; none of {', '.join(_COMPILERS)} is on the PATH"
        hint = "Set train.compile to false, or install one: apt-get install g++."
        raise SpecError([Problem(loc=("train", "compile"), message=message, hint=hint)])
    backbone.register_forward_pre_hook(partial(_in_order, order=order))
    for part in backbone.children():
        nn.Module.compile(part, backend=backend, dynamic=True)  # scale jitter: no two batches have one size


def _in_order(_module: nn.Module, inputs: tuple[Tensor], order: torch.memory_format) -> tuple[Tensor]:
    """A hook. Left to reorder pictures itself, compiled code takes the strides of the first for those of all (2.11)."""
    return (inputs[0].contiguous(memory_format=order),)


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "", *_COMPILERS))
