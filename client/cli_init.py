"""`gkd init`: the first two specs for a folder of pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from client.cli_options import AsJson, err, out
from client.terminal import print_json

if TYPE_CHECKING:
    from client.first_spec import FirstSpecs

commands = typer.Typer()
SUFFIXES = (".json", ".yaml", ".yml")


@commands.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of a data set, or the data.yaml of a YOLO one.")],
    target: Annotated[
        Path, typer.Option("--out", "-o", help="File of the student's spec, .json or .yaml.")
    ] = Path("spec.json"),
    gpus: Annotated[int, typer.Option(min=0, max=8, help="GPUs of each job; 0 is the CPU.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write a first spec for a folder: a student, and beside it the spec of its teacher. Nothing is overwritten."""
    from client.first_spec import first_specs

    of_teacher = target.with_name(f"{target.stem}-teacher{target.suffix}")
    _must_be_new(target, of_teacher)
    with err.status("looking at the pictures"):
        found = first_specs(folder, gpus)
    for path, spec in ((of_teacher, found.teacher), (target, found.student)):
        with path.open("x") as file:  # also if another process has written it meanwhile
            file.write(_written(path, spec, found.reasons))
    if as_json:
        print_json({"files": [str(of_teacher), str(target)], **found._asdict()})
    else:
        out.print(_told(found, of_teacher, target), soft_wrap=True)


def _must_be_new(*paths: Path) -> None:
    from client.errors import ClientError

    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise typer.BadParameter(f"{path} is neither .json nor .yaml", param_hint="--out")
        if path.exists():
            raise ClientError(f"{path} is there, and nothing is overwritten", "Name another file with --out.")


def _written(path: Path, spec: Mapping[str, Any], reasons: Mapping[str, str]) -> str:
    """Return the text of a spec file; YAML has comments, so it gets the reasons."""
    if path.suffix.lower() == ".json":
        return json.dumps(spec, indent=2, ensure_ascii=True) + "\n"
    import yaml

    comments = [f"# {choice}: {reason}\n" for choice, reason in reasons.items()]
    text: str = yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True)
    return "".join(comments) + text


def _told(found: FirstSpecs, of_teacher: Path, target: Path) -> Text:
    lines = [f"wrote {of_teacher} and {target}", ""]
    lines += [f"{choice}: {reason}" for choice, reason in found.reasons.items()]
    lines += [
        "",
        "Next, with `gkd serve` running and the folder under its data roots; the second waits for the first:",
        f"  gkd submit {of_teacher}",
        f"  gkd submit {target}",
    ]
    return Text("\n".join(lines))
