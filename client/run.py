"""The engine without the service: runs a spec in a folder, with events on the terminal and the report at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from client import show_report
from client.follow import follow
from client.signals import answered_by
from client.spec_file import read
from client.terminal import print_line
from gkd_core.config import AnyRun
from gkd_core.errors import Failure, FailureClass, GkdError, Problem, SpecError
from gkd_core.events import Event, Report
from gkd_core.run_dir import COMPLETE, FAILED, STOPPED, RunDir
from jobs.paths.annotation_changes import compare, fingerprint_now
from jobs.paths.data_roots import DataRootError
from jobs.resources import ResourceKind
from jobs.specs.resolve import resolve
from jobs.specs.spec import AnySpec, Resolved
from jobs.specs.spec_errors import read_spec
from worker.engine import Engine

ATTEMPT = 1
"""The only attempt: the folder has one owner, and its lock keeps a second engine out."""

POLL_SECONDS = 0.2
LOG_LINES = 15


class RunFailed(GkdError):
    """The engine failed; `message` and `hint` are its own."""


def run(spec: Path, out: Path, console: Console, *, as_json: bool = False) -> int:
    """Run a spec to its end, or resume a run that was stopped.

    Args:
        spec: The spec's file; relative paths in it start at the current folder.
        out: Folder of the run.
        console: Where progress and report are shown.
        as_json: Print events as lines of JSON instead of showing progress.

    Returns:
        0 if the run is complete, 75 if it was stopped after a checkpoint.

    Raises:
        GkdError: the spec is wrong, the folder holds another run, or the engine failed.
    """
    resolved = resolve_here(read_spec(read(spec)))
    for warning in resolved.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    run_dir = RunDir(out)
    _refuse_another_run(run_dir, resolved.config)
    config, edited = compare(resolved.config, fingerprint_now(resolved.config), run_dir)
    run_dir.prepare(config, ATTEMPT)
    seen = run_dir.size_of_events()
    if edited:  # in this very second
        run_dir.append_event(edited)
    with (
        Engine.start(run_dir, ATTEMPT, device=resolved.config.device) as engine,
        _interruptible(engine, console),
    ):
        _show_events(_tail(engine, seen), console, as_json)
        code = engine.poll()
    return _conclude(run_dir, code, f"gkd run {spec} --out {out}", console)


def resolve_here(spec: AnySpec) -> Resolved:
    """Resolve a spec on this machine, without the service; relative paths start at the current folder.

    Raises:
        GkdError: it cannot be carried out here.
    """
    return resolve(
        spec,
        roots=(Path.cwd(),),
        find_job=_no_job,
        find_resource=_no_resource,
        confined=False,
    )


def _show_events(events: Iterator[Event], console: Console, as_json: bool) -> None:
    if not as_json:
        follow(events, console)
    for event in events:
        print_line(event)


def _no_job(job_id: str) -> None:
    raise DataRootError(f"without the service there is no job {job_id!r}", "Name a .safetensors file of GKD.")


def _no_resource(kind: ResourceKind, resource_id: str) -> None:
    raise DataRootError(f"without the service there is no {kind} {resource_id!r}", "Name a path.")


def _refuse_another_run(run_dir: RunDir, config: AnyRun) -> None:
    if run_dir.config.exists() and _without_fingerprint(run_dir.read_config()) != _without_fingerprint(
        config
    ):
        hint = "Name another folder with --out, or go back to the spec that the run was started with."
        message = f"{run_dir.path} holds a run of another spec, which this one cannot continue"
        raise SpecError([Problem(loc=("--out",), message=message, hint=hint)])


def _without_fingerprint(config: AnyRun) -> AnyRun:
    """Return the config without the fingerprint of the annotations, to compare the spec only."""
    return config.model_copy(update={"data_fingerprint": None})


def _tail(engine: Engine, offset: int) -> Iterator[Event]:
    ended = False
    while not ended:
        ended = engine.poll() is not None  # polled first: no events come after the end
        for event, following in engine.events(offset):
            offset = following
            yield event
        time.sleep(0 if ended else POLL_SECONDS)


@contextmanager
def _interruptible(engine: Engine, console: Console) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM ask the engine to stop after a checkpoint; the second time they kill it."""
    asked = False

    def stop() -> None:
        nonlocal asked
        if asked:
            engine.kill()
            return
        asked = True
        console.print("stopping after a checkpoint; Ctrl-C once more ends it at once")
        engine.stop()

    with answered_by(stop):
        yield


def _conclude(run_dir: RunDir, code: int | None, command: str, console: Console) -> int:
    if code == COMPLETE:
        console.print(show_report.report(Report.model_validate(run_dir.read_report())))
        console.print(Text(f"everything lies in {run_dir.path}"), soft_wrap=True)
        return COMPLETE
    if code == STOPPED:
        console.print(Text(f"stopped; `{command}` goes on from the last checkpoint"), soft_wrap=True)
        return STOPPED
    failure = run_dir.read_failure() if code == FAILED else None
    failure = failure or _unexplained(run_dir, code, command)
    raise RunFailed(f"{failure.failure_class}: {failure.message}", failure.hint)


def _unexplained(run_dir: RunDir, code: int | None, command: str) -> Failure:
    how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
    tail = "\n".join(run_dir.log.read_text(errors="replace").splitlines()[-LOG_LINES:])
    message = f"the engine was ended {how}; its log {run_dir.log} ends with:\n{tail}"
    hint = f"`{command}` goes on from the last checkpoint."
    return Failure(failure_class=FailureClass.INFRASTRUCTURE, message=message, hint=hint)
