"""Shared options of the `gkd` commands, and the client of the service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.terminal import console

if TYPE_CHECKING:
    from client.client import Client

out = console()
err = console(stderr=True)

Url = Annotated[str, typer.Option("--url", envvar="GKD_URL", help="Address of the service.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
JobId = Annotated[
    str, typer.Argument(metavar="ID", help="The job: its id, the beginning of it, or its name.")
]
SpecFile = Annotated[
    Path,
    typer.Argument(metavar="SPEC", help="A job spec: .json, .yaml or .toml; - reads JSON from the input."),
]
Key = Annotated[str | None, typer.Option(help="Idempotency key: sent twice, queued once.")]
Follow = Annotated[bool, typer.Option("--watch", help="Then follow the job.")]
HERE = "http://127.0.0.1:8000"
"""The default address of the service."""


def connected(url: str) -> Client:
    """Return a client of the service; imported here, since `gkd --help` needs none."""
    from client.client import Client

    return Client(url)


@contextmanager
def asked_about(url: str, written: str) -> Iterator[tuple[Client, str]]:
    """Open a client of the service, and yield it with the id of the job that the user means."""
    from client.names import find_job

    with connected(url) as client:
        yield client, find_job(client, written)
