"""What pages about many jobs show first."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.errors import UnknownJob
from jobs.job import State
from jobs.keys import DEFAULT_TENANT
from jobs.store.store import Store

TENANT = DEFAULT_TENANT


def ids(jobs: Any) -> list[str]:
    return [job.id for job in jobs]


def test_open_jobs_are_in_the_order_in_which_they_will_run(store: Store, ask: Any) -> None:
    first, second, urgent = ask.submit(), ask.submit(), ask.submit(priority=9)
    paused, running = ask.job_in(State.PAUSED), ask.job_in(State.RUNNING)
    ask.job_in(State.FAILED)
    found = store.overview.open_jobs(tenant=TENANT)
    assert ids(found) == ids((running, urgent, first, second, paused))
    assert ids(store.overview.open_jobs(tenant=TENANT, limit=2)) == ids((running, urgent))
    assert found[3].reason == store.reading.get(second.id).reason


def test_open_jobs_can_be_narrowed(store: Store, ask: Any) -> None:
    cells = ask.submit(name="Cells", tags={"team": "lab"})
    ask.submit(name="other")
    ask.submit(name="cells too", tenant="another")
    for how in ({"search": "cell"}, {"tags": ("team:lab",)}, {"search": cells.id[:9], "kind": "train"}):
        assert ids(store.overview.open_jobs(tenant=TENANT, **how)) == [cells.id]
    assert store.overview.open_jobs(tenant=TENANT, kind="export") == ()


def test_lists_can_be_searched_and_have_several_states(store: Store, ask: Any) -> None:
    failed, cancelled = ask.job_in(State.FAILED), ask.job_in(State.CANCELLED)
    named = ask.submit(name="100% ÄHNLICH_x")
    states = (State.FAILED, State.CANCELLED)
    assert ids(store.reading.list_jobs(states=states).items) == ids((cancelled, failed))
    for text, expected in (
        ("100%", [named.id]),
        ("h-x", []),
        ("_x", [named.id]),
        ("%", [named.id]),
        ("\0", []),
    ):
        assert ids(store.reading.list_jobs(search=text).items) == expected, text


def test_jobs_are_counted_by_state_up_to_a_limit(
    store: Store, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.store.overview.COUNTED", 2)
    for _ in range(3):
        ask.submit()
    ask.job_in(State.FAILED)
    ask.submit(tenant="another")
    counts = store.overview.counts(tenant=TENANT)
    assert counts == dict.fromkeys(State, 0) | {State.QUEUED: 2, State.FAILED: 1}


def test_milestones_are_the_newest_events_that_are_no_progress(
    store: Store, ask: Any, make_progress: Any
) -> None:
    ticket = ask.running()
    for step in range(3):
        store.commands.record(ticket, make_progress(step), step + 1)
    store.submission.pause_requested(ticket.job_id)
    kinds = [event.kind for event in store.overview.milestones(ticket.job_id, tenant=TENANT)]
    assert kinds == ["request", "state", "state"]
    assert len(store.overview.milestones(ticket.job_id, tenant=TENANT, limit=1)) == 1
    with pytest.raises(UnknownJob):
        store.overview.milestones(ticket.job_id, tenant="another")


def test_reports_of_another_tenant_are_not_there(store: Store, ask: Any) -> None:
    job = ask.submit()
    assert store.overview.reports([job.id], tenant=TENANT) == {}
    assert store.overview.reports([job.id], tenant="another") == {}
