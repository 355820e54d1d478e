"""What people are shown of the workers."""

import pytest

from jobs.keys import Scope
from jobs.presence import Presence


@pytest.fixture
def headers(service):
    """Return a function that makes the headers of a key with these scopes."""

    def of(tenant, *scopes):
        secret = service.store.keys.create_key(tenant, "k", set(scopes))[1].text
        return {"Authorization": f"Bearer {secret}"}

    return of


def test_workers_are_listed_with_what_they_do(service, train_spec):
    assert service.http.get("/workers").json() == []
    service.store.workers.appear(Presence(name="a-worker", host="node", version="1", queues=("cpu",)))
    [idle] = service.http.get("/workers").json()
    job = service.submit(train_spec)
    service.claim(job["id"])
    [busy] = service.http.get("/workers").json()
    assert (idle["state"], idle["job_id"]) == ("idle", None)
    assert (busy["state"], busy["job_id"]) == ("busy", job["id"])


def test_whose_job_keeps_a_worker_busy_is_for_its_tenant_and_for_who_administrates(
    service, train_spec, headers
):
    theirs = headers("theirs", Scope.READ, Scope.WRITE)
    job = service.submit(train_spec, **theirs)
    service.store.workers.appear(Presence(name="a-worker", host="node", version="1", queues=("cpu",)))
    service.claim(job["id"])
    seen = {
        name: service.http.get("/workers", headers=key).json()[0]
        for name, key in {
            "theirs": theirs,
            "ours": headers("ours", Scope.READ),
            "admin": headers("ours", Scope.ADMIN),
        }.items()
    }
    assert {name: worker["state"] for name, worker in seen.items()} == dict.fromkeys(seen, "busy")
    assert {name: worker["job_id"] for name, worker in seen.items()} == {
        "theirs": job["id"],
        "ours": None,
        "admin": job["id"],
    }
