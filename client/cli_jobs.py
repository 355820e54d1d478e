"""`gkd submit`, `jobs`, `watch`, ...: submitting jobs, following them, and fetching their files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from client.cli_options import (
    HERE,
    AsJson,
    Follow,
    JobId,
    Key,
    SpecFile,
    Url,
    asked_about,
    connected,
    err,
    out,
)
from client.job_output import print_check, print_job, print_new, watch_to_its_end
from client.terminal import print_json, print_text

commands = typer.Typer()


@commands.command()
def submit(
    spec: SpecFile,
    key: Key = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it could run.")] = False,
    follow: Follow = False,
    url: Url = HERE,
    as_json: AsJson = False,
) -> None:
    """Queue a job."""
    from client.names import with_ids

    value = _spec(spec)
    with connected(url) as client:
        value = with_ids(client, value)
        if check:
            print_check(client.validate(value), as_json)
            return
        print_new(client, client.submit(value, idempotency_key=key), follow, as_json)


@commands.command()
def jobs(
    state: Annotated[str | None, typer.Option(help="Only those in this state.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only those of this kind.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="Only those with this tag: key, or key:value. May be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number; the newest are listed.")] = 20,
    url: Url = HERE,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from client import show_jobs

    with connected(url) as client:
        found = client.jobs(state=state, kind=kind, tag=tag, limit=limit)
    if as_json:
        print_json([job.model_dump(mode="json") for job in found])
    else:
        out.print(show_jobs.jobs_table(found) if found else "no jobs")


@commands.command()
def schema(url: Url = HERE) -> None:
    """Print the JSON schema of a spec."""
    with connected(url) as client:
        print_json(client.schema())


@commands.command(name="show")
def show_job(job_id: JobId, url: Url = HERE, as_json: AsJson = False) -> None:
    """Show one job: state, reason, progress, failure, files."""
    from client import show_jobs

    with asked_about(url, job_id) as (client, job_id):
        job, files = client.job(job_id), client.artifacts(job_id)
    if as_json:
        print_json(
            {**job.model_dump(mode="json"), "artifacts": [file.model_dump(mode="json") for file in files]}
        )
    else:
        out.print(show_jobs.job_card(job, files))


@commands.command()
def watch(job_id: JobId, url: Url = HERE, as_json: AsJson = False) -> None:
    """Follow a job to its end. Ctrl-C stops watching, not the job. Exits with 1 if the job does not succeed."""
    with asked_about(url, job_id) as (client, job_id):
        watch_to_its_end(client, job_id, as_json)


@commands.command()
def cancel(job_id: JobId, url: Url = HERE, as_json: AsJson = False) -> None:
    """Cancel a job for good."""
    _ask("cancel", job_id, url, as_json)


@commands.command()
def pause(job_id: JobId, url: Url = HERE, as_json: AsJson = False) -> None:
    """Stop a running job after a checkpoint and free its device."""
    _ask("pause", job_id, url, as_json)


@commands.command()
def resume(job_id: JobId, url: Url = HERE, as_json: AsJson = False) -> None:
    """Resume a paused job, or withdraw the request to pause a running one."""
    _ask("resume", job_id, url, as_json)


@commands.command()
def retry(
    job_id: JobId, key: Key = None, follow: Follow = False, url: Url = HERE, as_json: AsJson = False
) -> None:
    """Retry a failed or cancelled job, from its last checkpoint if one is left. It gets a new id."""
    with asked_about(url, job_id) as (client, job_id):
        print_new(client, client.retry(job_id, idempotency_key=key), follow, as_json)


@commands.command()
def clone(
    job_id: JobId,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="What is different, e.g. train.epochs=24. May be repeated."
        ),
    ] = None,
    key: Key = None,
    follow: Follow = False,
    url: Url = HERE,
    as_json: AsJson = False,
) -> None:
    """Queue a job of another one's spec. Values are JSON, or text; null removes a field."""
    from client.spec_file import changed

    with asked_about(url, job_id) as (client, job_id):
        print_new(client, client.clone(job_id, changed(changes or []), idempotency_key=key), follow, as_json)


