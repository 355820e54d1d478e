"""Terminal output: jobs, reports, data sets, and one line for every event."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.table_cells import Cropped
from gkd_core.events import (
    Checkpoint,
    Evaluation,
    Event,
    FileWritten,
    Gain,
    ModelReport,
    Progress,
    PrototypesSelected,
    Report,
    events,
)
from jobs.curves import Curve, JobCurves, RunCurves
from jobs.job import END_STATES, Artifact, Job, State, StoredEvent
from jobs.presence import Gpu, Worker, WorkerState
from jobs.resources import CheckedResource, Resource, ResourceKind, ResourceState

if TYPE_CHECKING:  # the check needs numpy, the other commands do not
    from gkd_core.config import SplitName
    from gkd_core.data.check import DataReport
    from gkd_core.data.examine import Examination, How, SplitExamination

ROLES = ("teacher", "control", "student", "model", "onnx")
"""The order of a report's rows."""

ACTIVITIES = {
    "prototypes": "selecting prototypes",
    "evaluate": "evaluating",
    "export": "exporting and checking",
    "draw": "drawing",
}
"""Descriptions of a job's activities besides training."""

COLOURS = {
    State.RUNNING: "cyan",
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.PAUSED: "yellow",
    State.CANCELLED: "yellow",
}


def event_of(stored: StoredEvent) -> Event | None:
    """Return the engine's event in a stored one; None if it is about a transition, request or change."""
    return (
        None
        if stored.kind in ("state", "request", "change")
        else events.validate_python({"kind": stored.kind, **stored.body})
    )


def stored_line(stored: StoredEvent) -> str:
    """Return a stored event in one line."""
    if event := event_of(stored):
        return line(event)
    if stored.kind == "request":
        return (
            "no longer asked to pause"
            if stored.body["desired"] == "run"
            else f"asked to {stored.body['desired']}"
        )
    if stored.kind == "change":
        tags = ", ".join(f"{key}:{value}" for key, value in stored.body["tags"].items())
        return (
            f"changed: name {stored.body['name']}, priority {stored.body['priority']}, tags {tags or 'none'}"
        )
    return told(stored.body["state"], stored.body["reason"])


def told(state: str, reason: str) -> str:
    """Return state and reason of a job, without repetition."""
    return reason if reason.startswith(state) else f"{state}: {reason}"


def line(event: Event) -> str:
    """Return an event in one line."""
    match event:
        case Progress():
            return _progress(event)
        case Evaluation():
            return f"{_format_run(event)}: {_metrics(event.metrics)}"
        case PrototypesSelected():
            chosen, pooled = sum(event.prototypes.values()), sum(event.instances.values())
            return f"{_format_run(event)}: {chosen} prototypes out of {pooled} objects"
        case Checkpoint():
            best = ", the best so far" if event.best else ""
            return f"{event.run}, epoch {event.epoch}: published {event.file} ({size(event.size)}){best}"
        case FileWritten():
            return f"{event.run}: published {event.file} ({size(event.size)}): {event.title}"
        case Report():
            return "the report is written"
        case _:
            return f"warning: {event.message}" + (f" ({event.hint})" if event.hint else "")


def _format_run(event: Evaluation | PrototypesSelected) -> str:
    """Return the run of an event, with its epoch if it has one."""
    return f"{event.run}, epoch {event.epoch}" if event.epoch else event.run


def _progress(event: Progress) -> str:
    """Return everything known about a job's progress."""
    activity = (
        (f"step {event.step}/{event.steps}", _losses(event.losses)) if _trains(event) else (_activity(event),)
    )
    return ", ".join(filter(None, (_run_and_epoch(event), *activity, time_left(event))))


def standing(event: Progress, width: int) -> str:
    """Return a job's progress in at most `width` columns: losses are shortened first, then steps go, then the epoch."""
    return next((told for told in _progress_forms(event) if len(told) <= width), "")


