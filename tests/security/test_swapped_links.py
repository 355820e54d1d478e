"""Links put in the place of something that was checked: nothing outside the data roots is read or served."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gkd_core.config import run_config
from gkd_core.errors import DataError
from gkd_core.process.named_files import environment_of
from gkd_core.run_dir import FAILED, RunDir
from jobs.job import Job
from jobs.paths.data_roots import DataRoots
from jobs.queue import JobQueue, make_app
from worker.data import must_lie_under
from worker.engine import Engine
from worker.runner import Runner

SECRET = "the-secret-itself"
FAKE_ENGINE = Path(__file__).parents[1] / "worker" / "fake_engine.py"


def _swap(inside: Path, outside: Path) -> None:
    """Move something out of the data roots and leave a link."""
    outside.parent.mkdir(exist_ok=True)
    shutil.move(inside, outside)
    inside.symlink_to(outside)


@pytest.fixture
def run(service, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Job]:
    """Return a function that runs a job with an engine that trains nothing."""
    monkeypatch.setenv("GKD_ENGINE", f"{sys.executable} {FAKE_ENGINE}")
    settings = service.settings.model_copy(update={"free_bytes": 0})
    runner = Runner(service.store, service.artifacts, JobQueue(make_app("memory://")), settings, "one")

    def carry_out(job_id: str) -> Job:
        runner.run(job_id)
        return service.store.reading.get(job_id)

    return carry_out


SWAPPED = ("annotations/instances_train.json", "images/val1.png", "images", "annotations", ".")


@pytest.mark.parametrize("what", SWAPPED)
def test_a_link_that_is_swapped_in_before_the_start_fails_the_job(
    service, train_spec, run, root: Path, tmp_path: Path, what: str
):
    job_id = service.submit(train_spec)["id"]
    _swap(root / "discs" / what, tmp_path / "outside" / "it")
    job = run(job_id)
    assert (job.state, job.failure and job.failure.failure_class) == ("failed", "data")
    assert "link" in job.failure.message
    assert not (service.settings.runs / job_id / "log.txt").exists()  # no engine was started


def test_weights_that_become_a_link_fail_the_job(service, run, root: Path, tmp_path: Path, train_spec, send):
    job_id = service.submit(train_spec)["id"]
    (root / "m.safetensors").write_bytes(b"x")
    config = run_config.validate_python(
        service.store.reading.get(job_id).resolved | {"model": {"weights": str(root / "m.safetensors")}}
    )
    must_lie_under([root], config)
    _swap(root / "m.safetensors", tmp_path / "outside" / "m")
    with pytest.raises(DataError, match="link"):
        must_lie_under([root], config)


def test_a_job_whose_data_stayed_runs_at_every_attempt(service, train_spec, run):
    assert run(service.submit(train_spec)["id"]).state == "succeeded"


def test_an_engine_opens_nothing_that_leads_out_after_the_check(
    service, train_spec, root: Path, tmp_path: Path
):
    """Swap the link in between the worker's check and the engine's read."""
    resolved = service.store.reading.get(service.submit(train_spec)["id"]).resolved
    (tmp_path / "secret.json").write_text(json.dumps({"categories": [{"id": SECRET}], "images": []}))
    file = root / "discs" / "annotations" / "instances_train.json"
    file.unlink()
    file.symlink_to(tmp_path / "secret.json")
    run_dir = RunDir(tmp_path / "run")
    run_dir.prepare(run_config.validate_python(resolved), attempt=1)
    with Engine.start(run_dir, 1, device="cpu", env=environment_of([root])) as engine:
        deadline = time.monotonic() + 200
        while (code := engine.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.1)
    failure = run_dir.read_failure()
    assert failure is not None
    assert (code, failure.failure_class) == (FAILED, "data")
    assert "leads out of the data roots" in failure.message
    assert SECRET not in run_dir.log.read_text() + failure.message


def test_a_link_that_is_swapped_in_between_check_and_reading_shows_nothing(
    service, send, train_spec, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file, secret = root / "discs/annotations/instances_train.json", tmp_path / "secret.json"
    secret.write_text(json.dumps({"categories": [{"id": SECRET}], "images": [], "annotations": []}))
    checked = DataRoots.left_by

    def and_then_swapped(self: DataRoots, data: Any) -> Any:
        yield from checked(self, data)
        file.unlink()
        file.symlink_to(secret)

    monkeypatch.setattr(DataRoots, "left_by", and_then_swapped)
    answer = send("/jobs", train_spec)
    assert answer.status_code == 422
    assert SECRET not in answer.text
    assert "leads out of the data roots" in answer.text


@pytest.mark.parametrize("name", ["data.yaml", "any.yaml"])
def test_no_data_yaml_is_read_that_leads_out(
    service, send, train_spec, root: Path, tmp_path: Path, name: str
):
    secret = tmp_path / "secret.yaml"
    secret.write_text(f"names: [a]\nnc: {SECRET}\ntrain: images\nval: images\n")
    (root / "yolo" / "images").mkdir(parents=True)
    (root / "yolo" / name).symlink_to(secret)
    answer = send("/jobs", train_spec | {"data": "yolo"})
    assert answer.status_code == 422
    assert SECRET not in answer.text


def test_threads_that_look_at_pictures_are_limited_too(
    service, send, train_spec, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gkd_core.data.picture_inspection._FEW", 0)
    picture = root / "discs/images/train1.png"
    checked = DataRoots.left_by

    def and_then_swapped(self: DataRoots, data: Any) -> Any:
        yield from checked(self, data)
        if not picture.is_symlink():
            _swap(picture, tmp_path / "outside" / "1.png")

    monkeypatch.setattr(DataRoots, "left_by", and_then_swapped)
    answer = send("/jobs", train_spec)
    assert answer.status_code == 422
    assert "leads out of the data roots" in answer.text
    assert threading.active_count() < 100
