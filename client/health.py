"""`gkd health`: liveness of this container's processes, for container health checks.

Quick: it is run every few seconds.
"""

from __future__ import annotations

import http.client
import json

from jobs.settings import Settings
from worker.slots import missing

SECONDS = 4.0
"""Timeout of the API; a slower one is of no use to clients either."""

EVERYWHERE = ("0.0.0.0", "::", "")
"""Addresses to listen on that are not addresses to connect to."""


def trouble_with_worker(settings: Settings) -> str | None:
    """Return what is wrong with this machine's workers on this home; None: nothing."""
    return missing(settings.home)


def trouble_with_api(settings: Settings) -> str | None:
    """Return what is wrong with this machine's API; None: it can accept jobs."""
    host = "127.0.0.1" if settings.host in EVERYWHERE else settings.host
    connection = http.client.HTTPConnection(host, settings.port, timeout=SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return f"no answer from {host}:{settings.port}: {error or type(error).__name__}"
    finally:
        connection.close()
    return None if answer.status == 200 else _not_ready(answer.status, body)


def _not_ready(status: int, body: bytes) -> str:
    """Return which parts are not ready, if the answer says so."""
    try:
        parts = json.loads(body)["parts"]
        return "; ".join(f"{name} is {state}" for name, state in parts.items() if state != "ready")
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"/readyz answered {status}"
