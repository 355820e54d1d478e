"""Full precision for losses and prototypes, whatever precision the training around them computes in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

HALF = (torch.float16, torch.bfloat16)
SHORTEST = 1e-6
"""Vectors shorter than this are treated as zero: their direction is rounding noise."""


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function of tensors in float32 at least, also inside an autocast region.

    Half-precision arguments are widened and autocast is switched off: it would turn matrix products back into
    half precision, where cosines of near neighbours become ties. float64 stays float64.

    Args:
        function: takes at least one tensor by position.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(value.device.type for value in args if isinstance(value, Tensor))
        has_autocast = torch.amp.autocast_mode.is_autocast_available(device)
        with torch.autocast(device, enabled=False) if has_autocast else nullcontext():
            named: dict[str, Any] = {name: widened(value) for name, value in kwargs.items()}
            return function(*map(widened, args), **named)

    return wrapped


def widened(value: Any) -> Any:
    """Return a half-precision tensor as float32; anything else, and float64, unchanged."""
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value


def unit(vectors: Tensor) -> Tensor:
    """Divide each vector by its length.

    A vector of (nearly) no length becomes zero and gets no gradient, where a division by a small constant would
    send back a huge one.

    Args:
        vectors: (..., C), any length.

    Returns:
        (..., C), each of length 1 or 0.
    """
    vectors = widened(vectors)
    squared = vectors.square().sum(-1, keepdim=True)
    nonzero = squared > SHORTEST**2
    return vectors * (squared.clamp_min(SHORTEST**2).rsqrt() * nonzero)
