"""Counts GPUs through the driver's library. Asking CUDA itself would break the processes forked later."""

from __future__ import annotations

import pynvml


def count_gpus() -> int:
    """GPUs of this machine; 0 without a driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()
