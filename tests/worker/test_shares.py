"""A job that was held back because its tenant had its share running is notified of when one of them ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gkd_core.config import DataConfig, Split, TrainRun
from jobs.artifacts import open_artifacts
from jobs.job import Job
from jobs.settings import Settings
from jobs.specs.spec import Resolved, job_spec
from jobs.store.store import Store
from worker.job_run import JobRun
from worker.runner import Runner


class RecordingQueue:
    """Records the jobs of notifications."""

    def __init__(self) -> None:
        self.notified: list[str] = []

    def notify(self, job: Job) -> bool:
        self.notified.append(job.id)
        return True


@pytest.fixture
def job_queue() -> RecordingQueue:
    return RecordingQueue()


@pytest.fixture
def runner(store: Store, tmp_path: Path, job_queue: Any) -> Runner:
    settings = Settings(home=tmp_path)
    return Runner(store, open_artifacts(settings.artifacts_url), job_queue, settings, "ada")


def submit(store: Store) -> str:
    split = Split(images="/data/images", annotations="/data/train.json")
    config = TrainRun(data=DataConfig(format="coco", train=split, val=split, classes=("cat",)))
    spec = job_spec.validate_python({"kind": "train", "data": "cells"})
    return store.submission.submit(spec, Resolved(config=config), tenant="lab")[0].id


@pytest.mark.parametrize("verb", ["succeed", "pause", "cancel"])
def test_who_was_held_back_is_notified_of_at_once(
    store: Store, runner: Runner, job_queue: RecordingQueue, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    store.keys.set_limits("lab", {"running_jobs": 1})
    first, held, further = (submit(store) for _ in range(3))

    def carry_out(run: Any) -> tuple[str, ...]:
        runner.run(held)  # a notification that comes too early
        assert store.reading.get(held).attempt == 0
        if verb == "pause":
            store.submission.pause_requested(first)
        return getattr(store.commands, verb)(run._ticket) or ()

    monkeypatch.setattr(JobRun, "carry_out", carry_out)
    runner.run(first)
    assert job_queue.notified == [held], f"and not {further}: there is room for one"
