"""The GPUs that an engine sees: as many as its job asked for, of those of its worker."""

import sys

import pytest

from gkd_core.config import TrainRun
from jobs.job import State
from jobs.queue import JobQueue, make_app
from jobs.specs.spec import Resolved, job_spec
from worker.runner import Runner

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

TELL = "import os; print([os.environ.get(name) for name in ('CUDA_VISIBLE_DEVICES', 'CUDA_DEVICE_ORDER')])"


@pytest.mark.parametrize(
    ("gpus", "seen"),
    [(0, "['', None]"), (1, "['2', 'PCI_BUS_ID']"), (2, "['2,GPU-5a', 'PCI_BUS_ID']")],
)
def test_an_engine_sees_as_many_gpus_as_its_job_asked_for(service, plan, monkeypatch, gpus, seen):
    monkeypatch.setenv("GKD_ENGINE", f'{sys.executable} -c "{TELL}"')
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    spec = job_spec.validate_python({"kind": "train", "data": "/data", "resources": {"gpus": gpus}})
    config = TrainRun.model_validate({"kind": "train", "data": "/data", "device": "cuda" if gpus else "cpu"})
    job, _ = service.store.submission.submit(spec, Resolved(config=config))
    job_queue = JobQueue(make_app("memory://"))
    gpus_here = ("2", "GPU-5a", "7")
    Runner(service.store, service.artifacts, job_queue, service.settings, "one", gpus_here).run(job.id)
    assert service.job(job.id).state is State.SUCCEEDED
    assert service.log(job.id).strip() == seen
