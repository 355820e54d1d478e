"""Building a detector without initialising it, where every tensor is loaded from a file right after.

Random numbers for the weights of a ResNet-50 take longer than reading them from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_DRAWING = {
    *(torch.Tensor.normal_, torch.Tensor.uniform_),
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_),
}
"""What all initialisations of convolutions and linear layers draw with; torch hands over these of `nn.init` whole."""


class SkipInit(TorchFunctionMode):
    """Leave parameters as they were allocated: a context in which a module is built whose weights are loaded next.

    The global random generator is not used either. Buffers and what is computed without random numbers are as usual.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the tensor untouched where it was to be drawn; call everything else."""
        named = dict(kwargs or {})
        if func in _DRAWING:
            return args[0] if args else named["tensor"]
        return func(*args, **named)