def _progress_forms(event: Progress) -> Iterator[str]:
    """Yield the progress in ever shorter forms."""
    if not _trains(event):
        yield from (
            f"{_run_and_epoch(event)}, {_activity(event)}",
            f"{event.run}, {_activity(event)}",
            _activity(event),
        )
    else:
        step = f"{_run_and_epoch(event)}, step {event.step}/{event.steps}"
        losses = [_losses(event.losses, shown) for shown in range(len(event.losses), -1, -1)]
        yield from (f"{step}, {told}" for told in losses if told)
        yield step
    yield from (
        _run_and_epoch(event),
        f"{event.run} {_epoch(event)}".rstrip(),
        event.run,
        f"{event.run[:7]}…",
    )


def time_left(event: Progress) -> str:
    """Return the remaining time of a job; empty if it is unknown."""
    return "" if event.seconds_left is None else f"{duration(event.seconds_left)} left"


def _trains(event: Progress) -> bool:
    return event.activity == "train"


def _activity(event: Progress) -> str:
    return ACTIVITIES[event.activity]


def _run_and_epoch(event: Progress) -> str:
    return f"{event.run}, epoch {_epoch(event)}" if event.epochs else event.run


def _epoch(event: Progress) -> str:
    return f"{min(event.epoch + 1, event.epochs)}/{event.epochs}" if event.epochs else ""


def _losses(losses: dict[str, float], shown: int | None = None) -> str:
    """Return the sum of the losses, and its first `shown` parts (None: all)."""
    if not losses:
        return ""
    parts = [f"{name.removeprefix('loss_')} {value:.3g}" for name, value in losses.items()]
    told = parts[:shown] + ["…"] * (shown is not None and shown < len(parts))
    total = f"loss {sum(losses.values()):.3g}"
    return f"{total} ({' '.join(told)})" if len(parts) > 1 and shown != 0 else total


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {number(metrics[name])}" for name in ("AP", "AP50", "AP75") if name in metrics)


def number(value: float | None) -> str:
    """Return a COCO metric as text; -1 means that there is no such object."""
    return "-" if value is None or value < 0 else f"{value:.3f}"


def size(count: int) -> str:
    """Return a number of bytes as text."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def duration(seconds: float) -> str:
    """Return a duration in seconds as text."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def age(moment: datetime) -> str:
    """Return how long ago a moment was, as text."""
    passed: timedelta = datetime.now(moment.tzinfo) - moment
    return f"{duration(max(passed.total_seconds(), 0))} ago"


def jobs_table(jobs: tuple[Job, ...]) -> Table:
    """Return a table of jobs, a line or two each; `gkd show` has the whole reason."""
    table = _compact("id", "name", "kind", "state", "why", "created")
    for job in jobs:
        state = Text.assemble(_state(job), _percent_done(job))
        why = job.reason.removeprefix(f"{job.state}: ")
        created = age(job.created_at).removesuffix(" ago")
        table.add_row(job.id, Cropped(job.name), job.kind, state, Cropped(why, lines=2), created)
    return table


FLEXIBLE = ("name", "why", "where", "worker", "listens to", "SHA-256")
"""Columns that shrink if the terminal is narrow."""


def _compact(*names: str) -> Table:
    """Return a table for 80 columns: short cells stay whole, `Cropped` cells share the remaining width."""
    table = Table(*names, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.no_wrap = column.header not in FLEXIBLE
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
    table = _compact("worker", "state", "runs", "listens to", "seen")
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
        "progress": _progress(Progress.model_validate(job.progress)) if job.progress else None,
        "done about": f"{job.estimated_end.astimezone():%Y-%m-%d %H:%M}" if job.estimated_end else None,
        "evaluation": line(Evaluation.model_validate(job.evaluation)) if job.evaluation else None,
    }


