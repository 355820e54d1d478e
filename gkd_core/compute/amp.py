"""Mixed precision, memory format, and compiled backbones: they make training faster, its meaning stays the same.

Independent of losses and data. Code that must stay in float32 ensures that itself (`gkd_core.compute.full_precision`).
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
"""Workspace that cuBLAS needs for deterministic results (NVIDIA, cuBLAS, results reproducibility); read at its
start."""
_COMPILERS = ("g++", "clang++", "c++")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a training step: half precision where asked for, else no change."""
    return torch.autocast(device.type, _HALF.get(precision), enabled=precision in _HALF)


def gradient_scaler(device: torch.device, precision: str) -> GradScaler:
    """Return a scaler of the loss that keeps small float16 gradients from becoming 0.

    It scales the loss up and the gradients down again.

    Without float16 it does nothing and has no state.
    """
    return GradScaler(device.type, enabled=precision == "float16")


def memory_format(config: TrainConfig) -> torch.memory_format:
    """Return the memory format of weights and feature maps."""
    return torch.channels_last if config.channels_last else torch.contiguous_format


@contextmanager
def gpu_arithmetic(wanted: GpuArithmetic, device: torch.device) -> Iterator[None]:
    """Set a GPU's determinism and TF32 as a run wants them while the block runs; enter before the first GPU work.

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
    """Compile body and pyramid of a backbone in place: names of weights and hooks stay.

    They are not compiled as a whole: distillation hooks the backbone for one call at a time, and compiled code may
    leave out a hook that was not there when it was compiled. Copies that were made before (the averaged one) are not
    compiled.

    Args:
        backbone: of a detector; it may be compiled already.
        order: memory format of its weights; images are converted to it before they enter compiled code.
        backend: of `torch.compile`, by torch's name.

    Raises:
        SpecError: `inductor` needs a C++ compiler and there is none.
    """
    if backend == "inductor" and not _has_compiler():
        message = f"compiling needs a C++ compiler; none of {', '.join(_COMPILERS)} is on the PATH"
        hint = "Set train.compile to false, or install one: apt-get install g++."
        raise SpecError([Problem(loc=("train", "compile"), message=message, hint=hint)])
    backbone.register_forward_pre_hook(partial(_in_order, order=order))
    for part in backbone.children():
        nn.Module.compile(part, backend=backend, dynamic=True)  # scale jitter: no two batches have one size


def _in_order(_module: nn.Module, inputs: tuple[Tensor], order: torch.memory_format) -> tuple[Tensor]:
    """Convert the input of a forward pre-hook to a memory format.

    If compiled code converts the images itself, it takes the strides of the first input for those of all (torch
    2.11).
    """
    return (inputs[0].contiguous(memory_format=order),)


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "", *_COMPILERS))