@commands.command()
def edit(
    job_id: JobId,
    name: Annotated[str | None, typer.Option(help="Its name from now on.")] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A tag; KEY= removes it. May be repeated."),
    ] = None,
    priority: Annotated[
        int | None, typer.Option(min=0, max=9, help="9 goes first; while it is queued.")
    ] = None,
    url: Url = HERE,
    as_json: AsJson = False,
) -> None:
    """Change a job's name, tags or priority."""
    given = {"name": name, "tags": _tags(tag or []) or None, "priority": priority}
    with asked_about(url, job_id) as (client, job_id):
        job = client.change(job_id, **{field: value for field, value in given.items() if value is not None})
    print_job(job, as_json)


def _tags(written: list[str]) -> dict[str, str | None]:
    tags: dict[str, str | None] = {}
    for each in written:
        key, equals, value = each.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"write KEY=VALUE, or KEY= to take the tag away, not {each!r}")
        tags[key] = value or None
    return tags


@commands.command()
def delete(job_id: JobId, url: Url = HERE, as_json: AsJson = False) -> None:
    """Delete a job that has ended, with its files."""
    with asked_about(url, job_id) as (client, job_id):
        client.delete(job_id)
    if as_json:
        print_json({"deleted": job_id})
    else:
        out.print(Text(f"{job_id}  deleted"))


@commands.command()
def metrics(
    job_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="A job: its id, the beginning of it, or its name.")
    ] = None,
    points: Annotated[int, typer.Option(min=10, max=10_000, help="Of each curve, at most.")] = 500,
    url: Url = HERE,
    as_json: AsJson = False,
) -> None:
    """Summarise losses and scores of a job (with --json the curves), or, without a job, print the service's metrics."""
    from client import show_jobs
    from client.names import find_job

    with connected(url) as client:
        if job_id is None:
            _print_service_metrics(client.service_metrics(), as_json)
            return
        found = client.metrics(find_job(client, job_id), points=points)
    if as_json:
        print_json(found)
    else:
        out.print(show_jobs.curves_table(found) if found.runs else "nothing has been measured yet")


def _print_service_metrics(text: str, as_json: bool) -> None:
    """Print them in Prometheus' format, or as JSON with one object per sample."""
    if not as_json:
        print_text(text)
        return
    from prometheus_client.parser import text_string_to_metric_families

    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    print_json([{"name": each.name, "labels": each.labels, "value": each.value} for each in samples])


@commands.command()
def log(
    job_id: JobId,
    offset: Annotated[int, typer.Option(help="Byte to start from; negative counts from the end.")] = -16_384,
    limit: Annotated[
        int | None, typer.Option(min=4, help="Maximum number of bytes; default 256 KiB.")
    ] = None,
    url: Url = HERE,
) -> None:
    """Print the end of a job's log."""
    with asked_about(url, job_id) as (client, job_id):
        text, _ = client.log(job_id, offset=offset, limit=limit)
    print_text(text)
    if not text:
        err.print("the log is empty: what happens to a job are its events, see `gkd watch`")


@commands.command()
def report(job_id: JobId, url: Url = HERE, as_json: AsJson = False) -> None:
    """Print a job's report: teacher, control and student side by side, on the whole and by class."""
    from client import show_assessment

    with asked_about(url, job_id) as (client, job_id):
        found = client.report(job_id)
    if as_json:
        print_json(found)
    else:
        out.print(show_assessment.complete(found))


@commands.command()
def download(
    job_id: JobId,
    name: Annotated[str | None, typer.Argument(help="The artifact; default: all of them.")] = None,
    target: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path(),
    url: Url = HERE,
    as_json: AsJson = False,
) -> None:
    """Download a job's files and check their SHA-256."""
    target.mkdir(parents=True, exist_ok=True)
    with asked_about(url, job_id) as (client, job_id):
        names = [name] if name else [artifact.name for artifact in client.artifacts(job_id)]
        files = {each: client.download(job_id, each, target / Path(each).name) for each in names}
    if as_json:
        print_json(
            [{"file": str(target / Path(each).name), "sha256": digest} for each, digest in files.items()]
        )
    for each, digest in files.items() if not as_json else ():
        out.print(Text(f"{digest}  {target / Path(each).name}"), soft_wrap=True)
    if not files:
        err.print("the job has published nothing yet")


# ---- shared by the commands above ------------------------------------------------------------------------


def _spec(path: Path) -> Any:
    from client.spec_file import read

    return read(path)


def _ask(verb: str, job_id: str, url: str, as_json: bool) -> None:
    with asked_about(url, job_id) as (client, job_id):
        job = getattr(client, verb)(job_id)
    print_job(job, as_json)
