"""Workers that die or freeze, and what becomes of their jobs."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from jobs.job import State
from worker.engine import Engine
from worker.tidying import remove_unnamed

from .conftest import RUN_ONE, wait_until

HALF_A_COPY = "jobs.artifacts.folder.FolderArtifacts._store"
FILE_WITHOUT_ROW = "jobs.store.worker_commands.WorkerCommands.record"


def engines(process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def freeze(worker, url: str) -> None:
    """Stop a process between two of its transactions; within one it would keep the database's lock."""
    worker.send_signal(signal.SIGSTOP)
    while is_locked(url):
        worker.send_signal(signal.SIGCONT)
        time.sleep(0.03)
        worker.send_signal(signal.SIGSTOP)


def is_locked(url: str) -> bool:
    sqlite = url.startswith("sqlite")
    engine = create_engine(url, connect_args={"timeout": 0} if sqlite else {})
    statement = "BEGIN IMMEDIATE" if sqlite else "SELECT id FROM jobs FOR UPDATE NOWAIT"
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
    except OperationalError:
        return True
    finally:
        engine.dispose()
    return False


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_when_a_worker_is_killed_its_engine_dies_and_another_worker_finishes_the_job(service, plan):
    plan(epochs=4, seconds=0.3)
    job_id = service.submit()
    with service.worker_process(job_id, "first") as worker:
        [engine] = engines(worker)
        worker.kill()
        wait_until(lambda: gone(engine))
    assert service.job(job_id).state is State.RUNNING
    service.sweep_until_queued(job_id)
    service.runner("second").run(job_id)
    job = service.job(job_id)
    assert job.state is State.SUCCEEDED
    assert [(attempt.worker, attempt.outcome) for attempt in job.attempts] == [
        ("first", "lost"),
        ("second", "succeeded"),
    ]
    assert service.epochs(job_id) == [1, 2, 3, 4]
    assert service.weights(job_id) == b"weights of epoch 4"


def test_a_worker_that_freezes_past_its_lease_writes_nothing_more(service, plan):
    plan(epochs=5, seconds=0.3)
    job_id = service.submit()
    with service.worker_process(job_id, "frozen") as worker:
        freeze(worker, service.settings.database_url)
        service.sweep_until_queued(job_id)
        service.runner("second").run(job_id)
        told = service.store.reading.events(job_id)
        worker.send_signal(signal.SIGCONT)
        assert worker.wait(15) == 0
    assert service.store.reading.events(job_id) == told
    assert service.outcomes(job_id) == ["lost", "succeeded"]
    assert service.epochs(job_id) == list(range(1, 6))
    assert [event.number for event in told] == list(range(1, len(told) + 1))


def test_a_frozen_workers_engine_makes_room_for_the_next_one(service, plan):
    plan(epochs=500, seconds=0.1)
    job_id = service.submit()
    with service.worker_process(job_id, "frozen") as worker:
        freeze(worker, service.settings.database_url)
        [old] = engines(worker)
        service.sweep_until_queued(job_id)
        with service.running(job_id) as second:
            wait_until(lambda: gone(old))
            wait_until(lambda: "attempt 2 starts" in service.log(job_id))
            second.stop_all()


def test_a_stale_ticket_ends_the_engine_at_once(service, plan, monkeypatch):
    plan(epochs=500, seconds=0.1, deaf=True)
    job_id = service.submit()
    started = []
    start = Engine.start
    monkeypatch.setattr(Engine, "start", lambda *a, **k: started.append(start(*a, **k)) or started[0])
    with service.running(job_id):
        service.store.recovery.release("one")  # as after a restart elsewhere
    assert started[0].poll() == -signal.SIGKILL
    assert service.job(job_id).state is State.QUEUED


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_who_lost_the_job_before_it_began_leaves_the_run_directory_alone(service, plan, monkeypatch):
    plan(epochs=1)
    job_id = service.submit()

    def take_long(config, store, *_):
        store.recovery.release("slow")
        return config

    monkeypatch.setattr("worker.job_run.find_weights", take_long)
    service.runner("slow").run(job_id)
    assert not (service.settings.runs / job_id).exists()
    assert service.outcomes(job_id) == ["lost"]


def test_what_was_told_but_not_recorded_is_recorded_by_the_next_attempt(service, plan):
    plan(epochs=2)
    job_id = service.submit()
    folder = service.settings.runs / job_id
    folder.mkdir(parents=True)
    claim = service.store.commands.claim(job_id, "died at once")
    line = b'{"kind":"warning","message":"told just before the end"}\n'
    (folder / "events.jsonl").write_bytes(line)
    service.store.recovery.release("died at once")
    service.runner().run(job_id)
    messages = [
        event.body["message"] for event in service.store.reading.events(job_id) if event.kind == "warning"
    ]
    assert claim.offset == 0
    assert messages == ["told just before the end"]


def test_a_run_directory_that_was_lost_is_begun_again(service, plan):
    plan(epochs=3, die=2, only_attempt=1)
    job_id = service.submit()
    service.runner().run(job_id)
    os.rename(service.settings.runs / job_id, service.settings.home / "lost")
    service.runner().run(job_id)
    assert service.job(job_id).state is State.SUCCEEDED
    assert service.epochs(job_id) == [1, 2, 1, 2, 3]


def dies_when_it_publishes(service, job_id: str, where: str) -> None:
    """Run a job in a process that is killed when it first calls a function with a published file."""
    module, name, method = where.rsplit(".", 2)
    program = f"""
import os, runpy, signal, sys
from {module} import {name}
real = {name}.{method}
def killed(self, *given):
    if given[-1] is None:
        return real(self, *given)
    os.kill(os.getpid(), signal.SIGKILL)
{name}.{method} = killed
sys.argv = ["run_one", {job_id!r}, "killed"]
runpy.run_path({str(RUN_ONE)!r}, run_name="__main__")
"""
    process = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | service.environment(), timeout=60
    )
    assert process.returncode == -signal.SIGKILL


def make_old(folder) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 7200,) * 2)


@pytest.mark.parametrize("where", [HALF_A_COPY, FILE_WITHOUT_ROW])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_killed_between_file_and_row_leaves_neither_half(service, plan, where):
    plan(epochs=1)
    job_id = service.submit()
    dies_when_it_publishes(service, job_id, where)
    published = service.settings.home / "artifacts"
    [left] = [path for path in published.rglob("*") if path.is_file()]
    assert left.read_bytes() == b"weights of epoch 1"
    assert service.store.reading.artifacts(job_id) == ()
    service.sweep_until_queued(job_id)
    make_old(published)
    remove_unnamed(service.store, service.artifacts)
    assert not left.exists()
    service.runner("second").run(job_id)
    assert service.outcomes(job_id) == ["lost", "succeeded"]
    assert service.weights(job_id) == b"weights of epoch 1"
