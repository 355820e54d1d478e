"""What is removed from the disk, and above all what is kept."""

import os
import time

import pytest
from sqlalchemy import update

import worker.runner
from gkd_core.config import DataConfig, TrainRun
from gkd_core.errors import Failure, FailureClass
from gkd_core.events import Warning
from gkd_core.run_dir import RunDir
from jobs.artifacts import open_artifacts
from jobs.artifacts.folder import FolderArtifacts
from jobs.job import Artifact
from jobs.queue import JobQueue, make_app
from jobs.settings import Settings
from jobs.specs.spec import Resolved, job_spec
from jobs.store.store import Store
from jobs.store.tables import jobs
from worker.runner import Runner
from worker.tidying import AS_LONG_AS_USEFUL, Keep, drop_states_if_possible, remove_unnamed, tidy_runs

RUN = TrainRun(data=DataConfig(path="/data"))


@pytest.fixture
def artifacts(tmp_path):
    return FolderArtifacts(tmp_path / "artifacts")


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def ticket(store, runs):
    """Return the ticket of a running job that has saved a resume state."""
    return start(store, runs)


def tidy(store, artifacts, runs, keep=AS_LONG_AS_USEFUL):
    """Do what one worker does for all, and each for itself."""
    tidy_runs(store, runs, keep)
    remove_unnamed(store, artifacts)


def start(store, runs):
    job, _ = store.submission.submit(
        job_spec.validate_python({"kind": "train", "data": "/data"}), Resolved(config=RUN)
    )
    run_dir = RunDir(runs / job.id)
    run_dir.prepare(RUN, attempt=1)
    for name in (
        "checkpoints/model-000000042.pt",
        "checkpoints/.model-000000043.pt.tmp",
        "log.txt",
        "model.safetensors",
    ):
        (run_dir.path / name).write_text(name)
    return store.commands.claim(job.id, "worker").ticket


def pause(store, ticket):
    store.submission.pause_requested(ticket.job_id)
    store.commands.pause(ticket)


def states(runs, ticket):
    return sorted(path.name for path in (runs / ticket.job_id / "checkpoints").iterdir())


def publish(store, artifacts, ticket, folder, text, number):
    """Publish a model of the job, under the same name each time, as the best so far."""
    path = folder / "model.safetensors"
    path.write_text(text)
    blob = artifacts.put(path)
    artifact = Artifact(
        name=path.name,
        size=blob.size,
        sha256=blob.sha256,
        created_at=store.reading.get(ticket.job_id).created_at,
    )
    store.commands.record(ticket, Warning(message=text), number, artifact)
    return artifacts.path(blob.sha256)


def make_old(*paths):
    then = time.time() - 7200
    for path in paths:
        os.utime(path, (then, then))


# ---- resume states ---------------------------------------------------------------------------------------


def broken(failure_class):
    return Failure(failure_class=failure_class, message="it broke")


@pytest.mark.parametrize(
    "end",
    [
        lambda store, ticket: store.commands.succeed(ticket),
        lambda store, ticket: store.commands.cancel(ticket),
        lambda store, ticket: (pause(store, ticket), store.submission.cancel_requested(ticket.job_id)),
        lambda store, ticket: store.commands.fail(ticket, broken(FailureClass.DIVERGED)),
    ],
    ids=["succeeded", "cancelled", "cancelled while paused", "diverged"],
)
def test_a_job_that_has_ended_keeps_all_but_its_resume_states(store, artifacts, runs, ticket, end):
    end(store, ticket)
    tidy(store, artifacts, runs)
    assert states(runs, ticket) == []
    assert (runs / ticket.job_id / "log.txt").exists()
    assert (runs / ticket.job_id / "model.safetensors").exists()


@pytest.mark.parametrize(
    "stay",
    [
        lambda store, ticket: None,
        lambda store, ticket: pause(store, ticket),
        lambda store, ticket: store.commands.requeue(ticket, "the worker is shutting down"),
        lambda store, ticket: store.commands.fail(ticket, broken(FailureClass.INFRASTRUCTURE)),
    ],
    ids=["running", "paused", "queued again", "failed by its machine"],
)
def test_a_job_that_may_go_on_keeps_its_resume_states(store, artifacts, runs, ticket, stay):
    stay(store, ticket)
    tidy(store, artifacts, runs)
    assert len(states(runs, ticket)) == 2


@pytest.mark.parametrize("end", ["cancel", None])
def test_what_was_fetched_for_a_job_goes_with_its_states(store, artifacts, runs, ticket, end):
    run_dir = RunDir(runs / ticket.job_id)
    run_dir.drop_states()
    run_dir.fetched.mkdir()
    (run_dir.fetched / "5f5f").write_text("a teacher")
    if end:
        store.commands.cancel(ticket)
    tidy(store, artifacts, runs)
    assert run_dir.has_states() == (end is None)


