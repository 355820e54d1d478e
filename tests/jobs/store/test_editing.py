"""Renaming and deleting jobs."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from gkd_core.errors import SpecError
from jobs.job import END_STATES, State
from jobs.specs.spec import JobChange
from jobs.store.store import InUse, NotAllowed, Store, UnknownJob
from jobs.store.tables import artifacts, attempts, events, waits


def change(store: Store, job_id: str, **wanted: Any) -> Any:
    return store.editing.change(job_id, JobChange.model_validate(wanted))


def test_what_is_named_changes_and_what_is_not_stays(store: Store, ask: Any) -> None:
    job = ask.submit(name="cells", priority=3, tags={"team": "lab", "round": "1"})
    changed = change(store, job.id, priority=9, tags={"round": None, "for": "paper"})
    assert (changed.name, changed.priority, changed.tags) == ("cells", 9, {"team": "lab", "for": "paper"})
    assert changed.spec == {**job.spec, "priority": 9, "tags": {"team": "lab", "for": "paper"}}
    event = store.reading.events(job.id)[-1]
    assert (event.kind, event.body) == (
        "change",
        {"name": "cells", "priority": 9, "tags": {"team": "lab", "for": "paper"}},
    )


def test_null_takes_away_what_was_chosen(store: Store, ask: Any) -> None:
    job = ask.submit(name="cells", priority=9, tags={"team": "lab"})
    changed = change(store, job.id, name=None, tags=None, priority=None)
    assert (changed.name, changed.priority, changed.tags) == (f"train-{job.id}", 5, {})


def test_asking_for_what_is_so_already_leaves_no_trace(store: Store, ask: Any) -> None:
    job = ask.submit(name="cells")
    assert change(store, job.id, name="cells", priority=5) == store.reading.get(job.id) == job
    assert len(store.reading.events(job.id)) == 1


def test_names_and_tags_can_always_be_changed_priority_only_while_it_matters(store: Store, ask: Any) -> None:
    for state in State:
        job = ask.job_in(state)
        assert change(store, job.id, name="other", tags={"a": "b"}).tags == {"a": "b"}
        if state is not State.QUEUED:
            with pytest.raises(NotAllowed, match="cannot change the priority"):
                change(store, job.id, name="third", priority=1)
            assert store.reading.get(job.id).name == "other", "all of it or nothing"


def test_a_higher_priority_goes_first(store: Store, ask: Any) -> None:
    first, second = ask.submit(), ask.submit()
    change(store, second.id, priority=6)
    assert store.recovery.sweep() == (second.id, first.id)


def test_more_tags_than_a_job_may_have_are_refused(store: Store, ask: Any) -> None:
    job = ask.submit(tags={f"tag{n}": "" for n in range(32)})
    with pytest.raises(SpecError, match="33 tags"):
        change(store, job.id, tags={"one-more": ""})
    assert len(change(store, job.id, tags={"one-more": "", "tag0": None}).tags) == 32


# ---- delete ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(END_STATES))
def test_a_job_that_has_ended_can_be_deleted_and_nothing_of_it_stays(
    store: Store, ask: Any, state: State
) -> None:
    job, other = ask.job_in(state), ask.job_in(state)
    assert "delete" in job.actions
    store.editing.delete(job.id)
    with pytest.raises(UnknownJob):
        store.reading.get(job.id)
    with pytest.raises(UnknownJob):
        store.editing.delete(job.id)
    with store.database.read() as connection:
        for table in (events, attempts, artifacts, waits):
            count = select(func.count()).select_from(table).where(table.c.job_id == job.id)
            assert connection.scalar(count) == 0, table.name
    assert store.reading.get(other.id) == other
    assert store.recovery.deleted([job.id, other.id, "0123456789ab"]) == {job.id}


@pytest.mark.parametrize("state", sorted(set(State) - END_STATES))
def test_what_has_not_ended_is_not_deleted(store: Store, ask: Any, state: State) -> None:
    job = ask.job_in(state)
    with pytest.raises(NotAllowed, match="cannot delete") as refusal:
        store.editing.delete(job.id)
    assert "cancel" in refusal.value.actions
    assert store.reading.get(job.id) == job


def test_a_teacher_stays_as_long_as_somebody_may_need_it(store: Store, ask: Any) -> None:
    teacher = ask.submit()
    store.commands.succeed(ask.claim(teacher))
    student = ask.submit_student(teacher)
    with pytest.raises(InUse, match=student.id):
        store.editing.delete(teacher.id)
    store.commands.succeed(ask.claim(student))
    store.editing.delete(teacher.id)
    assert store.reading.get(student.id).waits_for == ()


def test_who_names_a_teacher_that_was_deleted_a_moment_ago_is_told(store: Store, ask: Any) -> None:
    teacher = ask.job_in(State.SUCCEEDED)
    store.editing.delete(teacher.id)
    with pytest.raises(UnknownJob, match=teacher.id):
        ask.submit_student(teacher)


def test_a_database_is_told_from_others_before_its_first_job_and_after_its_last(
    store: Store, ask: Any
) -> None:
    origin = store.reading.origin()
    store.editing.delete(ask.job_in(State.CANCELLED).id)
    assert store.reading.origin() == origin
