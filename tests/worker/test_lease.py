"""The lease alone; tests/faults tests it with a runner and faults."""

import time

import pytest

from gkd_core.config import DataConfig, TrainRun
from jobs.errors import StaleTicket, StoreUnavailable
from jobs.job import Desired
from jobs.specs.spec import Resolved, job_spec
from worker.lease import Lease

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def ticket(store):
    spec = job_spec.validate_python({"kind": "train", "data": "/data"})
    job, _ = store.submission.submit(spec, Resolved(config=TrainRun(data=DataConfig(path="/data"))))
    return store.commands.claim(job.id, "worker").ticket


class RecordingEngine:
    def __init__(self):
        self.calls = []

    def stop(self):
        self.calls.append("stop")

    def kill(self):
        self.calls.append("kill")


def wait_until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it should have come to this by now"
        time.sleep(0.01)


def away(*_):
    raise StoreUnavailable(ConnectionError("no route to host"))


def test_it_is_renewed_while_entered(store, ticket):
    before = store.reading.get(ticket.job_id).lease_until
    with Lease(store, ticket, renew_seconds=0.05, lease_seconds=60):
        wait_until(lambda: store.reading.get(ticket.job_id).lease_until > before)


def test_it_hears_what_is_wanted(store, ticket):
    with Lease(store, ticket, renew_seconds=0.05, lease_seconds=60) as lease:
        assert lease.desired is Desired.RUN
        store.submission.pause_requested(ticket.job_id)
        wait_until(lambda: lease.desired is Desired.PAUSE)


def test_a_stale_ticket_kills_the_engine(store, ticket):
    engine = RecordingEngine()
    with Lease(store, ticket, renew_seconds=0.05, lease_seconds=60) as lease:
        lease.guard(engine)
        store.recovery.release("worker")
        wait_until(lambda: engine.calls == ["kill"])


def test_a_ticket_that_was_stale_before_the_engine_started_kills_it_too(store, ticket, caplog):
    engine = RecordingEngine()
    store.recovery.release("worker")
    with Lease(store, ticket, renew_seconds=0.05, lease_seconds=60) as lease:
        wait_until(lambda: "not ours any more" in caplog.text)
        lease.guard(engine)
        wait_until(lambda: engine.calls == ["kill"])


def test_a_lease_that_runs_out_stops_the_engine_once(store, ticket, monkeypatch):
    engine = RecordingEngine()
    monkeypatch.setattr(store.commands, "renew", away)
    with Lease(store, ticket, renew_seconds=0.05, lease_seconds=0.2) as lease:
        lease.guard(engine)
        wait_until(lambda: lease.lost)
        time.sleep(0.2)
    assert engine.calls == ["stop"]


def test_a_write_is_tried_until_the_store_is_back(store, ticket):
    answers = [away, away, lambda: "written"]
    with Lease(store, ticket, renew_seconds=0.05, lease_seconds=60) as lease:
        assert lease.insist(lambda: answers.pop(0)()) == "written"


def test_a_write_is_given_up_with_the_lease(store, ticket, monkeypatch):
    monkeypatch.setattr(store.commands, "renew", away)
    with (
        Lease(store, ticket, renew_seconds=0.05, lease_seconds=0.2) as lease,
        pytest.raises(StoreUnavailable, match="no route to host"),
    ):
        lease.insist(away)


def test_a_refused_write_is_not_tried_again(store, ticket):
    calls = []

    def refused():
        calls.append(1)
        raise StaleTicket(ticket)

    with Lease(store, ticket, renew_seconds=60, lease_seconds=120) as lease, pytest.raises(StaleTicket):
        lease.insist(refused)
    assert calls == [1]
