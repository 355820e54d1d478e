"""The requests of `docker/verify.sh`, sent from inside the API's container: `python - VERB ... < probe.py`."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client.client import Client
from jobs.job import END_STATES

PATIENCE_SECONDS = 1200.0
"""Time limit for one job. A machine may be busy with other things."""

MODEL = {
    "architecture": "fcos",
    "backbone": "resnet18",
    "backbone_width": 0.25,
    "fpn": {"channels": 32},
    "head": {"depth": 1},
}
TRAIN = {"epochs": 12, "image_size": 64, "batch_size": 8, "evaluate_every": 4, "augment": {"mosaic": 0}}


def send(client: Client) -> dict[str, str]:
    """Submit a teacher and a student that is distilled from it, and create a key of another tenant."""
    teacher = {"kind": "train", "name": "verify-teacher", "data": "shapes", "model": MODEL, "train": TRAIN}
    client.create_key("verify", tenant="somebody", expires_in_days=None)
    sent = client.submit(teacher, idempotency_key="verify-teacher")
    student = {
        "kind": "distill",
        "name": "verify-student",
        "data": "shapes",
        "teacher": {"weights": f"job:{sent.id}"},
        "student": MODEL,
        "train": TRAIN,
    }
    return {"teacher": sent.id, "student": client.submit(student, idempotency_key="verify-student").id}


def until_saved(client: Client, job_id: str) -> dict[str, Any]:
    """Wait until the job has published a model and continues: a state that a killed worker could lose."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not client.artifacts(job_id):
        job = client.job(job_id)
        if job.state in END_STATES or time.monotonic() > deadline:
            raise SystemExit(f"{job.name} is {job.state} and has saved nothing: {job.reason}")
        time.sleep(0.5)
    return _summary(client, job_id)


def until_ended(client: Client, job_id: str) -> dict[str, Any]:
    """Wait until the job has succeeded."""
    job = client.wait(job_id, timeout=PATIENCE_SECONDS)
    if job.state != "succeeded":
        log, _ = client.log(job_id, offset=-8192)
        raise SystemExit(f"{job.name} is {job.state}: {job.reason}\n{job.failure}\n{log}")
    return _summary(client, job_id)


def inventory(client: Client) -> dict[str, Any]:
    """Return all that must not be lost: jobs, their events and files (hashed here, byte by byte), keys."""
    jobs = client.jobs(limit=1000)
    return {
        "jobs": [job.model_dump(mode="json") for job in jobs],
        "events": {job.id: sum(1 for _ in client.events(job.id)) for job in jobs},
        "files": {job.id: _hashes(client, job.id) for job in jobs},
        "keys": [key.model_dump(mode="json", exclude={"used_at"}) for key in client.list_keys()],
    }


def _summary(client: Client, job_id: str) -> dict[str, Any]:
    """Return a job in short; with `from_step` above 0, its last attempt went on from what was saved."""
    job = client.job(job_id)
    steps = (
        event.body["step"]
        for event in client.events(job_id, follow=False)
        if event.kind == "progress" and event.attempt == job.attempt
    )
    return {"name": job.name, "state": job.state, "attempt": job.attempt, "from_step": next(steps, None)}


def _hashes(client: Client, job_id: str) -> dict[str, str]:
    found = {}
    with tempfile.TemporaryDirectory(dir=os.environ["GKD_HOME"]) as folder:
        for artifact in client.artifacts(job_id):
            target = Path(folder) / "file"
            client.download(job_id, artifact.name, target)
            found[artifact.name] = hashlib.sha256(target.read_bytes()).hexdigest()
            if found[artifact.name] != artifact.sha256:
                raise SystemExit(f"{artifact.name} of {job_id} has another SHA-256 than its row says")
    return found


VERBS: dict[str, Callable[..., dict[str, Any]]] = {
    "send": send,
    "until-saved": until_saved,
    "until-ended": until_ended,
    "inventory": inventory,
}

if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    with Client("http://127.0.0.1:8000", api_key=os.environ["GKD_ADMIN_KEY"]) as service:
        print(json.dumps(VERBS[verb](service, *arguments), sort_keys=True))