def artifacts_table(artifacts: tuple[Artifact, ...]) -> Table:
    """Return a table of published files; `gkd download` prints the whole SHA-256."""
    table = _compact("artifact", "size", "AP", "SHA-256")
    for artifact in artifacts:
        ap = number(artifact.metrics.get("AP"))
        table.add_row(artifact.name, size(artifact.size), ap, Cropped(artifact.sha256))
    return table


def data_set(found: DataReport) -> RenderableType:
    """Return what is in a data set, with warnings."""
    return Group(
        _title(found),
        _read_from(found),
        _counts(found),
        *(_warning(w.message, w.hint) for w in found.warnings),
    )


def _title(found: DataReport) -> str:
    return f"a data set in {found.format.upper()} format, {len(found.classes)} classes"


def _read_from(found: DataReport) -> RenderableType:
    """Return which annotations belong to which pictures, relative to their common folder."""
    splits = found.resolved.splits
    paths = [path for split in splits.values() for path in (split.images, split.annotations)]
    folder = os.path.commonpath(paths)
    table = Table("read from", "annotations", "pictures", box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for name, split in splits.items():
        listed = f" ({os.path.relpath(split.names, folder)})" if split.names else ""
        places = [os.path.relpath(path, folder) for path in (split.annotations, split.images)]
        table.add_row(name, Text(places[0] + listed), Text(places[1]))
    return Group(Text(f"in {folder}"), table)


def _counts(found: DataReport) -> Table:
    table = Table("", *found.splits, box=None, pad_edge=False)
    splits = tuple(found.splits.values())
    apart = "difficult objects" if found.format == "voc" else "crowd regions"
    rows = {
        "pictures": [split.images for split in splits],
        "without objects": [split.images_without_boxes for split in splits],
        "objects": [split.boxes for split in splits],
        **{f"  {name}": [s.boxes_per_class.get(name, 0) for s in splits] for name in found.classes},
        "small (under 32 x 32)": [split.small for split in splits],
        "medium": [split.medium for split in splits],
        "large (from 96 x 96)": [split.large for split in splits],
        f"{apart}, ignored": [split.crowd for split in splits],
        "truncated": [split.truncated for split in splits],
    }
    for name, counts in rows.items():
        if any(counts) or name.startswith("  ") or name in ("pictures", "objects"):
            table.add_row(Text(name), *map(str, counts))
    return table


def _warning(message: str, hint: str) -> Text:
    return Text(f"warning: {message} {hint}".rstrip(), style="yellow")


def usable(resolved: Mapping[str, Any]) -> Text:
    """Return the result of checking a spec: warnings, and in the last line that it can run, on what and where.

    Args:
        resolved: The answer of `POST /jobs/validate`.
    """
    config, report = resolved["config"], resolved["report"] or {}
    of_data = {warning["message"]: warning["hint"] for warning in report.get("warnings", ())}
    lines = [_warning(message, of_data.get(message, "")) for message in resolved["warnings"]]
    splits = [report[name]["images"] for name in ("train", "val", "test") if report.get(name)]
    counts = f"{' + '.join(map(str, splits))} pictures, {_counted(len(report['classes']), 'class', 'es')}, "
    device = "CPU" if config["device"] == "cpu" else _counted(config.get("processes", 1), "GPU")
    return Text("\n").join([*lines, Text(f"OK: {counts if splits else ''}{device}")])


def _counted(count: int, what: str, plural: str = "s") -> str:
    return f"{count} {what}{plural if count != 1 else ''}"


def examination(found: Examination) -> RenderableType:
    """Return everything about a data set: counts, sizes, oddities, and pictures shared by splits."""
    parts: list[RenderableType] = [
        _title(found),
        _read_from(found),
        "",
        _counts(found),
        "",
        _picture_sizes(found),
        "",
        _box_sides(found),
    ]
    parts += [_too_small_boxes(name, split) for name, split in found.splits.items() if split.resized]
    parts += [_warning(warning.message, warning.hint) for warning in found.warnings]
    parts += [*_copies(found), *_shared(found)]
    if not found.decoded:
        parts.append(Text("only headers were read: broken and repeated pictures would not show", style="dim"))
    return Group(*parts)


def _copies(found: Examination) -> Iterator[Text]:
    for name, split in found.splits.items():
        if split.copies:
            groups = [f"{_file(first)} ({len(rest) + 1} times)" for first, *rest in split.copies]
            yield _warning(f"{name} has pictures more than once, byte for byte: {_join_first(groups)}", "")


def _shared(found: Examination) -> Iterator[Text]:
    """Yield warnings of pictures that are in another split under another name.

    Those of equal name are in the warnings.
    """
    both = [(pair.how, pair.train, pair.val) for pair in found.shared]
    yield from _shared_pictures("val", "train", both, found.shared_count, found)
    for split, count in found.test_shared_count.items():
        both = [(pair.how, pair.other, pair.test) for pair in found.test_shared if pair.split == split]
        yield from _shared_pictures("test", split, both, count, found)


def _shared_pictures(
    name: SplitName,
    other: SplitName,
    both: Sequence[tuple[How, str, str]],
    count: Mapping[How, int],
    found: Examination,
) -> Iterator[Text]:
    """Yield warnings of pictures of one split that are in another one, each with its most similar picture there."""
    for how, told in TOLD.items():
        pairs = [f"{_file(first)} and {_file(second)}" for as_, first, second in both if as_ == how]
        if pairs:
            share = f"{count.get(how, 0)} of {found.splits[name].images}"
            yield _warning(f"{share} pictures of {name} {told.format(other)}: {_join_first(pairs)}", "")


TOLD: dict[Literal["same bytes", "looks the same"], str] = {
    "same bytes": "are in {}, too, byte for byte",
    "looks the same": "look the same as one of {}",
}
"""Phrases for pictures of one split that are in another one."""
SHOWN = 5
"""Maximum number of pictures, or groups of them, that are named; --json names more."""


def _join_first(items: Sequence[str]) -> str:
    return "; ".join(items[:SHOWN]) + ("; and more, see --json" if len(items) > SHOWN else "")


def _file(path: str) -> str:
    return PurePath(path).name


def _picture_sizes(found: Examination) -> Table:
    table = Table("pictures", "smallest", "median", "largest", "most common", box=None, pad_edge=False)
    for name, split in found.splits.items():
        sizes = split.pictures
        common = ", ".join(f"{w} x {h} ({count})" for w, h, count in sizes.most_common)
        ends = [f"{w:g} x {h:g}" for w, h in (sizes.smallest, sizes.median, sizes.largest)]
        table.add_row(name, *ends, common)
    return table


def _box_sides(found: Examination) -> Table:
    """Return a histogram of box sides, in pixels of the file and, if asked for, of resized pictures."""
    lows = next(iter(found.splits.values())).sides.from_pixels
    ends = [f"{low}-{high}" for low, high in pairwise(lows)] + [f"{lows[-1]}+"]
    table = Table("boxes by side", *ends, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, split in found.splits.items():
        table.add_row(name, *map(str, split.sides.boxes))
        if split.resized:
            table.add_row(f"{name} at {split.resized.image_size}", *map(str, split.resized.sides.boxes))
    return table


def _too_small_boxes(name: str, split: SplitExamination) -> Text:
    assert split.resized is not None  # checked by the caller
    count = split.resized.under_8
    told = (
        f"{count} of {split.boxes} boxes of {name} have a side under 8 pixels at {split.resized.image_size}"
    )
    return Text(f"{told}, too small to learn much from" if count else told)


def report(report: Report) -> RenderableType:
    """Return the models side by side, if any, the gain of distillation, and notes on the figures."""
    lines = [Text(f"note: {note}", style="dim") for note in report.notes]
    if report.gain_on_test:
        lines = [*_gain(report.gain_on_test, " on test"), *lines]
    if report.gain:
        lines = [*_gain(report.gain, " on val" if report.gain_on_test else ""), *lines]
    if report.figures:
        lines.append(Text(f"to look at: {', '.join(report.figures)}"))
    return Group(_models(report), *_on_test(report), *lines) if report.models else Group(*lines)


def _gain(gain: Gain, where: str) -> list[Text]:
    interval = f"95 % interval {gain.ap_low:+.3f} to {gain.ap_high:+.3f}"
    told = f"student minus control{where}: {gain.ap:+.3f} AP ({interval}), {gain.ap50:+.3f} AP50"
    return [Text(told), Text(gain.verdict, style="bold")]


def _models(report: Report) -> Table:
    measured = ("parameters", "size", "GFLOPs", "ms per image")
    table = Table("", "detector", *report.headline, *measured, box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for column in table.columns[2:-1]:  # if the terminal is narrow, words are broken and numbers are not
        column.no_wrap = True
        column.min_width = len(str(column.header))
    for role in _roles(report):
        table.add_row(role, *_model_cells(report.models[role], report.headline))
    return table


def _roles(report: Report) -> list[str]:
    return sorted(report.models, key=lambda role: ROLES.index(role) if role in ROLES else len(ROLES))


def _on_test(report: Report) -> Iterator[Table]:
    """Yield a table of the models' metrics on the test split, if there is one."""
    found = {role: model.test for role in _roles(report) if (model := report.models[role]).test}
    if not found:
        return
    table = Table("on test", *report.headline, box=None)
    for role, scores in found.items():
        numbers = scores.metrics if scores else {}
        table.add_row(role, *(number(numbers.get(name)) for name in report.headline))
    yield table


def _model_cells(model: ModelReport, metrics: tuple[str, ...]) -> tuple[str, ...]:
    latency = model.latency_ms
    return (
        f"{model.architecture} {model.backbone}",
        *(number(model.metrics.get(name)) for name in metrics),
        f"{model.parameters / 1e6:.2f} M",
        size(model.size) if model.size is not None else "-",
        f"{model.gflops:.1f}",
        f"{latency.median:.1f} ({latency.low:.1f} to {latency.high:.1f})",
    )


# ---- registered data sets and models -----------------------------------------------------------------------


def resources_table(found: Sequence[Resource]) -> Table:
    """Return a table of data sets or models, one line each."""
    table = _compact("id", "name", "state", "size", "made", "where")
    for each in found:
        where = "uploaded" if each.uploaded else each.path or "splits spelt out"
        made = age(each.created_at).removesuffix(" ago")
        name = Cropped(each.name)
        table.add_row(
            f"{each.kind}:{each.id}", name, _checked(each), size(each.size), made, Cropped(where, 2)
        )
    return table


def resource_card(found: CheckedResource) -> RenderableType:
    """Return one data set or model, with its report."""
    head = Text.assemble(f"{found.kind}:{found.id}  ", (found.name, "bold"), "  ", _checked(found))
    lines: list[RenderableType] = [head, Text(found.reason)]
    if found.path:
        lines.append(Text(found.path, style="dim"))
    if found.sha256:
        lines.append(Text(f"{size(found.size)}, SHA-256 {found.sha256}", style="dim"))
    return Group(*lines, *_findings(found))


def _findings(found: CheckedResource) -> Iterator[RenderableType]:
    report = found.report or {}
    if found.kind is ResourceKind.MODEL:
        if card := report.get("card"):
            yield Text(f"classes {', '.join(card['classes'])}; pictures of {card['image_size']} pixels")
    elif report.get("usable"):
        from gkd_core.data.examine import Examination

        yield ""
        yield examination(Examination.model_validate(report))
    else:
        yield from (_warning(each["message"], each["hint"]) for each in report.get("problems", ()))


def _checked(resource: Resource) -> Text:
    colours = {ResourceState.READY: "green", ResourceState.REFUSED: "red"}
    return Text(resource.state, style=colours.get(resource.state, ""))
