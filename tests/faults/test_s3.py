"""Jobs that publish files on S3 (a real server) while it is away, or refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.job import State

from .conftest import Service, no_engine_runs, wait_until

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def service(tmp_path: Path, database_url: str, plan: object, s3: object) -> Iterator[Service]:
    service = Service(tmp_path / "home", database_url, artifacts_url="s3://models/gkd")
    yield service
    service.store.close()


def must_be_whole(service: Service, job_id: str, epoch: int) -> None:
    """Check that every named file is kept and matches its hash, and that the model is of the last epoch."""
    for artifact in service.store.reading.artifacts(job_id):
        content = b"".join(service.artifacts.read(artifact.sha256))
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (artifact.sha256, artifact.size)
    assert service.weights(job_id) == b"weights of epoch %d" % epoch


def test_a_job_publishes_on_s3_and_another_one_starts_from_there(service, plan):
    plan(epochs=2)
    first = service.submit()
    second = service.submit(waits_for=first)
    runner = service.runner()
    runner.run(first)
    runner.run(second)
    assert [service.job(job_id).state for job_id in (first, second)] == [State.SUCCEEDED] * 2
    must_be_whole(service, first, 2)
    must_be_whole(service, second, 2)
    config = (service.settings.runs / second / "config.json").read_text()
    assert service.store.reading.artifact(first, "model.safetensors").sha256 in config
    assert list((service.settings.runs / second / "fetched").iterdir()) == []
    assert not (service.settings.home / "artifacts").exists()


def test_a_job_goes_on_while_s3_is_away_and_everything_is_published_then(service, plan, s3, caplog):
    plan(epochs=6, seconds=0.3)
    job_id = service.submit()
    with service.running(job_id):
        s3.stop()
        wait_until(no_engine_runs)
        assert (service.settings.runs / job_id / "report.json").exists()
        assert service.job(job_id).state is State.RUNNING
        wait_until(lambda: service.epochs(job_id)[-1] == 6)
        caplog.clear()
        wait_until(lambda: "trying again" in caplog.text)
        told = [
            event.body["epoch"]
            for event in service.store.reading.events(job_id)
            if event.kind == "checkpoint"
        ]
        assert 6 not in told, "its file is not kept yet"
        s3.start()
    assert service.job(job_id).state is State.SUCCEEDED
    assert service.outcomes(job_id) == ["succeeded"]
    assert service.epochs(job_id) == list(range(1, 7))
    must_be_whole(service, job_id, 6)


def test_while_s3_is_away_a_cancel_is_heard_and_a_pause_loses_nothing(service, plan, s3):
    plan(epochs=500, seconds=0.1)
    cancelled, paused = service.submit(), service.submit()
    with service.running(cancelled), service.running(paused, service.runner("second")):
        s3.stop()
        service.store.submission.cancel_requested(cancelled)
        service.store.submission.pause_requested(paused)
        wait_until(lambda: service.job(cancelled).state is State.CANCELLED)
        wait_until(lambda: service.job(paused).state is State.PAUSED)
    assert no_engine_runs()
    s3.start()
    done = int((service.settings.runs / paused / "checkpoints" / "state.json").read_text())
    plan(epochs=done + 1)
    service.store.submission.resume(paused)
    service.runner().run(paused)
    assert service.job(paused).state is State.SUCCEEDED
    assert service.epochs(paused) == list(range(1, done + 2))
    must_be_whole(service, paused, done + 1)


def test_a_job_that_starts_from_another_ones_model_waits_until_it_can_be_had(service, plan, s3, monkeypatch):
    plan(epochs=1)
    first = service.submit()
    second = service.submit(waits_for=first)
    runner = service.runner()
    runner.run(first)
    fetch = service.artifacts.fetch
    tries = []

    def away_at_first(*about: Any) -> Path:
        tries.append(about)
        (s3.start if len(tries) > 1 else s3.stop)()
        return fetch(*about)

    monkeypatch.setattr(service.artifacts, "fetch", away_at_first)
    runner.run(second)
    assert len(tries) == 2
    assert service.outcomes(second) == ["succeeded"]


def test_without_a_place_to_publish_nothing_is_begun_and_the_job_says_why(service, plan, s3, monkeypatch):
    monkeypatch.setattr("worker.runner._NO_ROOM_SECONDS", 0.01)
    plan(epochs=1)
    job_id = service.submit()
    runner = service.runner()
    s3.empty(bucket=False)
    with service.begun(job_id, runner):
        wait_until(lambda: "nothing could be published" in service.job(job_id).reason)
        runner.sweep()  # the job keeps its reason
        job = service.job(job_id)
        assert (job.state, job.attempts) == (State.QUEUED, ())
        assert "(nothing could be published: S3 knows no bucket 'models'. Make it" in job.reason
        s3.empty()
    runner.sweep()
    assert "published" not in service.job(job_id).reason
    runner.run(job_id)
    assert service.outcomes(job_id) == ["succeeded"]


def test_while_nothing_can_be_published_a_worker_holds_one_job_back_and_hears_no_other_notification(
    service, plan, s3, monkeypatch
):
    monkeypatch.setattr("worker.runner._NO_ROOM_SECONDS", 0.01)
    plan(epochs=1)
    first, second = service.submit(), service.submit()
    runner, looks, writes, notifications = service.runner(), [], [], []
    ping, hold_back, notify = runner.artifacts.ping, service.store.commands.hold_back, runner.notify

    def note(calls: list[Any], act: Any) -> Any:
        return lambda *about, **more: (calls.append(about), act(*about, **more))[1]

    monkeypatch.setattr(runner.artifacts, "ping", note(looks, ping))
    monkeypatch.setattr(service.store.commands, "hold_back", note(writes, hold_back))
    monkeypatch.setattr(runner, "notify", note(notifications, notify))
    s3.empty(bucket=False)
    with service.begun(first, runner) as thread:
        wait_until(lambda: len(looks) > 10)
        assert thread.is_alive(), "the notification for the second job waits in the queue"
        assert [writes[0][0], len(writes)] == [first, 1]
        assert notifications == [([first],)], "another worker may be better off"
        s3.empty()
    for job_id in (second, first):
        runner.run(job_id)
        assert service.outcomes(job_id) == ["succeeded"]


def test_a_worker_that_sits_out_ends_at_once_when_it_is_asked_to(service, plan, s3):
    plan(epochs=1)
    job_id, runner = service.submit(), service.runner()
    s3.empty(bucket=False)
    with service.begun(job_id, runner):
        wait_until(lambda: "nothing could be published" in service.job(job_id).reason)
        assert runner.stop_all()
    assert service.job(job_id).state is State.QUEUED


def test_a_bucket_that_is_gone_stops_the_engine_after_a_checkpoint_and_is_tried_again(service, plan, s3):
    plan(epochs=500, seconds=0.1)
    job_id = service.submit()
    with service.running(job_id):
        s3.empty(bucket=False)
    job = service.job(job_id)
    assert (job.state, service.outcomes(job_id)) == (State.QUEUED, ["requeued"])
    assert job.attempts[0].message == "S3 knows no bucket 'models'"
    done = int((service.settings.runs / job_id / "checkpoints" / "state.json").read_text())
    s3.empty()
    plan(epochs=done + 1)
    service.runner().run(job_id)
    assert service.outcomes(job_id) == ["requeued", "succeeded"]
    assert service.epochs(job_id) == list(range(1, done + 2))


def test_a_large_file_that_is_being_published_does_not_keep_an_engine_alive(service, plan, monkeypatch: Any):
    plan(epochs=500, seconds=0.1)
    put = service.artifacts.put
    job_id = service.submit()

    def be_slow(path: Path, expected_sha256: str | None = None) -> Any:
        service.store.submission.cancel_requested(job_id)
        wait_until(no_engine_runs)
        return put(path, expected_sha256)

    monkeypatch.setattr(service.artifacts, "put", be_slow)
    service.runner().run(job_id)
    assert service.job(job_id).state is State.CANCELLED
