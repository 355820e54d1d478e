"""Two to four jobs side by side: numbers, curves, and what differs in their specs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from markupsafe import Markup

from api.deps import Services, ServicesDep, TenantDep
from api.errors import ApiError
from api.ui import charts, words
from api.ui.charts import Series
from api.ui.job_charts import METRICS
from api.ui.job_page import curves_of
from api.ui.pages import render
from api.ui.summary import OF_STUDENT, Summary, summary_of
from api.ui.verdict import ap_curve
from jobs.comparison import differences, doubts
from jobs.curves import Curve, JobCurves

router = APIRouter(include_in_schema=False)

FEWEST, MOST = 2, 4


@dataclass(frozen=True)
class Compared:
    """One of the jobs."""

    letter: str
    row: Summary
    model: Mapping[str, Any]
    """What the job made, as its report has it; empty without a report."""
    gain: Mapping[str, float] | None
    curve: Curve | None
    split: str
    """What it was, or will be, scored on."""
    pictures: int | None
    """Of that split; None without a report."""


@dataclass(frozen=True)
class NumberRow:
    """A number of each job."""

    name: str
    cells: tuple[str, ...]
    best: int | None
    """Place of the best; None if there is none, or nothing to be best at."""


@router.get("/ui/compare")
def compare_page(
    request: Request,
    services: ServicesDep,
    tenant: TenantDep,
    job: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """Compare jobs of the tenant."""
    ids = list(dict.fromkeys(job or ()))
    if not FEWEST <= len(ids) <= MOST:
        detail = f"mark {FEWEST} to {MOST} jobs in the list to compare them, not {len(ids)}"
        raise ApiError(422, "invalid_request", detail)
    compared = [
        _compared(request, services, letter, job_id, tenant)
        for letter, job_id in zip("ABCD", ids, strict=False)
    ]
    return render(
        request,
        "compare.html",
        compared=compared,
        sentences=[_sentence(each) for each in compared],
        warning=_incomparable(compared),
        chart=_chart(compared),
        numbers=_numbers(compared),
        differing=list(_differing(compared)),
    )


def _compared(request: Request, services: Services, letter: str, job_id: str, tenant: str) -> Compared:
    reading = services.store.reading
    job, report = reading.get(job_id, tenant=tenant), reading.report(job_id, tenant=tenant)
    said = report or {}
    models, split = said.get("models") or {}, said.get("split") or "val"
    return Compared(
        letter,
        summary_of(job, report),
        next((models[role] for role in OF_STUDENT if role in models), {}),
        said.get("gain"),
        _curve(curves_of(request, services, job_id, tenant)),
        split,
        (said.get("pictures") or {}).get(split),
    )


def _curve(curves: JobCurves) -> Curve | None:
    found = (ap_curve(curves, role) for role in OF_STUDENT)
    return next((curve for curve in found if curve is not None), None)


def _sentence(each: Compared) -> str:
    """Return what came of a job, for one line."""
    name, state = each.row.job.name, each.row.job.state
    if each.gain is None:
        ap = "" if each.row.ap is None else f", {words.points(each.row.ap)} AP"
        return f"{name} ({state}{ap}) has no gain over a control to compare."
    proof = "leaves out zero" if each.gain["ap_low"] > 0 or each.gain["ap_high"] < 0 else "holds zero"
    return f"{name}: {words.signed(each.gain['ap'])} AP over its control; the interval {proof}."


def _incomparable(compared: list[Compared]) -> str:
    """Return why AP of these jobs cannot be compared; empty if nothing speaks against it."""
    splits = [each.split for each in compared]
    found = doubts([each.row.job for each in compared], splits, [each.pictures for each in compared])
    reasons = "; ".join(found)
    return f"AP cannot be compared between them: {reasons}." if reasons else ""


def _chart(compared: list[Compared]) -> Markup:
    lines = [
        Series(
            each.letter,
            each.letter,
            each.curve.x,
            [100 * value for value in each.curve.y],
            f"{each.letter} {100 * each.curve.y[-1]:.1f}",
        )
        for each in compared
        if each.curve
    ]
    return charts.line_chart(lines, title="AP over epochs")


def _numbers(compared: list[Compared]) -> list[NumberRow]:
    rows = [_metric_row(name, compared) for name in METRICS]
    rows.append(_row("AP to control", [each.row.to_control for each in compared], words.signed, best=True))
    rows.append(_row("AP to teacher", [each.row.to_teacher for each in compared], words.signed, best=True))
    rows.append(_model_row("Parameters, M", "parameters", compared, lambda value: f"{value / 1e6:.1f}"))
    rows.append(_model_row("GFLOPs", "gflops", compared, lambda value: f"{value:.1f}"))
    latencies = [(each.model.get("latency_ms") or {}).get("median") for each in compared]
    rows.append(_row("Latency, ms", latencies, lambda value: f"{value:.1f}"))
    return [row for row in rows if any(row.cells)]


def _metric_row(name: str, compared: list[Compared]) -> NumberRow:
    values = [(each.model.get("metrics") or {}).get(name) for each in compared]
    if name == "AP":
        values = [each.row.ap for each in compared]
    known = [None if value is None or value < 0 else value for value in values]
    return _row(name, known, words.points, best=True)


def _model_row(name: str, field: str, compared: list[Compared], text: Any) -> NumberRow:
    return _row(name, [each.model.get(field) for each in compared], text)


def _row(name: str, values: list[float | None], text: Any, *, best: bool = False) -> NumberRow:
    known = [value for value in values if value is not None]
    is_best = best and len(known) > 1 and known.count(max(known)) == 1
    cells = tuple("" if value is None else text(value) for value in values)
    return NumberRow(name, cells, values.index(max(known)) if is_best else None)


def _differing(compared: list[Compared]) -> Iterator[tuple[str, list[str]]]:
    """Yield each field of the configs whose values differ, with the value of each job."""
    found = differences([each.row.job.resolved for each in compared])
    for name, values in found.items():
        yield name, ["" if value is None else json.dumps(value, ensure_ascii=False) for value in values]
