"""Finished jobs side by side: what they measured, what differs in their specs, and whether AP can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gkd_core.events import Report
from jobs.job import Job

MISSING = None
"""Value of a field that a config lacks, as of one that is null."""


class Comparison(NamedTuple):
    """Jobs in the order given, and for each field that differs the values in that order."""

    jobs: tuple[Job, ...]
    reports: tuple[Report, ...]
    differences: dict[str, tuple[Any, ...]]
    doubts: tuple[str, ...]
    """Why AP cannot be compared; empty if it can."""

    def as_json(self) -> dict[str, Any]:
        """Return the comparison for programs."""
        return {
            "jobs": [
                {"id": job.id, "name": job.name, "kind": job.kind, "report": report.model_dump(mode="json")}
                for job, report in zip(self.jobs, self.reports, strict=True)
            ],
            "differences": {field: list(values) for field, values in self.differences.items()},
            "not_comparable": list(self.doubts),
        }


def compare(jobs: Sequence[Job], reports: Sequence[Report]) -> Comparison:
    """Return the comparison of jobs with their reports."""
    return Comparison(
        tuple(jobs),
        tuple(reports),
        _differences([dict(_fields(job.resolved)) for job in jobs]),
        tuple(_doubts(jobs, reports)),
    )


def _fields(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every field of a resolved config by its path, defaults included; lists are values."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    fields = dict.fromkeys(field for config in configs for field in config)
    values = {field: tuple(config.get(field, MISSING) for config in configs) for field in fields}
    return {field: each for field, each in values.items() if any(value != each[0] for value in each)}


def _doubts(jobs: Sequence[Job], reports: Sequence[Report]) -> Iterator[str]:
    splits = [report.split for report in reports]
    if _differ(splits):
        yield f"they were scored on different splits: {_listed(splits)}"
    data = [_scored(job, split) for job, split in zip(jobs, splits, strict=True)]
    if _differ(data):
        yield "they were scored on different data: see the fields of `data` that differ"
    counts = [report.pictures.get(report.split) for report in reports]
    if _differ(counts):
        yield f"they were scored on different numbers of pictures: {_listed(counts)}"
    sizes = [_image_size(job) for job in jobs]
    if _differ(sizes):
        yield f"their pictures had different sizes: {_listed(sizes)} pixels"


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
