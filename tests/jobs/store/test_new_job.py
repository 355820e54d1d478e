"""The rows of a new job: what was sent, every default, and the warnings about its data."""

from __future__ import annotations

from typing import Any

from jobs.job import Desired, State
from jobs.store.store import Store


def test_a_submitted_job_is_queued_as_it_was_sent(store: Store, ask: Any) -> None:
    job = ask.submit(name="cells", priority=7, tags={"team": "lab"}, resources={"gpus": 1})
    assert (job.state, job.desired, job.attempt) == (State.QUEUED, Desired.RUN, 0)
    assert (job.name, job.priority, job.tags, job.queue) == ("cells", 7, {"team": "lab"}, "gpu")
    assert job.spec["resources"] == {"gpus": 1}
    assert "model" not in job.spec, "only what was sent"
    assert job.resolved["model"]["backbone"] == "resnet18", "every default filled in"
    assert store.reading.get(job.id) == job


def test_a_job_without_a_name_gets_one(ask: Any) -> None:
    job = ask.submit()
    assert job.name == f"train-{job.id}"


def test_warnings_about_the_data_are_part_of_the_story(store: Store, ask: Any) -> None:
    job = ask.submit(warnings=("3 boxes have no area",))
    story = [(event.number, event.kind, event.attempt) for event in store.reading.events(job.id)]
    assert story == [(1, "state", 0), (2, "warning", 0)]
    assert store.reading.events(job.id)[1].body["message"] == "3 boxes have no area"


def test_warnings_about_the_data_stand_in_the_job(store: Store, ask: Any) -> None:
    job = ask.submit(warnings=("3 boxes have no area", "val.json is old"))
    plain = ask.submit()
    assert job.warnings == store.reading.get(job.id).warnings == ("3 boxes have no area", "val.json is old")
    assert plain.warnings == ()
    listed = {each.id: each.warnings for each in store.reading.list_jobs().items}
    assert listed == {job.id: job.warnings, plain.id: ()}
    assert store.reading.get(job.id) in store.reading.list_jobs().items
