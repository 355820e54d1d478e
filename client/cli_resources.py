"""`gkd datasets` and `gkd models`: registered data sets and models.

The functions here take the kind as an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from client.cli_options import HERE, AsJson, Url, connected, err, out
from client.terminal import print_json

if TYPE_CHECKING:
    from client.client import Client
    from jobs.resources import CheckedResource, ResourceKind

Kind = Literal["dataset", "model"]
Id = Annotated[str, typer.Argument(metavar="ID", help="Its id, the beginning of it, or its name.")]
Name = Annotated[str | None, typer.Option(help="Its name; default: the name of the file or folder.")]
Send = Annotated[
    bool, typer.Option("--upload", help="PATH is a file of this machine, which is sent to the service.")
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait for the check.")]
OnlyState = Annotated[str | None, typer.Option(help="Only those in this state: checking, ready, refused.")]
AtMost = Annotated[int, typer.Option(min=1, help="Maximum number; the newest are listed.")]

datasets = typer.Typer(no_args_is_help=True, help="Data sets that specs name as dataset:<id>.")
models = typer.Typer(no_args_is_help=True, help="Models that specs name as model:<id>.")


# ---- data sets -------------------------------------------------------------------------------------------


@datasets.command(name="add")
def add_dataset(
    path: Annotated[
        str,
        typer.Argument(help="Folder under a data root of the service; with --upload a zip, tar or tar.gz."),
    ],
    name: Name = None,
    upload: Send = False,
    layout: Annotated[str, typer.Option("--format", help="coco, voc or yolo; auto detects it.")] = "auto",
    no_wait: NoWait = False,
    url: Url = HERE,
    as_json: AsJson = False,
) -> None:
    """Register a data set, or upload one. Waits for its check, and exits with 1 if it is refused."""
    with connected(url) as client:
        made = _add(client, "dataset", path, name, upload, {"format": layout})
        _follow(client, made, no_wait, as_json)


@datasets.command(name="list")
def list_datasets(
    state: OnlyState = None, limit: AtMost = 20, url: Url = HERE, as_json: AsJson = False
) -> None:
    """List data sets, newest first."""
    _list("dataset", state, limit, url, as_json)


@datasets.command(name="show")
def show_dataset(dataset_id: Id, url: Url = HERE, as_json: AsJson = False) -> None:
    """Show a data set with its report."""
    _show("dataset", dataset_id, url, as_json)


@datasets.command(name="delete")
def delete_dataset(dataset_id: Id, url: Url = HERE, as_json: AsJson = False) -> None:
    """Delete a data set that no open job needs. Files under a data root stay there."""
    _delete("dataset", dataset_id, url, as_json)


# ---- models ----------------------------------------------------------------------------------------------


@models.command(name="add")
def add_model(
    path: Annotated[
        str, typer.Argument(help="A .safetensors or .pth file under a data root of the service.")
    ],
    name: Name = None,
    upload: Send = False,
    no_wait: NoWait = False,
    url: Url = HERE,
    as_json: AsJson = False,
) -> None:
    """Register a model, or upload one. Waits for its check, and exits with 1 if it is refused."""
    with connected(url) as client:
        made = _add(client, "model", path, name, upload, {})
        _follow(client, made, no_wait, as_json)


@models.command(name="list")
def list_models(
    state: OnlyState = None, limit: AtMost = 20, url: Url = HERE, as_json: AsJson = False
) -> None:
    """List models, newest first."""
    _list("model", state, limit, url, as_json)


@models.command(name="show")
def show_model(model_id: Id, url: Url = HERE, as_json: AsJson = False) -> None:
    """Show a model with its report."""
    _show("model", model_id, url, as_json)


@models.command(name="delete")
def delete_model(model_id: Id, url: Url = HERE, as_json: AsJson = False) -> None:
    """Delete a model that no open job needs. Files under a data root stay there."""
    _delete("model", model_id, url, as_json)


# ---- both ------------------------------------------------------------------------------------------------


def _add(
    client: Client, kind: Kind, path: str, name: str | None, upload: bool, layout: dict[str, str]
) -> CheckedResource:
    if upload:
        with _progress(Path(path)) as told:
            made = client.upload(_kind(kind), Path(path), name=name, layout=layout, told=told)
    else:
        made = client.register(_kind(kind), name or Path(path).name or path, path, **layout)
    return client.resource(made.kind, made.id)


def _follow(client: Client, made: CheckedResource, no_wait: bool, as_json: bool) -> None:
    from jobs.resources import ResourceState

    if not no_wait:
        made = _wait_for_check(client, made)
    _print(made, as_json)
    if made.state is ResourceState.REFUSED:
        raise typer.Exit(1)


def _wait_for_check(client: Client, made: CheckedResource) -> CheckedResource:
    try:
        with err.status("being checked"):
            return client.wait_for_check(made.kind, made.id)
    except KeyboardInterrupt:
        message = f"no longer waiting; the check goes on. `gkd {made.kind}s show {made.id}` says how it went."
        err.print(Text(message), soft_wrap=True)
        raise


def _list(kind: Kind, state: str | None, limit: int, url: str, as_json: bool) -> None:
    from client import show_resources

    with connected(url) as client:
        found = client.resources(_kind(kind), state=state, limit=limit)
    if as_json:
        print_json([each.model_dump(mode="json") for each in found])
    else:
        out.print(show_resources.resources_table(found) if found else f"no {kind}s")


def _show(kind: Kind, resource_id: str, url: str, as_json: bool) -> None:
    from client.names import find_resource

    with connected(url) as client:
        found = client.resource(_kind(kind), find_resource(client, _kind(kind), resource_id))
    _print(found, as_json)


def _delete(kind: Kind, resource_id: str, url: str, as_json: bool) -> None:
    from client.names import find_resource

    with connected(url) as client:
        resource_id = find_resource(client, _kind(kind), resource_id)
        client.delete_resource(_kind(kind), resource_id)
    if as_json:
        print_json({"deleted": resource_id})
    else:
        out.print(Text(f"{resource_id}  deleted"))


@contextmanager
def _progress(file: Path) -> Iterator[Callable[[int], None]]:
    """Show a progress bar while a file is uploaded."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = ("sending", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=file.stat().st_size)
        yield lambda sent: progress.update(task, completed=sent)


def _print(found: CheckedResource, as_json: bool) -> None:
    from client import show_resources

    if as_json:
        print_json(found)
    else:
        out.print(show_resources.resource_card(found))


def _kind(kind: Kind) -> ResourceKind:
    from jobs.resources import ResourceKind

    return ResourceKind(kind)
