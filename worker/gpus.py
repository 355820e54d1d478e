"""GPU queries through the driver's library (NVML).

CUDA itself must not be initialised: processes forked later would fail.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pynvml

from jobs.presence import Gpu

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable that selects the GPUs of a process, by index or UUID."""

ORDER = "CUDA_DEVICE_ORDER"
"""Environment variable that defines what an index means; the driver's library uses the order of the PCI bus."""


def count_gpus() -> int:
    """Return the number of GPUs of this machine; 0 without a driver."""
    with _driver() as there:
        return int(pynvml.nvmlDeviceGetCount()) if there else 0


def own_gpus(setting: int | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the GPUs of a worker, as in `CUDA_VISIBLE_DEVICES`.

    Args:
        setting: `GKD_GPUS`: the first so many GPUs, or these, or (None) all.

    Returns:
        Indices or UUIDs. If the environment hides GPUs (as a batch system does), only visible ones.
    """
    if isinstance(setting, tuple):
        return setting
    if VISIBLE in os.environ:
        return visible_gpus(os.environ[VISIBLE])[:setting]
    return tuple(str(index) for index in range(count_gpus() if setting is None else setting))


def visible_gpus(text: str) -> tuple[str, ...]:
    """Parse a value of `CUDA_VISIBLE_DEVICES` as CUDA does.

    The first entry that names no GPU ends the list, so "" and "-1" select none; a duplicate entry selects none
    at all. Of an entry that begins with digits the rest is ignored. A process sees at most one part of a GPU
    (MIG), however many are named. The names are not looked up: the driver's library may number GPUs differently
    than CUDA, as under a batch system.

    Returns:
        Indices or UUIDs, in the order of the list.
    """
    found: list[str] = []
    for entry in text.split(","):
        match = _ENTRY.match(entry)
        if match is None:
            break
        name = match["uuid"] or str(int(match["index"]))
        if name in found:
            return ()
        found.append(name)
    parts = [name for name in found if name.startswith("MIG-")]
    return tuple(parts[:1] or found)


_ENTRY = re.compile(r"\s*(?:\+?(?P<index>[0-9]+)|(?P<uuid>(?:GPU|MIG)-\S+)\s*$)")


def look_at(names: Sequence[str]) -> tuple[Gpu, ...]:
    """Return the current state of these GPUs; those that the driver does not know are left out."""
    with _driver() as there:
        found = [_query_gpu(name) for name in names] if there else []
    return tuple(gpu for gpu in found if gpu is not None)


@contextmanager
def _driver() -> Iterator[bool]:
    """Open the driver's library and yield whether there is a driver.

    It is opened for each query, so that a driver that was updated or restarted meanwhile causes no error.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    finally:
        pynvml.nvmlShutdown()


def _query_gpu(name: str) -> Gpu | None:
    try:
        by_index = name.isdecimal()
        handle = (
            pynvml.nvmlDeviceGetHandleByIndex(int(name))
            if by_index
            else pynvml.nvmlDeviceGetHandleByUUID(name)
        )
        index, uuid = pynvml.nvmlDeviceGetIndex(handle), pynvml.nvmlDeviceGetUUID(handle)
        called = pynvml.nvmlDeviceGetName(handle)
    except pynvml.NVMLError:
        return None
    memory = _query(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _query(pynvml.nvmlDeviceGetUtilizationRates, handle)
    return Gpu(
        index=int(index),
        uuid=str(uuid),
        name=str(called),
        memory_total=int(memory.total) if memory else None,
        memory_used=int(memory.used) if memory else None,
        utilisation=int(rates.gpu) if rates else None,
        temperature=_query(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
    )


def _query(question: Callable[..., Any], *about: Any) -> Any:
    """Return the driver's answer, None if it has none: a part of a GPU, for example, has no temperature."""
    try:
        return question(*about)
    except pynvml.NVMLError:
        return None
