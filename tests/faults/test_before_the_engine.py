"""Requests to stop a job reach its worker also while it still fetches and unpacks the inputs of the engine."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.job import State
from jobs.resources import Layout, NewResource, ResourceKind
from jobs.sync.cancellation import cancellable
from jobs.uploads import archives

from .conftest import Service, no_engine_runs, wait_until

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

ASK = {
    "cancel": lambda service, job_id, runner: service.store.submission.cancel_requested(job_id),
    "pause": lambda service, job_id, runner: service.store.submission.pause_requested(job_id),
    "shut down": lambda service, job_id, runner: runner.stop_all(),
    "lose the job": lambda service, job_id, runner: service.store.recovery.release(runner.worker),
}
ENDS = {
    "cancel": (State.CANCELLED, "cancelled"),
    "pause": (State.PAUSED, "paused"),
    "shut down": (State.QUEUED, "requeued"),
    "lose the job": (State.QUEUED, "lost"),
}


@pytest.fixture
def job_id(service: Service, plan: Any, tmp_path: Path) -> str:
    """Return a job that reads an uploaded data set that is not unpacked anywhere."""
    plan(epochs=1)
    with zipfile.ZipFile(tmp_path / "discs.zip", "w") as archive:
        for number in range(300):
            archive.writestr(f"images/{number}.png", b"picture")
    blob = service.artifacts.put(tmp_path / "discs.zip")
    new = NewResource(ResourceKind.DATASET, "discs", layout=Layout(), size=blob.size, sha256=blob.sha256)
    name = f"dataset:{service.store.resources.add_resource(new, tenant='lab')[0].id}"
    split = {"images": f"{name}/images", "annotations": f"{name}/annotations.json"}
    data = {"format": "coco", "train": split, "val": split, "classes": ["disc"]}
    return service.submit_resolved({"kind": "train", "data": name}, {"data": data})


@pytest.fixture
def unpacking(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event that is set once an archive is being unpacked, which takes a minute from now on."""
    begun = threading.Event()

    def slowly(cancelled: threading.Event, source: Iterable[Any]) -> Iterator[Any]:
        for each in cancellable(cancelled, source):
            begun.set()
            cancelled.wait(0.1)
            yield each

    monkeypatch.setattr(archives, "cancellable", slowly)
    return begun


@pytest.mark.parametrize("wanted", list(ASK))
def test_who_wants_a_job_to_stop_does_not_wait_until_its_data_is_unpacked(service, job_id, unpacking, wanted):
    runner = service.runner()
    with service.begun(job_id, runner):
        assert unpacking.wait(40)
        ASK[wanted](service, job_id, runner)
        wait_until(lambda: service.outcomes(job_id) == [ENDS[wanted][1]])
    assert service.job(job_id).state is ENDS[wanted][0]
    assert [path for path in runner.dataset_cache.root.iterdir() if path.is_dir()] == [], (
        "half of a data set is of no use"
    )
    assert not (service.settings.runs / job_id / "log.txt").exists(), "no engine was begun"


def test_a_job_that_was_paused_while_its_data_was_unpacked_goes_on_later(
    service, job_id, unpacking, monkeypatch
):
    with service.begun(job_id, service.runner()):
        assert unpacking.wait(40)
        service.store.submission.pause_requested(job_id)
    monkeypatch.setattr(archives, "cancellable", cancellable)
    service.store.submission.resume(job_id)
    service.runner().run(job_id)
    assert service.outcomes(job_id) == ["paused", "succeeded"]


def test_a_request_that_hangs_for_ever_keeps_nobody(service, job_id, monkeypatch):
    """Block a request as a server does that accepts connections and never answers: it must be abandoned."""
    asked, hangs = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        asked.set()
        hangs.wait(60)
        raise FileNotFoundError

    monkeypatch.setattr(service.artifacts, "fetch", hang)
    try:
        with service.begun(job_id, service.runner()):
            assert asked.wait(40)
            service.store.submission.cancel_requested(job_id)
            wait_until(lambda: service.job(job_id).state is State.CANCELLED)
    finally:
        hangs.set()


def test_a_request_to_pause_that_is_taken_back_meanwhile_is_no_failure(service, job_id, monkeypatch):
    """Withdraw the request before the running step notices it."""
    stopping, hangs = threading.Event(), threading.Event()

    def hang(sha256: str, folder: Path, cancelled: threading.Event) -> None:
        cancelled.wait(60)
        stopping.set()
        hangs.wait(60)

    monkeypatch.setattr(service.artifacts, "fetch", hang)
    runner = service.runner()
    try:
        with service.begun(job_id, runner):
            wait_until(lambda: service.job(job_id).state is State.RUNNING)
            service.store.submission.pause_requested(job_id)
            assert stopping.wait(40)
            service.store.submission.resume(job_id)
            wait_until(lambda: service.outcomes(job_id) == ["requeued"])
    finally:
        hangs.set()
    assert service.job(job_id).attempts[0].message == "what its engine was stopped for has passed"


def test_a_worker_that_asks_whether_it_could_publish_and_gets_no_answer_ends_all_the_same(
    service, job_id, monkeypatch
):
    asked, hangs = threading.Event(), threading.Event()

    def hang() -> None:
        asked.set()
        hangs.wait(60)

    monkeypatch.setattr(service.artifacts, "ping", hang)
    runner = service.runner()
    try:
        with service.begun(job_id, runner):
            assert asked.wait(40)
            assert runner.stop_all()
    finally:
        hangs.set()
    assert (service.job(job_id).state, service.outcomes(job_id)) == (State.QUEUED, [])


@pytest.mark.parametrize("wanted", ["cancel", "pause", "shut down"])
def test_nor_does_he_wait_until_a_file_is_published(service, plan, monkeypatch, wanted):
    plan(epochs=500, seconds=0.1)
    asked, hangs = threading.Event(), threading.Event()
    put, job_id, runner = service.artifacts.put, service.submit(), service.runner()

    def hang(*about: Any) -> Any:
        asked.set()
        hangs.wait(60)
        return put(*about)

    monkeypatch.setattr(service.artifacts, "put", hang)
    try:
        with service.begun(job_id, runner):
            assert asked.wait(40)
            ASK[wanted](service, job_id, runner)
            wait_until(lambda: service.job(job_id).state is ENDS[wanted][0])
    finally:
        hangs.set()
    assert no_engine_runs()
    if wanted == "cancel":
        return
    done = int((service.settings.runs / job_id / "checkpoints" / "state.json").read_text())
    if wanted == "pause":
        service.store.submission.resume(job_id)
    plan(epochs=done + 1)
    service.runner().run(job_id)
    assert service.outcomes(job_id)[-1] == "succeeded"
    assert service.epochs(job_id) == list(range(1, done + 2)), "nothing that was told before is missing"
