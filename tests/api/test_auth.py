"""Authentication: which requests are let in."""

from __future__ import annotations

import asyncio
import socket
import time

import httpx
import pytest
from sqlalchemy import event

from api import auth
from api.app import create_app
from jobs.artifacts import open_artifacts
from jobs.keys import Scope
from jobs.queue import JobQueue, make_app
from jobs.settings import Settings
from jobs.store.store import Store, StoreUnavailable

ADMIN_KEY = "an-admin-key-of-at-least-32-characters"


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the service forget at once which keys it has checked."""
    monkeypatch.setattr(auth, "REMEMBERED_SECONDS", -1.0)


@pytest.fixture
def guarded(service, memory: None):
    """Return a service with a key that may read."""
    _, service.secret = service.store.keys.create_key("lab", "reader", {Scope.READ})
    return service


class Keyed:
    """A service, and keys made for it."""

    def __init__(self, service) -> None:
        self.http, self.store = service.http, service.store

    def key(self, *scopes: str, tenant: str = "lab", seconds: float | None = None) -> dict[str, str]:
        _, secret = self.store.keys.create_key(tenant, "k", set(map(Scope, scopes)), seconds=seconds)
        return bearer(secret.text)

    def status(self, method: str, path: str, headers: dict[str, str] | None = None) -> int:
        return self.http.request(method, path, headers=headers).status_code


@pytest.fixture
def keyed(service, memory: None) -> Keyed:
    return Keyed(service)


def test_without_keys_this_machine_may_do_everything(keyed: Keyed):
    assert keyed.status("GET", "/jobs") == keyed.status("GET", "/keys") == 200
    whoami = keyed.http.get("/whoami").json()
    assert (whoami["key_id"], whoami["tenant"]["name"]) == (None, "default")
    assert set(whoami["scopes"]) == {"read", "write", "metrics", "admin"}


def test_the_first_key_closes_the_door_for_all_others(keyed: Keyed):
    key = keyed.key("read")
    answer = keyed.http.get("/jobs")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    assert keyed.status("GET", "/jobs", key) == 200
    assert keyed.status("GET", "/no/such/route") == 401, "what is there is nobody's business"


def test_revoking_the_last_key_does_not_open_the_door(keyed: Keyed):
    key = keyed.key("read")
    keyed.store.keys.revoke_key(keyed.store.keys.list_keys()[0].id)
    assert keyed.status("GET", "/jobs", key) == keyed.status("GET", "/jobs") == 401


@pytest.mark.parametrize("path", sorted(auth.OPEN - {"/favicon.ico", "/docs/oauth2-redirect"}))
def test_health_and_the_description_of_the_api_are_open(keyed: Keyed, path: str):
    keyed.key("read")
    assert keyed.status("GET", path) == 200


def test_all_keys_that_are_no_good_get_the_same_answer(keyed: Keyed):
    expired, revoked = keyed.key("read", seconds=0.01), keyed.key("read")
    keyed.store.keys.revoke_key(revoked["Authorization"].split("_")[1])
    forged = {"Authorization": revoked["Authorization"][:-4] + "AAAA"}
    time.sleep(0.05)
    answers = [
        keyed.http.get("/jobs", headers=headers)
        for headers in (expired, revoked, forged, bearer("gkd_" + "0" * 12 + "_" + "A" * 43), bearer("x"))
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.json()["detail"] for answer in answers}) == 1


def test_two_keys_are_refused_even_if_one_or_both_are_good(keyed: Keyed):
    good = keyed.key("read")["Authorization"]
    for sent in ((good, good), (good, "Bearer x"), ("Bearer x", good), (good, "")):
        headers = [("Authorization", each) for each in sent]
        answer = keyed.http.get("/jobs", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), sent
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "one Authorization header, not 2" in answer.json()["detail"]


@pytest.mark.parametrize("sent", ["", "Basic YTpi", "Bearer", "Bearer \t.", "bearer x y", "gkd_0_0", "\xff"])
def test_what_is_no_key_is_refused(keyed: Keyed, sent: str):
    headers = [(b"Authorization", sent.encode("latin-1"))]
    assert keyed.http.get("/jobs", headers=headers).status_code == 401, "even while there are no keys"


@pytest.mark.parametrize(
    ("scopes", "method", "path", "lacking"),
    [
        (("read",), "POST", "/jobs", "write"),
        (("read",), "PATCH", "/no/such/route", "write"),
        (("read",), "DELETE", "/jobs/x", "write"),
        (("write",), "GET", "/jobs", "read"),
        (("write",), "HEAD", "/jobs/x/artifacts/y", "read"),
        (("read", "write"), "GET", "/keys", "admin"),
        (("read", "write"), "GET", "/tenants", "admin"),
        (("read", "write"), "PUT", "/tenants/lab/limits", "admin"),
        (("read", "write"), "DELETE", "/keys/x", "admin"),
    ],
)
def test_a_key_without_the_scope_is_told_which_one_it_lacks(
    keyed: Keyed, scopes: tuple[str, ...], method: str, path: str, lacking: str
):
    answer = keyed.http.request(
        method, path, headers=keyed.key(*scopes), json={} if method == "PUT" else None
    )
    assert answer.status_code == 403
    if method != "HEAD":
        assert answer.json()["code"] == "missing_scope"
        assert f"scope {lacking}" in answer.json()["detail"]


def test_admin_includes_the_other_scopes(keyed: Keyed):
    key = keyed.key("admin")
    assert keyed.status("GET", "/jobs", key) == keyed.status("GET", "/keys", key) == 200
    assert keyed.status("POST", "/jobs/none/cancel", key) == 404


def test_nothing_of_a_body_is_read_for_who_may_not_send_one(keyed: Keyed):
    keyed.key("read")
    url = keyed.http.base_url
    head = f"POST /jobs HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: 100000\r\n\r\n"
    with socket.create_connection((url.host, url.port), timeout=5) as connection:
        connection.sendall(head.encode())  # and never the body
        assert connection.recv(1000).startswith(b"HTTP/1.1 401")


def test_a_key_is_remembered_for_a_short_time(service, monkeypatch: pytest.MonkeyPatch):
    _, secret = service.store.keys.create_key("lab", "k", {Scope.READ})
    monkeypatch.setattr(auth, "REMEMBERED_SECONDS", 0.4)
    key_id = service.store.keys.list_keys()[0].id
    assert service.http.get("/jobs", headers=bearer(secret.text)).status_code == 200
    service.store.keys.revoke_key(key_id)
    time.sleep(0.6)
    assert service.http.get("/jobs", headers=bearer(secret.text)).status_code == 401


def test_asking_with_a_key_that_is_known_costs_no_query(service):
    _, secret = service.store.keys.create_key("lab", "k", {Scope.READ})
    service.http.get("/jobs", headers=bearer(secret.text))
    seen: list[str] = []
    event.listen(service.store.database.engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    service.http.get("/jobs", headers=bearer(secret.text))
    assert seen
    assert not [
        statement for statement in seen if statement.startswith("SELECT") and "FROM jobs" not in statement
    ]


def test_the_key_of_the_environment_allows_everything(server, settings: Settings):
    guarded = Settings(
        home=settings.home,
        data_roots=settings.data_roots,
        database_url=settings.database_url,
        admin_key=ADMIN_KEY,  # type: ignore[arg-type]
        host="0.0.0.0",
    )
    store = Store(settings.database_url)
    server.app = create_app(
        store, open_artifacts(settings.artifacts_url), JobQueue(make_app("memory://")), guarded
    )
    with httpx.Client(base_url=server.url) as http:
        assert http.get("/jobs").status_code == 401
        assert http.get("/jobs", headers=bearer(ADMIN_KEY[:-1] + "x")).status_code == 401
        made = http.post("/keys", headers=bearer(ADMIN_KEY), json={"name": "ci", "tenant": "lab"})
        assert made.status_code == 201
        whoami = http.get("/whoami", headers=bearer(made.json()["secret"]) | {"Host": "gkd.example"}).json()
        assert (whoami["tenant"]["name"], whoami["scopes"]) == ("lab", ["read", "write"])
    store.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1"])
def test_without_keys_nobody_comes_in_where_other_machines_listen(server, settings: Settings, host: str):
    store = Store(settings.database_url)
    elsewhere = settings.model_copy(update={"host": host})
    server.app = create_app(
        store, open_artifacts(settings.artifacts_url), JobQueue(make_app("memory://")), elsewhere
    )
    with httpx.Client(base_url=server.url) as http:
        assert http.get("/jobs").status_code == 401
    store.close()


@pytest.mark.parametrize(("address", "status"), [("192.0.2.1", 401), ("127.0.0.1", 200)])
def test_without_keys_nobody_comes_in_by_another_address(settings: Settings, address: str, status: int):
    store = Store(settings.database_url)
    app = create_app(store, open_artifacts(settings.artifacts_url), JobQueue(make_app("memory://")), settings)

    async def ask() -> int:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{address}:8000") as http:
            return (await http.get("/jobs", headers={"Host": "localhost"})).status_code

    assert asyncio.run(ask()) == status
    store.close()


def test_while_the_database_is_away_nobody_is_let_in_and_all_are_asked_to_come_back(
    service, memory: None, monkeypatch: pytest.MonkeyPatch
):
    def away(*_: object) -> None:
        raise StoreUnavailable(OSError("no route to db.internal"))

    monkeypatch.setattr(service.store.keys, "has_keys", away)
    monkeypatch.setattr(service.store.keys, "admit", away)
    for headers in ({}, bearer("gkd_" + "0" * 12 + "_" + "A" * 43)):
        answer = service.http.get("/schema/job", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "database_away")
        assert answer.headers["Retry-After"]
        assert "db.internal" not in answer.text
    assert service.http.get("/healthz").status_code == 200


# ---- how often ----


def test_who_asks_too_often_is_told_when_to_come_back(keyed: Keyed):
    keyed.store.keys.set_limits("lab", {"requests_per_minute": 3})
    key, other = keyed.key("read"), keyed.key("read")
    answers = [keyed.http.get("/jobs", headers=key) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["RateLimit"].split(";")[1] for answer in answers] == ["r=2", "r=1", "r=0", "r=0"]
    assert answers[-1].json()["code"] == "too_many_requests"
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 21
    assert answers[-1].headers["RateLimit-Policy"] == '"minute";q=3;w=60'
    assert keyed.status("GET", "/jobs", other) == 200, "each key has its own"


def test_requests_come_back_evenly(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr(auth.time, "monotonic", lambda: clock[0])
    rate = auth._Rate(60)
    for _ in range(60):
        rate.take()
    with pytest.raises(auth.ApiError):
        rate.take()
    clock[0] += 1.01
    rate.take()
    with pytest.raises(auth.ApiError):
        rate.take()
    clock[0] += 3600
    for _ in range(60):
        rate.take()
    with pytest.raises(auth.ApiError):
        rate.take()


def test_tenants_without_that_limit_are_not_counted(keyed: Keyed):
    assert "RateLimit" not in keyed.http.get("/jobs", headers=keyed.key("read")).headers


# ---- keys and limits over HTTP ----


def test_keys_are_made_listed_and_revoked(keyed: Keyed):
    made = keyed.http.post("/keys", json={"name": "ci", "tenant": "lab", "scopes": ["read"]}).json()
    admin = keyed.key("admin", tenant="default")
    assert made["key"]["expires_at"] > made["key"]["created_at"]
    assert keyed.status("GET", "/jobs", bearer(made["secret"])) == 200
    listed = keyed.http.get("/keys", headers=admin)
    assert made["key"]["id"] in [key["id"] for key in listed.json()]
    assert made["secret"].split("_", 2)[2] not in listed.text
    path = f"/keys/{made['key']['id']}"
    assert keyed.http.delete(path, headers=admin).json()["revoked_at"]
    assert keyed.status("GET", "/jobs", bearer(made["secret"])) == 401
    assert keyed.status("DELETE", "/keys/nobodys", admin) == 404


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x", "tenant": "A B"}, "tenant"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["root"]}, "scopes"),
        ({"name": "x", "expires_in_days": -1}, "expires_in_days"),
        ({"name": "x", "hash": "0"}, "hash"),
        (None, "body"),
    ],
)
def test_a_key_that_cannot_be_made_names_the_field(service, wrong, field: str):
    answer = service.http.post("/keys", json=wrong)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert field in answer.json()["detail"]
    assert not service.store.keys.has_keys()


def test_limits_are_set_and_seen(service):
    limits = {"running_jobs": 2, "gpu_hours": 1.5}
    answer = service.http.put("/tenants/lab/limits", json=limits)
    assert answer.status_code == 200, answer.text
    assert answer.json()["limits"] | limits == answer.json()["limits"]
    assert [tenant["name"] for tenant in service.http.get("/tenants").json()] == ["lab"]
    assert service.http.put("/tenants/A%20B/limits", json={}).status_code == 422


def test_a_full_queue_is_a_problem_that_names_the_limit(service, train_spec):
    service.store.keys.set_limits("default", {"queued_jobs": 1})
    service.submit(train_spec)
    answer = service.http.post("/jobs", json=train_spec)
    assert (answer.status_code, answer.json()["code"]) == (403, "quota_exceeded")
    assert "queued_jobs 1 and has 1" in answer.json()["detail"]