def test_a_folder_that_is_no_job_of_ours_is_left_alone(store, artifacts, runs, tmp_path, ticket):
    (runs / ticket.job_id).rename(runs / "unknown")
    tidy(store, artifacts, runs)
    assert len(list((runs / "unknown" / "checkpoints").iterdir())) == 2


def test_a_database_that_is_away_costs_no_more_than_a_delay(runs, caplog):
    store = Store("postgresql://nobody@127.0.0.1:1/gkd")
    drop_states_if_possible(store, runs, "a-job")
    assert "cannot remove the resume states of job a-job yet" in caplog.text


def test_states_may_go_with_any_end_or_stay_for_some_days(store, artifacts, runs, ticket):
    store.commands.fail(ticket, broken(FailureClass.INFRASTRUCTURE))
    tidy(store, artifacts, runs, Keep(states=2.0))
    assert len(states(runs, ticket)) == 2
    ended_ago(store, days=2.1)
    tidy(store, artifacts, runs, Keep(states="ended"))
    assert len(states(runs, ticket)) == 2
    tidy(store, artifacts, runs, Keep(states=2.0))
    assert states(runs, ticket) == []


def test_states_that_are_never_kept_go_when_the_machine_failed_the_job_too(store, artifacts, runs, ticket):
    store.commands.fail(ticket, broken(FailureClass.INFRASTRUCTURE))
    tidy(store, artifacts, runs, Keep(states="never"))
    assert states(runs, ticket) == []


@pytest.mark.parametrize("keep", [Keep("never"), Keep(0.0), Keep(runs_days=0.0)])
@pytest.mark.parametrize("stay", [None, "pause", "retry"])
def test_no_policy_takes_what_a_job_may_still_need(store, artifacts, runs, ticket, keep, stay):
    if stay == "pause":
        pause(store, ticket)
    if stay == "retry":
        store.commands.fail(ticket, broken(FailureClass.INFRASTRUCTURE))
        again = start(store, runs)
        with store.database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.id == again.job_id).values(retry_of=ticket.job_id))
        ended_ago(store, days=1)
    tidy(store, artifacts, runs, keep)
    assert len(states(runs, ticket)) == 2


def test_run_directories_go_some_days_after_the_end_and_published_files_stay(
    store, artifacts, runs, ticket, tmp_path
):
    model = publish(store, artifacts, ticket, tmp_path, "epoch 1", 10)
    store.commands.succeed(ticket)
    young = start(store, runs)
    ended_ago(store, days=31)
    store.commands.succeed(young)
    make_old(model)
    tidy(store, artifacts, runs, Keep(runs_days=None))
    assert (runs / ticket.job_id).exists()
    tidy(store, artifacts, runs, Keep(runs_days=30))
    assert not (runs / ticket.job_id).exists()
    assert (runs / young.job_id).exists()
    assert model.exists()
    assert store.reading.events(ticket.job_id)


def ended_ago(store, days):
    """Make the jobs that have ended end so many days earlier."""
    ended = jobs.c.finished_at.is_not(None)
    with store.database.write() as connection:
        connection.execute(update(jobs).where(ended).values(finished_at=jobs.c.finished_at - days * 86_400))


# ---- published files -------------------------------------------------------------------------------------


def test_a_replaced_model_goes_after_a_while_and_the_one_in_its_place_stays(
    store, artifacts, runs, ticket, tmp_path
):
    replaced = publish(store, artifacts, ticket, tmp_path, "epoch 1", 10)
    newest = publish(store, artifacts, ticket, tmp_path, "epoch 2", 20)
    tidy(store, artifacts, runs)
    assert replaced.exists()
    make_old(replaced, newest)
    tidy(store, artifacts, runs)
    assert not replaced.exists()
    assert newest.read_text() == "epoch 2"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_files_on_s3_go_by_the_same_rules(store, runs, ticket, tmp_path, s3):
    artifacts = open_artifacts("s3://models/gkd")
    path, named = tmp_path / "model.safetensors", []
    for number, text in enumerate(("epoch 1", "epoch 2"), 1):
        path.write_text(text)
        blob = artifacts.put(path)
        created = store.reading.get(ticket.job_id).created_at
        artifact = Artifact(name=path.name, size=blob.size, sha256=blob.sha256, created_at=created)
        store.commands.record(ticket, Warning(message=text), number, artifact)
        named.append(blob.sha256)
    tidy(store, artifacts, runs)
    assert artifacts.older_than(-7200) == set(named)
    s3.make_old("gkd/", 7200)
    tidy(store, artifacts, runs)
    assert artifacts.older_than(-7200) == {named[1]}


def test_a_file_that_another_job_names_stays(store, artifacts, runs, ticket, tmp_path):
    shared = publish(store, artifacts, ticket, tmp_path, "the same bits", 10)
    other = start(store, runs)
    assert publish(store, artifacts, other, tmp_path, "the same bits", 10) == shared
    publish(store, artifacts, ticket, tmp_path, "other bits", 20)
    make_old(shared)
    tidy(store, artifacts, runs)
    assert shared.exists()


