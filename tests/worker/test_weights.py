"""`job:<id>` in weights becomes the file of the model that the job published."""

from pathlib import Path

import pytest

from gkd_core.config import (
    DataConfig,
    DetectorConfig,
    DistillRun,
    PrototypesRun,
    TeacherConfig,
    TrainRun,
    run_config,
)
from gkd_core.errors import SpecError
from gkd_core.events import Latency, ModelReport, Report
from jobs.job import Artifact
from jobs.specs.spec import Resolved, job_spec
from worker.weights import find_weights

DATA = DataConfig(path="/data")


pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def find(store, artifacts, tmp_path):
    """Return a function that finds the weights of a config."""
    return lambda config: find_weights(config, store, artifacts, tmp_path / "fetched")


def finished_job(store, artifacts, folder, role="model", *, publish=True) -> str:
    """Return a job that has published one model."""
    spec = job_spec.validate_python({"kind": "train", "data": "/data"})
    job, _ = store.submission.submit(spec, Resolved(config=TrainRun(data=DATA)))
    ticket = store.commands.claim(job.id, "worker").ticket
    latency = Latency(median=1, low=1, high=1, device="none")
    sizes = {"parameters": 1, "gflops": 1, "latency_ms": latency, "metrics": {}, "per_class": {}}
    model = ModelReport(architecture="fcos", backbone="resnet18", file=f"{role}.safetensors", **sizes)
    artifact = None
    if publish:
        path = folder / f"{role}.safetensors"
        path.write_text(f"weights of {job.id}")
        blob = artifacts.put(path)
        artifact = Artifact(name=path.name, created_at=job.created_at, size=blob.size, sha256=blob.sha256)
    store.commands.record(ticket, Report(models={"teacher": model, role: model}), 10, artifact)
    store.commands.succeed(ticket)
    return job.id


def test_a_job_stands_for_the_file_of_its_model(store, artifacts, tmp_path, find):
    job_id = finished_job(store, artifacts, tmp_path)
    config = TrainRun(data=DATA, model=DetectorConfig(weights=f"job:{job_id}"))
    found = find(config)
    assert Path(found.model.weights).read_text() == f"weights of {job_id}"


def test_a_distill_job_stands_for_its_student(store, artifacts, tmp_path, find):
    teacher = finished_job(store, artifacts, tmp_path)
    student = finished_job(store, artifacts, tmp_path, "student")
    config = DistillRun(
        data=DATA,
        teacher=TeacherConfig(weights=f"job:{teacher}"),
        student=DetectorConfig(weights=f"job:{student}"),
    )
    found = find(config)
    texts = [Path(weights).read_text() for weights in (found.teacher.weights, found.student.weights)]
    assert texts == [f"weights of {teacher}", f"weights of {student}"]


def test_paths_and_no_weights_stay_as_they_are(find):
    config = DistillRun(data=DATA, teacher=TeacherConfig(weights="/models/teacher.safetensors"))
    assert find(config) == config


def test_a_job_without_a_model_is_named(store, artifacts, tmp_path, find):
    job_id = finished_job(store, artifacts, tmp_path, publish=False)
    config = DistillRun(data=DATA, teacher=TeacherConfig(weights=f"job:{job_id}"))
    with pytest.raises(SpecError, match=f"job {job_id} has no model to start from") as raised:
        find(config)
    assert raised.value.problems[0].loc == ("teacher", "weights")


def test_a_job_whose_report_names_no_file_is_told_so(store, tmp_path):
    spec = job_spec.validate_python({"kind": "train", "data": "/data"})
    job, _ = store.submission.submit(spec, Resolved(config=TrainRun(data=DATA)))
    store.commands.succeed(store.commands.claim(job.id, "worker").ticket)
    config = TrainRun(data=DATA, model=DetectorConfig(weights=f"job:{job.id}"))
    with pytest.raises(SpecError) as raised:
        find_weights(config, store, None, tmp_path)
    message = raised.value.problems[0].message
    assert message.endswith("no model to start from: its report names no file of a model"), message


def test_an_unknown_job_is_named(find):
    config = TrainRun(data=DATA, model=DetectorConfig(weights="job:none"))
    with pytest.raises(SpecError, match="there is no job 'none'"):
        find(config)


@pytest.mark.parametrize("kind", ["evaluate", "prototypes", "export"])
def test_a_job_that_makes_no_model_is_named(store, kind):
    weights = {"weights": "/models/m.safetensors"}
    parts = {"teacher": weights, "student": weights} if kind == "prototypes" else {"model": weights}
    spec = {"kind": kind, "data": {"path": "/data"}, **parts}
    config = run_config.validate_python(spec)
    job, _ = store.submission.submit(job_spec.validate_python(spec), Resolved(config=config))
    config = TrainRun(data=DATA, model=DetectorConfig(weights=f"job:{job.id}"))
    with pytest.raises(SpecError, match=f"no model to start from: it is of kind {kind}, which makes none"):
        find_weights(config, store, None, None)


def test_the_other_kinds_get_their_files_too(store, artifacts, tmp_path, find):
    job_id = finished_job(store, artifacts, tmp_path)
    model = TeacherConfig(weights=f"job:{job_id}")
    found = find(PrototypesRun(data=DATA, teacher=model, student=model))
    assert {Path(part.weights).read_text() for part in (found.teacher, found.student)} == {
        f"weights of {job_id}"
    }


def test_a_file_that_is_gone_is_named(store, artifacts, tmp_path, find):
    job_id = finished_job(store, artifacts, tmp_path)
    [artifact] = store.reading.artifacts(job_id)
    artifacts.remove(artifact.sha256, older_than=-1.0)
    config = TrainRun(data=DATA, model=DetectorConfig(weights=f"job:{job_id}"))
    with pytest.raises(SpecError, match="is gone"):
        find(config)
