"""`gkd health`: whether what runs in this container is alive, for those who watch over containers. Quick: it is asked
every few seconds."""

from __future__ import annotations

import http.client
import json

from jobs.settings import Settings
from worker.slots import missing

SECONDS = 4.0
"""An API that takes longer is not there for people either."""

EVERYWHERE = ("0.0.0.0", "::", "")
"""Addresses to listen on that are none to connect to."""


def trouble_with_worker(settings: Settings) -> str | None:
    """What is wrong with this machine's workers on this home; None: nothing."""
    return missing(settings.home)


def trouble_with_api(settings: Settings) -> str | None:
    """What is wrong with the API of this machine; None: it can take jobs in."""
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
    """Which parts are not ready, where the answer says so."""
    try:
        parts = json.loads(body)["parts"]
        return "; ".join(f"{name} is {state}" for name, state in parts.items() if state != "ready")
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"/readyz answered {status}"
