"""The `gkd` command. Everything heavy is imported by the command that needs it, so that `gkd --help` is quick.

Exit codes: 0 done; 1 it went wrong, or the job that was followed failed or was cancelled; 2 the command line is
wrong; 75 `gkd run` was stopped and can go on; 130 interrupted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from client.cli_keys import keys, limit_table
from client.terminal import console
from client.terminal import print_json as _print_json

if TYPE_CHECKING:
    from client.client import Client
    from jobs.job import Job
    from jobs.settings import Settings

out = console()
err = console(stderr=True)


class Commands(TyperGroup):
    """The group of all commands: turns what goes wrong in one into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):  # of the last typer makes a quiet end
            raise
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except Exception as error:
            if os.environ.get("GKD_DEBUG"):
                raise
            if (sentence := _explained(error)) is None:
                raise  # typer's own errors about the command line
            err.print(Text(sentence), soft_wrap=True)
            raise typer.Exit(1) from None


def _explained(error: Exception) -> str | None:
    """An error in words for people; None for those that the command line library words itself."""
    from pydantic import ValidationError

    from client.client import ClientError
    from gkd_core.errors import GkdError
    from jobs.errors import JobsError

    match error:
        case ClientError() | GkdError():
            return f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else "")
        case ValidationError(title="Settings"):
            return "error: " + "; ".join(map(_wrong_setting, error.errors()))
        case OSError(strerror=str(why), filename=str(path)):
            return f"error: {path}: {why}"
        case JobsError() | OSError():
            return f"error: {error}"
        case _ if hasattr(error, "format_message"):
            return None
    return (
        f"error: a defect of GKD, {type(error).__name__}: {error}\nhint: GKD_DEBUG=1 shows where it happened."
    )


def _wrong_setting(error: Mapping[str, Any]) -> str:
    name = f"GKD_{error['loc'][0].upper()}: " if error["loc"] else ""  # some rules are about several
    message: str = error["msg"]
    return name + message.removeprefix("Value error, ")


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Distils object detectors, and proves what that gained against a control.",
    epilog="Exit codes: 0 done, 1 it went wrong, 2 wrong command line, 75 `gkd run` was stopped and can go on.",
)
health = typer.Typer(no_args_is_help=True, help="Whether it is alive; for those who watch over containers.")
app.add_typer(health, name="health")
data = typer.Typer(no_args_is_help=True, help="Data sets.")
app.add_typer(data, name="data")
app.add_typer(keys, name="keys")

