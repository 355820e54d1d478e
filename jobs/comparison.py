"""Jobs side by side: which fields of their configs differ, and why their AP cannot be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.job import Job

MISSING = None
"""Value of a field that a config lacks, as of one that is null."""


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Return the fields of resolved configs whose values differ, by path, with the value of each config."""
    flat = [dict(_fields(config)) for config in configs]
    names = dict.fromkeys(name for config in flat for name in config)
    values = {name: tuple(config.get(name, MISSING) for config in flat) for name in names}
    return {name: each for name, each in values.items() if _differ(each)}


def doubts(jobs: Sequence[Job], splits: Sequence[str], pictures: Sequence[int | None]) -> Iterator[str]:
    """Yield why AP of jobs cannot be compared.

    Args:
        jobs: The jobs.
        splits: The split that each was scored on.
        pictures: The number of pictures of that split; None: unknown, as before a job's end.
    """
    if _differ(splits):
        yield f"they were scored on different splits: {_listed(splits)}"
    if _differ([_scored(job, split) for job, split in zip(jobs, splits, strict=True)]):
        yield "they were scored on different data: see the fields of `data` that differ"
    if _differ([count for count in pictures if count is not None]):
        yield f"they were scored on different numbers of pictures: {_listed(pictures)}"
    sizes = [_image_size(job) for job in jobs]
    if _differ(sizes):
        yield f"their pictures had different sizes: {_listed(sizes)} pixels"


def _fields(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every field of a resolved config by its path, defaults included; lists are values."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _differ(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join("unknown" if value is None else str(value) for value in values)


def _scored(job: Job, split: str) -> tuple[Any, ...]:
    """Return what decides which objects a job was scored on."""
    data: Mapping[str, Any] = job.resolved.get("data") or {}
    names = (split, "classes", "rename", "only", "val_share", "val_seed")
    return (*(data.get(name) for name in names), data.get("train") if data.get("val_share") else None)


def _image_size(job: Job) -> int | None:
    """Return the image size that a job was scored at; None where it is that of the model's file."""
    for part in ("evaluate", "train", "export"):
        size = (job.resolved.get(part) or {}).get("image_size")
        if isinstance(size, int):
            return size
    return None
