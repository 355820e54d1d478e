"""Looks at GPUs through the driver's library. Asking CUDA itself would break the processes forked later."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pynvml

from jobs.presence import Gpu

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable that says which GPUs a process may use, by index or UUID."""

ORDER = "CUDA_DEVICE_ORDER"
"""Environment variable that says what an index means; the driver's library counts along the PCI bus."""


def count_gpus() -> int:
    """GPUs of this machine; 0 without a driver."""
    with _driver() as there:
        return int(pynvml.nvmlDeviceGetCount()) if there else 0


def own_gpus(setting: int | tuple[str, ...] | None) -> tuple[str, ...]:
    """Which GPUs a worker has, as `CUDA_VISIBLE_DEVICES` names them.

    Args:
        setting: `GKD_GPUS`: the first so many of those that are there, or these, or (None) all.

    Returns:
        Indices or UUIDs. Where the environment hides GPUs (a batch system does), only of those that it shows.
    """
    if isinstance(setting, tuple):
        return setting
    if VISIBLE in os.environ:
        return visible_gpus(os.environ[VISIBLE])[:setting]
    return tuple(str(index) for index in range(count_gpus() if setting is None else setting))


def visible_gpus(text: str) -> tuple[str, ...]:
    """Read a value of `CUDA_VISIBLE_DEVICES` as CUDA does.

    The first entry that names no GPU ends the list, so "" and "-1" show none; an entry that comes twice leaves none at
    all. Of an entry that begins with digits the rest counts for nothing. A process sees one part of a GPU (MIG) at
    most, however many are named. Whether there is a GPU of a name is not looked up: the driver's library may count
    others than CUDA does, as it does under a batch system.

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
    """The GPUs of these names as they are now; those that the driver does not know are left out."""
    with _driver() as there:
        found = [_look_at(name) for name in names] if there else []
    return tuple(gpu for gpu in found if gpu is not None)


@contextmanager
def _driver() -> Iterator[bool]:
    """Opened for each look: a driver that was renewed or restarted meanwhile is then no trouble."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    finally:
        pynvml.nvmlShutdown()


def _look_at(name: str) -> Gpu | None:
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
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    return Gpu(
        index=int(index),
        uuid=str(uuid),
        name=str(called),
        memory_total=int(memory.total) if memory else None,
        memory_used=int(memory.used) if memory else None,
        utilisation=int(rates.gpu) if rates else None,
        temperature=_ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
    )


def _ask(question: Callable[..., Any], *about: Any) -> Any:
    """The driver's answer, None where it has none: a part of a GPU, for one, has no temperature."""
    try:
        return question(*about)
    except pynvml.NVMLError:
        return None
