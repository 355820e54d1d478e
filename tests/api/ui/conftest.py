"""A browser in front of the service: it keeps cookies and sends the forms that it finds on pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from api import auth
from gkd_core.events import Evaluation, Progress
from jobs.keys import Scope


@dataclass(frozen=True)
class Browser:
    """Requests of one person."""

    http: httpx.Client

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.http.get(path, headers=headers)

    def token(self, page: str = "/ui/login") -> str:
        """Return the token of the forms of a page."""
        found = re.search(r'name="token" value="(\w+)"', self.get(page).text)
        assert found, f"no form on {page}"
        return found[1]

    def post(self, path: str, page: str, **fields: str) -> httpx.Response:
        """Send a form of a page."""
        return self.http.post(path, data={"token": self.token(page)} | fields)

    def log_in(self, key: str, to: str = "") -> httpx.Response:
        return self.post("/ui/login", "/ui/login", key=key, to=to)


@pytest.fixture
def browser(service) -> Iterator[Browser]:
    with httpx.Client(base_url=service.http.base_url) as http:
        yield Browser(http)


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the service forget at once which keys it has checked."""
    monkeypatch.setattr(auth, "REMEMBERED_SECONDS", -1.0)


@pytest.fixture
def make_key(service, no_memory: None) -> Callable[..., str]:
    """Return a function that makes a key."""

    def make_key(*scopes: str, tenant: str = "lab", seconds: float | None = None) -> str:
        scopes = scopes or ("read", "write")
        return str(
            service.store.keys.create_key(tenant, "k", set(map(Scope, scopes)), seconds=seconds)[1].text
        )

    return make_key


@pytest.fixture
def running(service, train_spec: dict[str, Any]) -> str:
    """Return the id of a running job with two evaluations."""
    job_id = str(service.submit(train_spec)["id"])
    ticket = service.claim(job_id)
    for epoch, ap in enumerate((0.125, 0.25), start=1):
        told = {"epoch": epoch, "epochs": 2, "step": epoch, "steps": 2, "fraction": epoch / 2}
        service.store.commands.record(
            ticket, Progress(run="model", losses={"loss_box": 1 / epoch}, **told), epoch * 2
        )
        service.store.commands.record(
            ticket,
            Evaluation(
                run="model", epoch=epoch, metrics={"AP": ap, "AP50": ap}, per_class={"disc": ap}, seconds=1
            ),
            epoch * 2 + 1,
        )
    return job_id
