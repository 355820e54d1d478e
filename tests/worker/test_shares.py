"""A job that was held back because its tenant had its share running is rung for when one of them ends."""

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


class Bell:
    """Notes for whom it rings."""

    def __init__(self) -> None:
        self.rung: list[str] = []

    def ring(self, job: Job) -> bool:
        self.rung.append(job.id)
        return True


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def runner(store: Store, tmp_path: Path, bell: Any) -> Runner:
    settings = Settings(home=tmp_path)
    return Runner(store, open_artifacts(settings.artifacts_url), bell, settings, "ada")


def submit(store: Store) -> str:
    split = Split(images="/data/images", annotations="/data/train.json")
    config = TrainRun(data=DataConfig(format="coco", train=split, val=split, classes=("cat",)))
    spec = job_spec.validate_python({"kind": "train", "data": "cells"})
    return store.submit(spec, Resolved(config=config), tenant="lab")[0].id


@pytest.mark.parametrize("verb", ["succeed", "pause", "cancel"])
def test_who_was_held_back_is_rung_for_at_once(
    store: Store, runner: Runner, bell: Bell, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    store.set_limits("lab", {"running_jobs": 1})
    first, held, further = (submit(store) for _ in range(3))

    def carry_out(run: Any) -> tuple[str, ...]:
        runner.run(held)  # a ring that comes too early
        assert store.get(held).attempt == 0
        if verb == "pause":
            store.pause_requested(first)
        return getattr(store, verb)(run._ticket) or ()

    monkeypatch.setattr(JobRun, "carry_out", carry_out)
    runner.run(first)
    assert bell.rung == [held], f"and not {further}: there is room for one"
