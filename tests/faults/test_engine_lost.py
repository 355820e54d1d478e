"""Engines that end unexpectedly, and what becomes of their jobs."""

import sys

import pytest

from gkd_core.errors import FailureClass
from gkd_core.run_dir import RunDir
from jobs.job import State

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_a_job_runs_to_its_end_and_all_that_it_told_is_kept(service, plan):
    plan(epochs=2)
    job_id = service.submit()
    service.runner().run(job_id)
    job = service.job(job_id)
    assert job.state is State.SUCCEEDED
    assert service.epochs(job_id) == [1, 2]
    assert service.weights(job_id) == b"weights of epoch 2"
    assert service.store.reading.artifact(job_id, "model.safetensors").metrics == {"AP": 0.02}
    assert service.store.reading.report(job_id)["models"]["model"]["file"] == "model.safetensors"
    assert {artifact.name for artifact in service.store.reading.artifacts(job_id)} == {
        "model.safetensors",
        "report.json",
    }


@on_sqlite
@pytest.mark.parametrize(("faults", "kept"), [({}, False), ({"fail": 1}, False), ({"die": 1}, True)])
def test_checkpoints_go_with_the_job_unless_its_machine_failed_it(service, plan, faults, kept):
    plan(epochs=2, seconds=0, **faults)
    job_id = service.submit()
    for _ in range(4):
        service.runner().run(job_id)
    assert service.job(job_id).finished_at
    run_dir = RunDir(service.settings.runs / job_id)
    assert any(run_dir.checkpoints.iterdir()) is kept
    assert run_dir.log.exists()
    assert run_dir.events.exists()


@on_sqlite
def test_a_second_call_for_the_same_job_is_harmless(service, plan):
    plan(epochs=1)
    job_id = service.submit()
    service.runner().run(job_id)
    service.runner("two").run(job_id)
    assert service.outcomes(job_id) == ["succeeded"]


def test_a_killed_engine_is_tried_again_and_goes_on_where_it_was(service, plan):
    plan(epochs=3, die=2, only_attempt=1)
    job_id = service.submit()
    service.runner().run(job_id)
    assert service.job(job_id).state is State.QUEUED
    service.runner("two").run(job_id)
    assert service.job(job_id).state is State.SUCCEEDED
    assert service.outcomes(job_id) == ["requeued", "succeeded"]
    assert "SIGKILL" in service.job(job_id).attempts[0].message
    assert service.epochs(job_id) == [1, 2, 3]


@on_sqlite
def test_half_a_line_of_a_killed_engine_costs_nothing(service, plan):
    plan(epochs=3, tear=1, only_attempt=1)
    job_id = service.submit()
    service.runner().run(job_id)
    service.runner().run(job_id)
    assert service.job(job_id).state is State.SUCCEEDED
    assert service.epochs(job_id) == [1, 2, 3]


def test_a_job_that_always_dies_before_it_saves_is_given_up(service, plan):
    plan(epochs=3, die=0)
    job_id = service.submit()
    for _ in range(4):
        service.runner().run(job_id)
    job = service.job(job_id)
    assert (job.state, job.attempt) == (State.FAILED, 3)
    assert job.failure.failure_class is FailureClass.INFRASTRUCTURE
    assert "SIGKILL" in job.failure.message


@on_sqlite
def test_a_bug_is_not_tried_again_and_its_traceback_is_kept(service, plan):
    plan(epochs=3, fail=1)
    job_id = service.submit()
    service.runner().run(job_id)
    job = service.job(job_id)
    assert (job.state, job.attempt) == (State.FAILED, 1)
    assert job.failure.failure_class is FailureClass.BUG
    assert job.failure.message == "ZeroDivisionError: a bug of epoch 1"
    assert "Traceback" in service.log(job_id)


@on_sqlite
def test_an_engine_that_cannot_start_says_so_in_the_log(service, monkeypatch):
    monkeypatch.setenv("GKD_ENGINE", f"{sys.executable} -c 'raise SystemExit(\"no such engine\")'")
    job_id = service.submit()
    service.runner().run(job_id)
    assert service.job(job_id).state is State.QUEUED
    assert "could not start" in service.job(job_id).attempts[0].message
    assert "no such engine" in service.log(job_id)


@on_sqlite
def test_out_of_memory_is_tried_once_more_with_half_the_micro_batch(service, plan):
    plan(epochs=2, oom=1)
    job_id = service.submit(batch_size=8)
    service.runner().run(job_id)
    assert service.job(job_id).state is State.QUEUED
    assert "micro-batches of 4" in service.job(job_id).attempts[0].message
    service.runner().run(job_id)
    job = service.job(job_id)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 2)
    assert (job.resolved["train"]["batch_size"], job.resolved["train"]["accumulate"]) == (8, 2)


@on_sqlite
@pytest.mark.parametrize("train", [{"batch_size": 1}, {"batch_size": 8}])
def test_out_of_memory_again_is_a_failure(service, plan, train):
    plan(epochs=2, oom=1, oom_until=64)
    job_id = service.submit(**train)
    for _ in range(4):
        service.runner().run(job_id)
    job = service.job(job_id)
    assert job.state is State.FAILED
    assert job.failure.failure_class is FailureClass.OUT_OF_MEMORY
    assert job.attempt == min(train["batch_size"], 2)


@on_sqlite
def test_an_event_that_cannot_be_read_is_told_once_and_the_job_goes_on(service, plan, caplog):
    plan(epochs=3, seconds=1, garble=2)
    job_id = service.submit()
    service.runner().run(job_id)
    assert service.job(job_id).state is State.SUCCEEDED
    assert service.epochs(job_id) == [1, 2, 3]
    warnings = [event.body for event in service.store.reading.events(job_id) if event.kind == "warning"]
    assert ["cannot be read" in warning["message"] for warning in warnings] == [True]
    assert len([record for record in caplog.records if "cannot be read" in record.message]) == 1


@on_sqlite
def test_a_job_whose_report_cannot_be_read_is_tried_again(service, plan):
    plan(epochs=1, garble_report=True, only_attempt=1)
    job_id = service.submit()
    service.runner().run(job_id)
    assert service.job(job_id).state is State.QUEUED
    assert "report" in service.job(job_id).attempts[0].message
    service.runner("two").run(job_id)
    assert service.job(job_id).state is State.SUCCEEDED
    assert service.store.reading.report(job_id)
