"""Annotations that are edited after a job was submitted, or while it runs, are noticed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gkd_core.config import DataConfig
from gkd_core.data.check import find_layout
from gkd_core.events import Warning
from gkd_core.run_dir import RunDir
from jobs.job import Job
from jobs.paths.fingerprint import of_annotations
from jobs.queue import JobQueue, make_app
from worker.runner import Runner

FAKE_ENGINE = Path(__file__).parents[1] / "worker" / "fake_engine.py"

Run = Callable[..., Job]


@pytest.fixture
def run(service, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a job with an engine that trains nothing, but saves its progress."""
    monkeypatch.setenv("GKD_ENGINE", f"{sys.executable} {FAKE_ENGINE}")
    settings = service.settings.model_copy(update={"free_bytes": 0})
    runner = Runner(service.store, service.artifacts, JobQueue(make_app("memory://")), settings, "one")

    def carry_out(job_id: str, **plan: object) -> Job:
        monkeypatch.setenv("FAKE_ENGINE", json.dumps(plan))
        runner.run(job_id)
        return service.store.reading.get(job_id)

    return carry_out


def edit(root: Path) -> None:
    """Move a box."""
    file = root / "discs" / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [5, 5, 20, 20]
    file.write_text(json.dumps(content))


def warned(service, job_id: str) -> list[str]:
    told = service.store.reading.events(job_id)
    return [
        event.body["message"] for event in told if event.kind == "warning" and "changed" in str(event.body)
    ]


def test_an_edit_before_the_start_is_told_before_the_first_step(service, train_spec, run: Run, root: Path):
    job_id = service.submit(train_spec)["id"]
    edit(root)
    assert run(job_id).state == "succeeded"
    [told] = warned(service, job_id)
    assert "changed since the job was submitted" in told
    kinds = [event.kind for event in service.store.reading.events(job_id)]
    assert kinds.index("warning") < kinds.index("progress")


def test_an_edit_in_the_middle_fails_the_job_when_it_goes_on(service, train_spec, run: Run, root: Path):
    job_id = service.submit(train_spec)["id"]
    assert run(job_id, die=1).state == "queued"
    edit(root)
    job = run(job_id)
    assert (job.state, job.failure and job.failure.failure_class) == ("failed", "data")
    assert "changed since this run began" in job.failure.message
    log = (service.settings.runs / job_id / "log.txt").read_text()
    assert "starts at epoch 1" not in log


def test_what_was_edited_before_the_start_is_what_the_run_goes_on_with(
    service, train_spec, run: Run, root: Path
):
    job_id = service.submit(train_spec)["id"]
    edit(root)
    assert run(job_id, die=1).state == "queued"
    assert run(job_id).state == "succeeded"
    assert len(warned(service, job_id)) == 1


def test_a_copy_with_other_times_is_the_same(service, train_spec, run: Run, root: Path):
    job_id = service.submit(train_spec)["id"]
    assert run(job_id, die=1).state == "queued"
    for file in (root / "discs").rglob("*.*"):
        os.utime(file, (1, 1))
    assert run(job_id).state == "succeeded"
    assert warned(service, job_id) == []


def test_a_retry_does_not_go_on_from_what_was_learnt_of_others(service, train_spec, run: Run, root: Path):
    job_id = service.submit(train_spec)["id"]
    assert run(job_id, fail=1).state == "failed"
    edit(root)
    again = service.http.post(f"/jobs/{job_id}/retry").json()["id"]
    assert run(again).state == "succeeded"
    assert "starts at epoch 0" in (service.settings.runs / again / "log.txt").read_text()


def _voc(root: Path) -> Path:
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    for name in ("a b", "c", "unlisted"):
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{name}</annotation>")
        (root / "JPEGImages" / f"{name}.png").touch()
    (root / "ImageSets/Main/train.txt").write_text("a b 1\n")
    (root / "ImageSets/Main/val.txt").write_text("c\n")
    return root


def test_of_voc_what_is_listed_counts(tmp_path: Path):
    data = find_layout(DataConfig(path=str(_voc(tmp_path / "voc"))))
    before = of_annotations(data)
    (tmp_path / "voc/Annotations/unlisted.xml").write_text("x")
    assert of_annotations(data) == before
    (tmp_path / "voc/Annotations/a b.xml").write_text("x")
    assert of_annotations(data) != before


@pytest.mark.parametrize("what", ["labels/train/1.txt", "data.yaml", "images/train/more.png"])
def test_of_yolo_labels_names_and_pictures_count(tmp_path: Path, what: str):
    for split in ("train", "val"):
        for part, name in (("images", "1.png"), ("labels", "1.txt")):
            (tmp_path / part / split).mkdir(parents=True)
            (tmp_path / part / split / name).write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [disc]\n")
    data = find_layout(DataConfig(path=str(tmp_path)))
    before = of_annotations(data)
    (tmp_path / "labels" / "train.cache").write_text("of another tool")
    assert of_annotations(data) == before
    (tmp_path / what).write_text("# other\n")
    assert of_annotations(data) != before


def test_an_event_of_ours_is_a_line_of_its_own(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    run_dir.events.write_bytes(b'{"kind":"warning"}\n{"kind":"war')
    run_dir.append_event(Warning(message="edited"))
    lines = run_dir.events.read_bytes().splitlines()
    assert (lines[:2], json.loads(lines[2])["message"]) == (
        [b'{"kind":"warning"}', b'{"kind":"war'],
        "edited",
    )
