"""What commands about jobs print: a new job, its state after a request, its events as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from client.cli_options import err, out
from client.terminal import print_json, print_line

if TYPE_CHECKING:
    from client.client import Client
    from jobs.job import Job


def print_check(found: dict[str, Any], as_json: bool) -> None:
    """Print what a spec resolves to: that it can be carried out, and on which data."""
    from client import show_data

    if as_json:
        print_json(found)
    else:
        out.print(show_data.usable(found), soft_wrap=True)


def print_new(client: Client, job: Job, follow: bool, as_json: bool) -> None:
    """Print a job that was queued, with its warnings; with `follow` also its events, to its end."""
    if as_json:
        print_json(job)
    else:
        out.print(Text(f"{job.id}  {job.name}: {job.reason}"), soft_wrap=True)
        for warning in job.warnings:
            out.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    if follow:
        watch_to_its_end(client, job.id, as_json)


def print_job(job: Job, as_json: bool) -> None:
    """Print the state of a job after a request, and the reason for it."""
    from client import show_events

    if as_json:
        print_json(job)
    else:
        out.print(Text(f"{job.id}  {show_events.told(job.state, job.reason)}"), soft_wrap=True)


def watch_to_its_end(client: Client, job_id: str, as_json: bool) -> None:
    """Print the events of a job as they come, and why it failed if it did.

    Raises:
        Exit: with 1, it did not succeed.
        KeyboardInterrupt: Ctrl-C was pressed; the job goes on.
    """
    from jobs.job import State

    try:
        _follow(client, job_id, as_json)
    except KeyboardInterrupt:
        message = (
            f"no longer watching; job {job_id} goes on. "
            f"`gkd watch {job_id}` watches again, `gkd cancel {job_id}` ends it."
        )
        err.print(Text(message), soft_wrap=True)
        raise
    job = client.job(job_id)
    if job.failure:
        hint = f"\nhint: {job.failure.hint}" if job.failure.hint else ""
        err.print(Text(f"{job.failure.failure_class}: {job.failure.message}{hint}"), soft_wrap=True)
    if job.state is not State.SUCCEEDED:
        raise typer.Exit(1)


def _follow(client: Client, job_id: str, as_json: bool) -> None:
    from client.follow import follow

    events = client.events(job_id)
    if not as_json:
        follow(events, out)
    for event in events:
        print_line(event)
