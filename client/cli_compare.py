"""`gkd compare`: reports of several jobs side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from client.cli_options import HERE, AsJson, Url, connected, out
from client.terminal import print_json

commands = typer.Typer()
MOST = 4


@commands.command()
def compare(
    job_ids: Annotated[
        list[str], typer.Argument(metavar="ID ID", help="Two to four jobs: ids, beginnings of ids, or names.")
    ],
    url: Url = HERE,
    as_json: AsJson = False,
) -> None:
    """Compare the reports of two to four jobs, and what differs in their specs."""
    from client import comparison, show_comparison
    from client.names import find_job

    if not 2 <= len(job_ids) <= MOST:
        raise typer.BadParameter(f"name two to {MOST} jobs, not {len(job_ids)}")
    with connected(url) as client:
        ids = [find_job(client, written) for written in job_ids]
        found = comparison.compare([client.job(each) for each in ids], [client.report(each) for each in ids])
    if as_json:
        print_json(found.as_json())
    else:
        out.print(show_comparison.comparison(found))
