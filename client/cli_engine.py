"""`gkd run`, `predict`, `data check`, ...: commands that need no service."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Annotated, Literal

import typer

from client.cli_options import HERE, AsJson, SpecFile, Url, connected, err, out
from client.terminal import print_json
from gkd_core.process.interpreter import on_safe_path, python

commands = typer.Typer()
data = typer.Typer(no_args_is_help=True, help="Data sets.")


@commands.command()
def run(
    spec: SpecFile,
    target: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run; kept for resuming.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it could run.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print events as lines of JSON; words go to the standard error.")
    ] = False,
) -> None:
    """Run a spec here, without the service. Ctrl-C stops after a checkpoint; the same command resumes."""
    from client import show_data
    from client.run import resolve_here, run
    from client.spec_file import read
    from jobs.specs.spec_errors import read_spec

    if check:
        resolved = resolve_here(read_spec(read(spec))).model_dump(mode="json", by_alias=True)
        print_json(resolved) if as_json else out.print(show_data.usable(resolved), soft_wrap=True)
        return
    if target is None:
        raise typer.BadParameter("name the folder of the run", param_hint="--out")
    raise typer.Exit(run(spec, target, err if as_json else out, as_json=as_json))


@commands.command()
def conformance(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of golden vectors.")],
    as_json: AsJson = False,
) -> None:
    """Compare the method's functions with golden vectors."""
    command = python("-m", "gkd_core.tools.conformance", str(folder))
    command += ["--json"] if as_json else []
    raise typer.Exit(_code_of(command))


@commands.command()
def predict(
    model: Annotated[
        str,
        typer.Argument(
            help="A .safetensors file of GKD, a .onnx file of an export job, job:<id> or model:<id>."
        ),
    ],
    images: Annotated[list[Path], typer.Argument(help="Pictures, folders of pictures, or videos.")],
    target: Annotated[Path, typer.Option("--out", help="Folder for drawn pictures and what was found.")],
    score: Annotated[float, typer.Option(min=0, max=1, help="Least score that is drawn.")] = 0.3,
    form: Annotated[
        Literal["json", "coco", "csv", "txt"],
        typer.Option("--format", help="What is written: txt is YOLO's labels, the first two COCO's results."),
    ] = "json",
    data: Annotated[
        Path | None,
        typer.Option(help="COCO file or folder with the ids for the results; default: the pictures' own."),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Also pictures of subfolders.")] = False,
    agnostic: Annotated[
        bool,
        typer.Option("--agnostic", help="One box an object: of those that overlap, the best of any class."),
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="Of a video, take every n-th frame.")] = 1,
    url: Url = HERE,
    as_json: AsJson = False,
) -> None:
    """Draw what a model detects on pictures. Exits with 1 if one of them cannot be read; the others are drawn."""
    command = python(
        "-m", "gkd_core.runs.predict", "--out", str(target), "--score", str(score), "--format", form
    )
    flags = {"--json": as_json, "--recursive": recursive, "--agnostic": agnostic}
    command += [flag for flag, given in flags.items() if given]
    command += ["--every", str(every), *(["--data", str(data)] if data else [])]
    raise typer.Exit(_code_of([*command, "--", _file_of(model, url), *map(str, images)]))


def _file_of(model: str, url: str) -> str:
    """Return the file of a model, which may have to be fetched from the service."""
    from client.model_cache import fetch_model, is_fetched

    if not is_fetched(model):
        return model
    with connected(url) as client, err.status("fetching the model"):
        return str(fetch_model(client, model))


def _code_of(command: list[str]) -> int:
    """Return the exit code of a process that shares the terminal."""
    return subprocess.run(command, env=on_safe_path(os.environ)).returncode


@data.command()
def check(
    path: Annotated[Path, typer.Argument(help="Folder of a data set, or the data.yaml of a YOLO one.")],
    image_size: Annotated[
        int | None,
        typer.Option(min=32, help="Also say how large boxes are once pictures are resized to this."),
    ] = None,
    val_share: Annotated[
        float | None,
        typer.Option(
            help="Of data with one split: the share of its pictures to set aside as val, such as 0.2."
        ),
    ] = None,
    val_seed: Annotated[int, typer.Option(min=0, help="Decides which pictures --val-share sets aside.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read headers only; decode and compare nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Report what a data set contains, and what is odd or wrong with it. Exits with 1 if it cannot be used."""
    from client import show_data
    from gkd_core.config import DataConfig
    from gkd_core.data.examine import examine
    from gkd_core.errors import DataError

    try:
        with err.status("looking at the pictures"):
            config = DataConfig(path=str(path.absolute()), val_share=val_share, val_seed=val_seed)
            found = examine(config, image_size=image_size, quick=quick)
    except DataError as error:
        if not as_json:
            raise
        print_json(
            {"usable": False, "problems": [problem.model_dump(mode="json") for problem in error.problems]}
        )
        raise typer.Exit(1) from None
    if as_json:
        print_json(found)
    else:
        out.print(show_data.examination(found))
