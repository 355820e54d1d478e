"""The `gkd` command. Heavy imports are left to the commands that need them, so that `gkd --help` is quick.

Exit codes: 0 done; 1 an error, or the followed job failed or was cancelled; 2 wrong command line; 75 `gkd run`
was stopped and can be resumed; 130 interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from client import cli_compare, cli_engine, cli_init, cli_jobs, cli_service
from client.cli_keys import keys
from client.cli_resources import datasets, models
from client.terminal import console

err = console(stderr=True)


class Commands(TyperGroup):
    """The group of all commands, which turns errors into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):  # typer exits quietly after a BrokenPipeError
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
    """Return an error's message for users; None for errors that the command line library reports itself."""
    from pydantic import ValidationError

    from client.errors import ClientError
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
    help="Distils object detectors, and measures the gain against a control.",
    epilog="Exit codes: 0 done, 1 error, 2 wrong command line, 75 `gkd run` was stopped and can be resumed.",
)
for commands in (
    cli_service.commands,
    cli_init.commands,
    cli_jobs.commands,
    cli_compare.commands,
    cli_engine.commands,
):
    app.add_typer(commands)
app.add_typer(cli_service.health, name="health")
app.add_typer(cli_engine.data, name="data")
app.add_typer(datasets, name="datasets")
app.add_typer(models, name="models")
app.add_typer(keys, name="keys")

if __name__ == "__main__":
    app()
