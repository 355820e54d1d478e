"""Attacks on a real server over a real store, with the parts of the tests of the API."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gkd_core.events import Progress
from jobs.job import Artifact, Ticket

from ..api.conftest import (  # noqa: F401 - pytest finds fixtures by their names here
    Server,
    Service,
    root,
    server,
    service,
    service_on_postgresql,
    settings,
    train_spec,
)

JSON = {"Content-Type": "application/json"}


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Check that the block takes at most so many seconds of the processor, server included, on a busy machine too."""
    begun = time.process_time()
    yield
    assert time.process_time() - begun < seconds


@pytest.fixture
def send(service: Service) -> Callable[..., Any]:  # noqa: F811
    """Return a function that posts bytes as JSON and returns the answer."""

    def post(path: str, body: bytes | Any, **headers: str) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return service.http.post(path, content=content, headers=JSON | headers)

    return post


@pytest.fixture
def publish() -> Callable[..., str]:
    """Return a function that publishes a file of a running job under any name, as a hostile engine might try to."""

    def put(service: Service, ticket: Ticket, name: str, content: bytes) -> str:  # noqa: F811
        sha256 = hashlib.sha256(content).hexdigest()
        file = service.settings.home.parent / "a-file"
        file.write_bytes(content)
        service.artifacts.put(file, sha256)
        event = Progress(run="model", epoch=0, epochs=1, step=1, steps=1, fraction=1)
        made = Artifact(name=name, size=len(content), sha256=sha256, created_at=datetime.now(UTC))
        service.store.commands.record(ticket, event, 1, made)
        return f"/jobs/{ticket.job_id}/artifacts"

    return put


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    """Return a file beside the data root, which no job may read."""
    path = tmp_path / "secret.txt"
    path.write_text("the-secret-itself")
    return path
