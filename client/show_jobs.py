"""Jobs, their artifacts and curves, and workers on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.show_events import line, progress_line
from client.show_text import age, compact_table, number, size
from client.table_cells import Cropped
from gkd_core.events import (
    Evaluation,
    Progress,
)
from jobs.curves import Curve, JobCurves, RunCurves
from jobs.job import END_STATES, Artifact, Job, State
from jobs.presence import Gpu, Worker, WorkerState

COLOURS = {
    State.RUNNING: "cyan",
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.PAUSED: "yellow",
    State.CANCELLED: "yellow",
}


def jobs_table(jobs: tuple[Job, ...]) -> Table:
    """Return a table of jobs, a line or two each; `gkd show` has the whole reason."""
    table = compact_table("id", "name", "kind", "state", "why", "created")
    for job in jobs:
        state = Text.assemble(_state(job), _percent_done(job))
        why = job.reason.removeprefix(f"{job.state}: ")
        created = age(job.created_at).removesuffix(" ago")
        table.add_row(job.id, Cropped(job.name), job.kind, state, Cropped(why, lines=2), created)
    return table


def _percent_done(job: Job) -> str:
    """Return the progress of an open job in percent."""
    if job.progress is None or job.state in END_STATES:
        return ""
    return f" {100 * job.progress['fraction']:.0f}%"


def curves_table(found: JobCurves) -> Table:
    """Return a table of metric curves: first, lowest, highest and last value of each."""
    table = Table("run", "", "from", "to", "first", "lowest", "highest", "last", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for run, curves in found.runs.items():
        for name, unit, curve in _curves(curves):
            places = (f"{unit} {curve.x[0]}", f"{unit} {curve.x[-1]}")
            numbers = (curve.y[0], min(curve.y), max(curve.y), curve.y[-1])
            table.add_row(Text(run), Text(name), *places, *(f"{value:.4g}" for value in numbers))
    return table


def _curves(run: RunCurves) -> Iterator[tuple[str, str, Curve]]:
    for name, curve in run.losses.items():
        yield name, "step", curve
    for name, single in (("lr", run.lr), ("images per second", run.images_per_second)):
        if single:
            yield name, "step", single
    errors = {
        f"reconstruction error, level {level}": curve for level, curve in run.reconstruction_error.items()
    }
    per_class = {f"AP {name}": curve for name, curve in run.per_class.items()}
    for name, curve in {**errors, **run.evaluation, **per_class}.items():
        yield name, "epoch", curve


def workers_table(workers: tuple[Worker, ...]) -> Table:
    """Return a table of workers, one line each, with their GPUs below."""
    table = compact_table("worker", "state", "runs", "listens to", "seen")
    for worker in workers:
        state = Text(worker.state, style="red" if worker.state is WorkerState.LOST else "")
        runs, queues = worker.job_id or "", ", ".join(worker.queues)
        table.add_row(Cropped(worker.name), state, runs, Cropped(queues), age(worker.seen_at))
        for gpu in worker.gpus:
            table.add_row(Cropped(f"  {gpu.index}  {gpu.name}"), "", "", Cropped(_gpu(gpu), lines=2), "")
    return table


def _gpu(gpu: Gpu) -> str:
    known = {
        "at work {} %": gpu.utilisation,
        "{:.1f} GB": None if gpu.memory_used is None else gpu.memory_used / 1e9,
        "of {:.1f}": None if gpu.memory_total is None else gpu.memory_total / 1e9,
        "{} °C": gpu.temperature,
    }
    return " ".join(words.format(value) for words, value in known.items() if value is not None)


def _state(job: Job) -> Text:
    return Text(job.state, style=COLOURS.get(job.state, ""))


def job_card(job: Job, artifacts: tuple[Artifact, ...] = ()) -> RenderableType:
    """Return everything known about one job."""
    card = Table.grid(padding=(0, 2))
    for name, value in _facts(job).items():
        if value:
            card.add_row(Text(name, style="dim"), value if isinstance(value, Text) else Text(str(value)))
    for attempt in job.attempts if len(job.attempts) > 1 else ():
        told = f"on {attempt.worker}: {attempt.outcome or 'runs'} {attempt.message}".rstrip()
        card.add_row(Text(f"attempt {attempt.attempt}", style="dim"), Text(told))
    return Group(card, artifacts_table(artifacts)) if artifacts else card


def _facts(job: Job) -> dict[str, Any]:
    """Return the facts about a job by name; empty ones are not shown."""
    return {
        "job": job.id,
        "name": job.name,
        "kind": job.kind,
        "state": _state(job),
        "why": job.reason,
        "created": f"{job.created_at:%Y-%m-%d %H:%M:%S} ({age(job.created_at)})",
        "worker": job.worker,
        "waits for": ", ".join(job.waits_for),
        "does again": job.retry_of,
        "tags": ", ".join(f"{key}:{value}" for key, value in job.tags.items()),
        **(_measured(job) if job.state is not State.SUCCEEDED else {}),  # then the report says it better
        "warnings": "\n".join(job.warnings),
        "failure": f"{job.failure.failure_class}: {job.failure.message}" if job.failure else None,
        "hint": job.failure.hint if job.failure else None,
        "you can": ", ".join(job.actions),
    }


def _measured(job: Job) -> dict[str, Any]:
    """Return a job's progress, estimated end, and latest evaluation."""
    return {
        "progress": progress_line(Progress.model_validate(job.progress)) if job.progress else None,
        "done about": f"{job.estimated_end.astimezone():%Y-%m-%d %H:%M}" if job.estimated_end else None,
        "evaluation": line(Evaluation.model_validate(job.evaluation)) if job.evaluation else None,
    }


def artifacts_table(artifacts: tuple[Artifact, ...]) -> Table:
    """Return a table of published files; `gkd download` prints the whole SHA-256."""
    table = compact_table("artifact", "size", "AP", "SHA-256")
    for artifact in artifacts:
        ap = number(artifact.metrics.get("AP"))
        table.add_row(artifact.name, size(artifact.size), ap, Cropped(artifact.sha256))
    return table
