"""Finished jobs side by side: what they measured, what differs in their specs, and whether AP can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from gkd_core.events import Report
from jobs.comparison import differences, doubts
from jobs.job import Job


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
    splits = [report.split for report in reports]
    return Comparison(
        tuple(jobs),
        tuple(reports),
        differences([job.resolved for job in jobs]),
        tuple(doubts(jobs, splits, [report.pictures.get(report.split) for report in reports])),
    )