Url = Annotated[str, typer.Option("--url", envvar="GKD_URL", help="Address of the service.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
SpecFile = Annotated[
    Path, typer.Argument(metavar="SPEC", help="A job spec in JSON; - reads it from the input.")
]
Key = Annotated[str | None, typer.Option(help="Idempotency key: sent twice, queued once.")]
Follow = Annotated[bool, typer.Option("--watch", help="Then follow the job.")]
HERE = "http://127.0.0.1:8000"


# ---- the service -----------------------------------------------------------------------------------------

Host = Annotated[str | None, typer.Option(help="Address to listen on; GKD_HOST, otherwise 127.0.0.1.")]
Port = Annotated[int | None, typer.Option(help="Port; GKD_PORT, otherwise 8000; 0 takes a free one.")]


@app.command()
def serve(host: Host = None, port: Port = None) -> None:
    """Run the whole service in one process: API, worker, SQLite. For one machine; other machines need keys."""
    from client import serve

    serve.serve(_settings(host, port), out)


@app.command()
def api(host: Host = None, port: Port = None) -> None:
    """Run the API alone; needs GKD_BROKER_URL. Listens beyond the loopback only once there are keys: see `gkd keys`."""
    from client import serve

    serve.api(_settings(host, port), out)


@app.command()
def worker() -> None:
    """Run a worker; needs GKD_BROKER_URL and the database and home of the API."""
    from client import serve

    serve.worker(_settings(None, None))


@app.command()
def migrate() -> None:
    """Bring the database up to date. Every other part does so at its start; this does nothing else."""
    from jobs.store import Store

    Store.of(_settings(None, None)).close()


@health.command(name="worker")
def health_of_worker() -> None:
    """Exit with 0 while each `gkd worker` of this machine (on this GKD_HOME) gives signs of life, with 1 otherwise."""
    from client.health import trouble_with_worker

    _end_if(trouble_with_worker(_settings(None, None)))


@health.command(name="api")
def health_of_api(port: Port = None) -> None:
    """Exit with 0 when this machine's API can take jobs in, with 1 otherwise."""
    from client.health import trouble_with_api

    _end_if(trouble_with_api(_settings(None, port)))


def _end_if(trouble: str | None) -> None:
    if trouble:
        err.print(Text(trouble), soft_wrap=True)
        raise typer.Exit(1)


@app.command()
def workers(url: Url = HERE, as_json: AsJson = False) -> None:
    """List workers: what each listens to, what it does, how its GPUs are."""
    from client import show

    with _client(url) as client:
        found = client.workers()
    if as_json:
        _print_json([worker.model_dump(mode="json") for worker in found])
    else:
        out.print(show.workers_table(found) if found else "no workers: start one with `gkd worker`")


@app.command()
def whoami(url: Url = HERE, as_json: AsJson = False) -> None:
    """Say who the service takes you for, what you may have and what you have."""
    with _client(url) as client:
        asker = client.whoami()
    if as_json:
        _print_json(asker)
    else:
        out.print(Text(f"key {asker.key_id or 'none'}: {', '.join(asker.scopes)}"), soft_wrap=True)
        out.print(limit_table((asker.tenant,)))


def _settings(host: str | None, port: int | None) -> Settings:
    from jobs.settings import Settings

    given: dict[str, Any] = {"host": host, "port": port}
    return Settings(**{name: value for name, value in given.items() if value is not None})


# ---- jobs ------------------------------------------------------------------------------------------------


@app.command()
def submit(
    spec: SpecFile,
    key: Key = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it could run.")] = False,
    follow: Follow = False,
    url: Url = HERE,
    as_json: AsJson = False,
) -> None:
    """Queue a job."""
    with _client(url) as client:
        value = _spec(spec)
        if check:
            _print_json(client.validate(value))
            return
        _print_new(client, client.submit(value, idempotency_key=key), follow, as_json)


@app.command()
def jobs(
    state: Annotated[str | None, typer.Option(help="Only those in this state.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only those of this kind.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="Only those with this tag: key, or key:value. May be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 20,
    url: Url = HERE,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from client import show

    with _client(url) as client:
        found = client.jobs(state=state, kind=kind, tag=tag, limit=limit)
    if as_json:
        _print_json([job.model_dump(mode="json") for job in found])
    else:
        out.print(show.jobs_table(found) if found else "no jobs")


@app.command(name="show")
def show_job(job_id: JobId, url: Url = HERE, as_json: AsJson = False) -> None:
    """Show one job: state, why it is there, progress, failure, files."""
    from client import show

    with _client(url) as client:
        job = client.job(job_id)
        if as_json:
            _print_json(job)
        else:
            out.print(show.job_card(job, client.artifacts(job_id)))


@app.command()
def watch(job_id: JobId, url: Url = HERE, as_json: AsJson = False) -> None:
    """Follow a job to its end. Ctrl-C stops watching, not the job. Exits with 1 if the job does not succeed."""
    with _client(url) as client:
        _watch(client, job_id, as_json)


@app.command()
def cancel(job_id: JobId, url: Url = HERE, as_json: AsJson = False) -> None:
    """End a job for good."""
    _ask("cancel", job_id, url, as_json)


@app.command()
def pause(job_id: JobId, url: Url = HERE, as_json: AsJson = False) -> None:
    """Stop a running job after a checkpoint and free its device."""
    _ask("pause", job_id, url, as_json)


@app.command()
def resume(job_id: JobId, url: Url = HERE, as_json: AsJson = False) -> None:
    """Let a paused job go on, or take back that a running one was asked to pause."""
    _ask("resume", job_id, url, as_json)


@app.command()
def retry(
    job_id: JobId, key: Key = None, follow: Follow = False, url: Url = HERE, as_json: AsJson = False
) -> None:
    """Do a failed or cancelled job again, from its last state if one is left. It gets a new id."""
    with _client(url) as client:
        _print_new(client, client.retry(job_id, idempotency_key=key), follow, as_json)


@app.command()
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
    """Queue a job of another one's spec. Values are JSON, or text; null takes a field away."""
    from client.spec_file import changed

    with _client(url) as client:
        _print_new(client, client.clone(job_id, changed(changes or []), idempotency_key=key), follow, as_json)


@app.command()
def edit(
    job_id: JobId,
    name: Annotated[str | None, typer.Option(help="Its name from now on.")] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A tag; KEY= takes it away. May be repeated."),
    ] = None,
    priority: Annotated[
        int | None, typer.Option(min=0, max=9, help="9 goes first; while it is queued.")
    ] = None,
    url: Url = HERE,
    as_json: AsJson = False,
) -> None:
    """Change a job's name, tags or priority."""
    given = {"name": name, "tags": _tags(tag or []) or None, "priority": priority}
    with _client(url) as client:
        job = client.change(job_id, **{field: value for field, value in given.items() if value is not None})
    _print_job(job, as_json)


def _tags(written: list[str]) -> dict[str, str | None]:
    tags: dict[str, str | None] = {}
    for each in written:
        key, equals, value = each.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"write KEY=VALUE, or KEY= to take the tag away, not {each!r}")
        tags[key] = value or None
    return tags


@app.command()
def delete(job_id: JobId, url: Url = HERE, as_json: AsJson = False) -> None:
    """Take a job that has ended away for good, with its files."""
    with _client(url) as client:
        client.delete(job_id)
    if as_json:
        _print_json({"deleted": job_id})
    else:
        out.print(Text(f"{job_id}  deleted"))


@app.command()
def metrics(
    job_id: JobId,
    points: Annotated[int, typer.Option(min=10, max=10_000, help="Of each curve, at most.")] = 500,
    url: Url = HERE,
    as_json: AsJson = False,
) -> None:
    """Say how losses and scores went. With --json the curves themselves."""
    from client import show

    with _client(url) as client:
        found = client.metrics(job_id, points=points)
    if as_json:
        _print_json(found)
    else:
        out.print(show.curves_table(found) if found.runs else "nothing has been measured yet")


@app.command()
def log(
    job_id: JobId,
    offset: Annotated[int, typer.Option(help="Byte to start from; negative counts from the end.")] = -16_384,
    url: Url = HERE,
) -> None:
    """Print the end of a job's log."""
    with _client(url) as client:
        text, _ = client.log(job_id, offset=offset)
    sys.stdout.write(text)
    if not text:
        err.print("the log is empty: what happens to a job are its events, see `gkd watch`")


@app.command()
def report(job_id: JobId, url: Url = HERE, as_json: AsJson = False) -> None:
    """Print a job's report: teacher, control and student side by side."""
    from client import show

    with _client(url) as client:
        found = client.report(job_id)
    if as_json:
        _print_json(found)
    else:
        out.print(show.report(found))


@app.command()
def download(
    job_id: JobId,
    name: Annotated[str | None, typer.Argument(help="The artifact; otherwise all of them.")] = None,
    target: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path(),
    url: Url = HERE,
    as_json: AsJson = False,
) -> None:
    """Fetch a job's files and check their SHA-256."""
    target.mkdir(parents=True, exist_ok=True)
    with _client(url) as client:
        names = [name] if name else [artifact.name for artifact in client.artifacts(job_id)]
        files = {each: client.download(job_id, each, target / Path(each).name) for each in names}
    if as_json:
        _print_json(
            [{"file": str(target / Path(each).name), "sha256": digest} for each, digest in files.items()]
        )
    for each, digest in files.items() if not as_json else ():
        out.print(Text(f"{digest}  {target / Path(each).name}"), soft_wrap=True)
    if not files:
        err.print("the job has published nothing yet")


# ---- without the service -----------------------------------------------------------------------------------


@app.command()
def run(
    spec: SpecFile,
    target: Annotated[Path, typer.Option("--out", help="Folder of the run; kept to go on from.")],
) -> None:
    """Run a spec here, without the service. Ctrl-C stops after a checkpoint; the same command goes on."""
    from client.run import run

    raise typer.Exit(run(spec, target, out))


@app.command()
def conformance(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of golden vectors.")],
) -> None:
    """Compare the method's functions with golden vectors."""
    raise typer.Exit(subprocess.run([sys.executable, "-m", "gkd_core.conformance", str(folder)]).returncode)


@app.command()
def predict(
    model: Annotated[
        str, typer.Argument(help="A .safetensors file of GKD, or a .onnx file of an export job.")
    ],
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    target: Annotated[Path, typer.Option("--out", help="Folder for drawn pictures and predictions.json.")],
    score: Annotated[float, typer.Option(min=0, max=1, help="Least score that is drawn.")] = 0.3,
    as_json: AsJson = False,
) -> None:
    """Draw what a model finds on pictures. Exits with 1 if one of them cannot be read; the others are drawn."""
    command = [sys.executable, "-m", "gkd_core.predict", "--out", str(target), "--score", str(score)]
    command += ["--json"] if as_json else []
    raise typer.Exit(subprocess.run([*command, "--", model, *map(str, images)]).returncode)


@data.command()
def check(
    path: Annotated[Path, typer.Argument(help="Folder of a data set, or the data.yaml of a YOLO one.")],
    image_size: Annotated[
        int | None,
        typer.Option(min=32, help="Also say how large boxes are once pictures are resized to this."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read headers only; decode and compare nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a data set holds, and what is odd or wrong with it. Exits with 1 if it cannot be used."""
    from client import show
    from gkd_core.config import DataConfig
    from gkd_core.data.examine import examine
    from gkd_core.errors import DataError

    try:
        with err.status("looking at the pictures"):
            found = examine(DataConfig(path=str(path.absolute())), image_size=image_size, quick=quick)
    except DataError as error:
        if not as_json:
            raise
        _print_json(
            {"usable": False, "problems": [problem.model_dump(mode="json") for problem in error.problems]}
        )
        raise typer.Exit(1) from None
    if as_json:
        _print_json(found)
    else:
        out.print(show.examination(found))


# ---- shared by the commands above ----------------------------------------------------------------------------


def _client(url: str) -> Client:
    from client.client import Client

    return Client(url)


def _spec(path: Path) -> Any:
    from client.spec_file import read

    return read(path)


def _ask(verb: str, job_id: str, url: str, as_json: bool) -> None:
    with _client(url) as client:
        job = getattr(client, verb)(job_id)
    _print_job(job, as_json)


def _print_new(client: Client, job: Job, follow: bool, as_json: bool) -> None:
    if as_json:
        _print_json(job)
    else:
        out.print(Text(f"{job.id}  {job.name}: {job.reason}"), soft_wrap=True)
    if follow:
        _watch(client, job.id, as_json)


def _print_job(job: Job, as_json: bool) -> None:
    from client import show

    if as_json:
        _print_json(job)
    else:
        out.print(Text(f"{job.id}  {show.told(job.state, job.reason)}"), soft_wrap=True)


def _watch(client: Client, job_id: str, as_json: bool) -> None:
    from client.follow import follow
    from jobs.job import State

    events = client.events(job_id)
    if as_json:
        for event in events:
            print(event.model_dump_json(), flush=True)
    else:
        follow(events, out)
    job = client.job(job_id)
    if job.failure:
        hint = f"\nhint: {job.failure.hint}" if job.failure.hint else ""
        err.print(Text(f"{job.failure.failure_class}: {job.failure.message}{hint}"), soft_wrap=True)
    if job.state is not State.SUCCEEDED:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
