"""`gkd serve`, `api`, `worker`, ...: the parts of the service, and their state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from client.cli_keys import limit_table
from client.cli_options import HERE, AsJson, Url, connected, err, out
from client.terminal import print_json

if TYPE_CHECKING:
    from jobs.settings import Settings

commands = typer.Typer()
health = typer.Typer(no_args_is_help=True, help="Liveness, for container health checks.")

Host = Annotated[str | None, typer.Option(help="Address to listen on; default: GKD_HOST, or 127.0.0.1.")]
Port = Annotated[int | None, typer.Option(help="Port; default: GKD_PORT, or 8000; 0 takes a free one.")]


@commands.command()
def serve(host: Host = None, port: Port = None) -> None:
    """Run the whole service in one process: API, worker, SQLite. For one machine; other machines need keys."""
    from client import serve

    serve.serve(_settings(host, port), out)


@commands.command()
def api(host: Host = None, port: Port = None) -> None:
    """Run the API alone; needs GKD_BROKER_URL.

    Listens beyond the loopback only once there are keys: see `gkd keys`.
    """
    from client import serve

    serve.api(_settings(host, port), out)


@commands.command()
def worker() -> None:
    """Run a worker; needs GKD_BROKER_URL and the database and home of the API."""
    from client import serve

    serve.worker(_settings(None, None))


@commands.command()
def migrate() -> None:
    """Migrate the database. Every other part does so at its start; this does nothing else."""
    from jobs.store.store import Store

    Store.of(_settings(None, None)).close()


@health.command(name="worker")
def health_of_worker() -> None:
    """Exit with 0 if each `gkd worker` of this machine (on this GKD_HOME) sends heartbeats, with 1 otherwise."""
    from client.health import trouble_with_worker

    _exit_if(trouble_with_worker(_settings(None, None)))


@health.command(name="api")
def health_of_api(port: Port = None) -> None:
    """Exit with 0 if this machine's API can accept jobs, with 1 otherwise."""
    from client.health import trouble_with_api

    _exit_if(trouble_with_api(_settings(None, port)))


def _exit_if(trouble: str | None) -> None:
    if trouble:
        err.print(Text(trouble), soft_wrap=True)
        raise typer.Exit(1)


@commands.command()
def workers(url: Url = HERE, as_json: AsJson = False) -> None:
    """List workers: their queues, their state, their GPUs."""
    from client import show_jobs

    with connected(url) as client:
        found = client.workers()
    if as_json:
        print_json([worker.model_dump(mode="json") for worker in found])
    else:
        out.print(show_jobs.workers_table(found) if found else "no workers: start one with `gkd worker`")


@commands.command()
def whoami(url: Url = HERE, as_json: AsJson = False) -> None:
    """Print the authenticated caller with its tenant's limits and usage."""
    with connected(url) as client:
        asker = client.whoami()
    if as_json:
        print_json(asker)
    else:
        out.print(Text(f"key {asker.key_id or 'none'}: {', '.join(asker.scopes)}"), soft_wrap=True)
        out.print(limit_table((asker.tenant,)))


def _settings(host: str | None, port: int | None) -> Settings:
    from jobs.settings import Settings

    given: dict[str, Any] = {"host": host, "port": port}
    return Settings(**{name: value for name, value in given.items() if value is not None})
