"""`gkd keys`: API keys and limits of tenants. Uses the database directly, so that the first key can be created."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from client.terminal import console, print_json

if TYPE_CHECKING:
    from datetime import datetime

    from jobs.keys import Key, Tenant
    from jobs.store.store import Store

keys = typer.Typer(
    no_args_is_help=True,
    help="API keys and limits of tenants; needs GKD_HOME or GKD_DATABASE_URL of the service.",
)
out = console()

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
TenantOption = Annotated[
    str, typer.Option("--tenant", help="Tenant that the key gives access to; created if it is new.")
]
LIFTED = "none"
Limit = typer.Option(help=f"A number, or {LIFTED} for no limit.")

_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0}


@keys.command()
def create(
    name: Annotated[str, typer.Option(help="Name of the key.")],
    tenant: TenantOption = "default",
    scopes: Annotated[str, typer.Option(help="read, write, metrics, admin; with commas.")] = "read,write",
    expires: Annotated[str, typer.Option(help="Such as 12h or 90d, or never.")] = "90d",
    as_json: AsJson = False,
) -> None:
    """Create a key and print it: once, since only its SHA-256 is stored."""
    from jobs.keys import Scope

    wanted = [each.strip() for each in scopes.split(",")]
    if unknown := [each for each in wanted if each not in set(Scope)]:
        raise typer.BadParameter(f"no such scope: {', '.join(unknown)}", param_hint="--scopes")
    seconds = _seconds(expires)
    with _store() as store:
        key, secret = store.keys.create_key(tenant, name, frozenset(map(Scope, wanted)), seconds=seconds)
    if as_json:
        print_json({"key": key.model_dump(mode="json"), "secret": secret.text})
        return
    out.print(Text(secret.text), soft_wrap=True)
    told = f"key {key.id} of {key.tenant}: {', '.join(key.scopes)}, expires {_day(key.expires_at) or 'never'}"
    console(stderr=True).print(Text(f"{told}; keep it, it is not shown again"), soft_wrap=True)


@keys.command(name="list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only keys of this tenant.")] = None,
    as_json: AsJson = False,
) -> None:
    """List keys, without their secrets."""
    with _store() as store:
        found = store.keys.list_keys(tenant)
    if as_json:
        print_json([key.model_dump(mode="json") for key in found])
    else:
        out.print(key_table(found) if found else "no keys")


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")], as_json: AsJson = False
) -> None:
    """Revoke a key. A running service refuses it after a few seconds at most."""
    with _store() as store:
        key = store.keys.revoke_key(key_id)
    if as_json:
        print_json(key)
    else:
        out.print(Text(f"key {key.id} ({key.name}) of {key.tenant} opens nothing any more"), soft_wrap=True)


@keys.command()
def limits(
    tenant: Annotated[str | None, typer.Argument(help="The tenant; default: all of them.")] = None,
    requests_per_minute: Annotated[str | None, Limit] = None,
    running_jobs: Annotated[str | None, Limit] = None,
    queued_jobs: Annotated[str | None, Limit] = None,
    stored_bytes: Annotated[str | None, Limit] = None,
    gpu_hours: Annotated[str | None, Limit] = None,
    as_json: AsJson = False,
) -> None:
    """Show or change the limits of a tenant."""
    given = {
        "requests_per_minute": requests_per_minute,
        "running_jobs": running_jobs,
        "queued_jobs": queued_jobs,
        "stored_bytes": stored_bytes,
        "gpu_hours": gpu_hours,
    }
    changes = {name: _number(name, text) for name, text in given.items() if text is not None}
    if changes and tenant is None:
        raise typer.BadParameter("name the tenant whose limits change", param_hint="TENANT")
    with _store() as store:
        if tenant is None:
            found = store.keys.tenants()
        else:
            found = (store.keys.set_limits(tenant, changes) if changes else store.keys.tenant(tenant),)
    if as_json:
        print_json([each.model_dump(mode="json") for each in found])
    else:
        out.print(limit_table(found))


@contextmanager
def _store() -> Iterator[Store]:
    from contextlib import closing

    from jobs.settings import Settings
    from jobs.store.store import Store

    with closing(Store.of(Settings())) as store:
        yield store


def _seconds(text: str) -> float | None:
    if text == "never":
        return None
    match = re.fullmatch(r"([1-9]\d{0,5})([mhd])", text, re.ASCII)
    if match is None:
        raise typer.BadParameter(
            f"{text!r} is no time; give one such as 12h or 90d, or never", param_hint="--expires"
        )
    return int(match[1]) * _SECONDS[match[2]]


def _number(name: str, text: str) -> float | None:
    if text == LIFTED:
        return None
    whole = r"\d{1,18}" if name != "gpu_hours" else r"\d{1,12}(\.\d{1,6})?"
    least = 1 if name == "requests_per_minute" else 0
    if not re.fullmatch(whole, text, re.ASCII) or float(text) < least:
        option = "--" + name.replace("_", "-")
        raise typer.BadParameter(
            f"{text!r} is no limit; give a number from {least} on, or {LIFTED}", param_hint=option
        )
    return float(text) if name == "gpu_hours" else int(text)


PLAIN: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, 1, 0, 0)}
"""Options of tables for 80 columns."""


def key_table(found: tuple[Key, ...]) -> Table:
    """Return a table of keys, one line each."""
    table = Table("id", "tenant", "name", "scopes", "made", "expires", "last used", "revoked", **PLAIN)
    table.columns[0].no_wrap = True  # ids are there to be copied
    for key in found:
        days = (key.created_at, key.expires_at, key.used_at, key.revoked_at)
        table.add_row(*map(Text, (key.id, key.tenant, key.name, ", ".join(key.scopes), *map(_day, days))))
    return table


def limit_table(found: tuple[Tenant, ...]) -> Table:
    """Return a table of tenants with their usage and limits."""
    table = Table(
        "tenant", "running jobs", "queued jobs", "stored bytes", "GPU hours", "requests per minute", **PLAIN
    )
    for tenant in found:
        use: dict[str, Any] = tenant.use.model_dump()
        allowed = tenant.limits.model_dump()
        names = ("running_jobs", "queued_jobs", "stored_bytes", "gpu_hours")
        cells = [f"{use[name]:,} of {_format_limit(allowed[name])}" for name in names]
        table.add_row(tenant.name, *cells, _format_limit(allowed["requests_per_minute"]))
    return table


def _format_limit(limit: float | None) -> str:
    return "any" if limit is None else f"{limit:,}"


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""