def test_a_file_that_is_put_and_not_yet_named_stays(store, artifacts, runs, ticket, tmp_path):
    publish(store, artifacts, ticket, tmp_path, "epoch 1", 10)
    replaced = publish(store, artifacts, ticket, tmp_path, "epoch 2", 20)
    publish(store, artifacts, ticket, tmp_path, "epoch 3", 30)
    make_old(replaced)
    (tmp_path / "again").write_text("epoch 2")
    artifacts.put(tmp_path / "again")
    tidy(store, artifacts, runs)
    assert replaced.exists()


def test_a_file_that_is_named_while_a_worker_tidies_stays(
    store, artifacts, runs, ticket, tmp_path, monkeypatch
):
    unnamed = publish(store, artifacts, ticket, tmp_path, "epoch 1", 10)
    publish(store, artifacts, ticket, tmp_path, "epoch 2", 20)
    make_old(unnamed)
    ask = store.recovery.published

    def ask_and_then_publish():
        names = ask()
        publish(store, artifacts, ticket, tmp_path, "epoch 1", 30)
        return names

    monkeypatch.setattr(store.recovery, "published", ask_and_then_publish)
    tidy(store, artifacts, runs)
    assert unnamed.read_text() == "epoch 1"


def test_a_worker_that_is_slow_to_look_at_the_files_removes_none_that_was_named_meanwhile(
    store, artifacts, runs, ticket, tmp_path, monkeypatch
):
    published = []
    look = artifacts.older_than

    def look_after_hours(seconds):
        published.append(publish(store, artifacts, ticket, tmp_path, "epoch 1", 10))
        make_old(*published)
        return look(seconds)

    monkeypatch.setattr(artifacts, "older_than", look_after_hours)
    tidy(store, artifacts, runs)
    assert published[0].exists()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_files_of_another_database_are_left_alone(
    store, artifacts, runs, ticket, tmp_path, postgres_url, caplog
):
    theirs = publish(store, artifacts, ticket, tmp_path, "theirs", 10)
    tidy(store, artifacts, runs)
    make_old(theirs)
    ours = Store(postgres_url)
    tidy(ours, artifacts, runs)
    start(ours, runs)
    tidy(ours, artifacts, runs)
    ours.close()
    assert theirs.exists()
    assert "another database names its files" in caplog.text


# ---- deleted jobs ----------------------------------------------------------------------------------------


def test_what_lies_on_the_disk_of_a_deleted_job_goes_and_nothing_else(
    store, artifacts, runs, ticket, tmp_path
):
    kept = start(store, runs)
    for folder in ("0123456789ab", "somebody-s-own"):  # of another database, or of none
        RunDir(runs / folder).prepare(RUN, attempt=1)
    file = publish(store, artifacts, ticket, tmp_path, "weights", 1)
    make_old(file)
    store.commands.succeed(ticket)
    store.editing.delete(ticket.job_id)
    tidy(store, artifacts, runs)
    assert sorted(path.name for path in runs.iterdir()) == sorted(
        ["0123456789ab", kept.job_id, "somebody-s-own"]
    )
    assert not file.exists()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("broken", ["runs", "dataset_cache", "published"])
def test_what_cannot_be_tidied_keeps_nothing_else_from_it(store, tmp_path, monkeypatch, caplog, broken):
    def refuse(*_: object) -> None:
        raise PermissionError(f"no {broken} today")

    tidied = []
    settings = Settings(home=tmp_path, data_roots=(tmp_path,), free_bytes=0)
    runner = Runner(
        store, open_artifacts(settings.artifacts_url), JobQueue(make_app("memory://")), settings, "ada"
    )
    parts = {"runs": (worker.runner, "tidy_runs"), "dataset_cache": (runner.dataset_cache, "tidy")}
    parts["published"] = (worker.runner, "remove_unnamed")
    for name, (owner, function) in parts.items():
        act = refuse if name == broken else lambda *_, name=name: tidied.append(name)
        monkeypatch.setattr(owner, function, act)
    runner.tidy()
    assert tidied == [name for name in parts if name != broken]
    assert f"no {broken} today" in caplog.text


def test_deleting_the_first_job_does_not_make_the_folder_somebody_elses(
    store, artifacts, runs, ticket, tmp_path
):
    store.commands.fail(ticket, broken(FailureClass.BUG))
    tidy(store, artifacts, runs)  # the folder belongs to this database from now on
    store.editing.delete(ticket.job_id)
    later = start(store, runs)
    first = publish(store, artifacts, later, tmp_path, "first", 1)
    publish(store, artifacts, later, tmp_path, "second", 2)
    make_old(first)
    tidy(store, artifacts, runs)
    assert not first.exists()
