"""A pickle runs code when it is read; so none is read, neither as a model nor from the queue.

The engine's handling is tested in tests/gkd_core/detectors/test_weights.py.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zipfile
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
import redis

from gkd_core.errors import SpecError
from jobs.job import State
from jobs.queue import TASK, JobQueue, make_app
from jobs.specs.resolve import resolve
from jobs.specs.spec_errors import read_spec
from worker.tasks import WorkerThread

from ..faults.conftest import Service, plan, service, wait_until  # noqa: F401 - fixtures


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, done: Path) -> None:
        self._done = done

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self._done), "w")


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """Return the file that unpickling makes."""
    path = tmp_path / "done"
    pickle.loads(pickle.dumps(Evil(path))).close()
    assert path.exists(), "or the tests below would show nothing"
    path.unlink()
    return path


def bare(done: Path) -> bytes:
    return pickle.dumps(Evil(done), protocol=2)


def zipped(done: Path) -> bytes:
    """Return the pickle in a zip file, as `torch.save` writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", bare(done))
        archive.writestr("archive/version", "3")
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [bare, zipped])
@pytest.mark.parametrize("name", ["m.pth", "m.pt", "m.safetensors", "m.onnx"])
def test_asking_for_a_job_from_a_pickle_runs_nothing_of_it(tmp_path: Path, draw, done: Path, pack, name: str):
    """Submit a pickle: the check of a spec only reads its first bytes; the engine then refuses it."""
    draw(tmp_path / "data" / "discs")
    (tmp_path / "data" / name).write_bytes(pack(done))
    model = {"architecture": "fcos", "backbone": "resnet18", "weights": name}
    ask = partial(resolve, roots=[tmp_path / "data"], find_job=lambda _: None)
    with suppress(SpecError):
        ask(read_spec({"kind": "train", "data": "discs", "model": model}))
    with suppress(SpecError):
        teacher = {"layout": "torchvision", "architecture": "fcos", "backbone": "resnet50", "weights": name}
        ask(
            read_spec({"kind": "evaluate", "data": "discs", "model": teacher | {"classes": ["disc", "ring"]}})
        )
    assert not done.exists()


def message(body: bytes, content_type: str, encoding: str) -> str:
    """Return a message of a queue as kombu writes it to Redis."""
    properties = {
        "correlation_id": "x",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "cpu"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "x",
    }
    headers = {"lang": "py", "task": TASK, "id": "x", "argsrepr": "()", "kwargsrepr": "{}"}
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": encoding,
            "content-type": content_type,
            "headers": headers,
            "properties": properties,
        }
    )


def poisons(done: Path) -> dict[str, str]:
    arguments = json.dumps([["../../etc"], {}, {}]).encode()
    return {
        "a pickle": message(bare(done), "application/x-python-serialize", "binary"),
        "a pickle that says it is JSON": message(bare(done), "application/json", "utf-8"),
        "a yaml": message(b"!!python/object/apply:os.mkdir [x]", "application/x-yaml", "utf-8"),
        "another type": message(b"x", "application/data", "binary"),
        "no such task": message(arguments, "application/json", "utf-8").replace(TASK, "os.system"),
        "an id that is a path": message(arguments, "application/json", "utf-8"),
        "too many arguments": message(
            json.dumps([[1, 2, 3], {"x": 1}, {}]).encode(), "application/json", "utf-8"
        ),
        "an id that is no text": message(
            json.dumps([[{"a": 1}], {}, {}]).encode(), "application/json", "utf-8"
        ),
        "no list": message(b"5", "application/json", "utf-8"),
        "no envelope": "garbage",
        "an empty envelope": "{}",
        "an envelope of lists": "[[[]]]",
        "an envelope without an end": "[" * 100_000,
        "an envelope of numbers": json.dumps(dict.fromkeys(("body", "headers", "properties"), 1)),
        "nested": message(b"[" * 100_000, "application/json", "utf-8"),
    }


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_is_no_notification_is_refused_and_the_worker_goes_on(service, plan, redis_url: str, done: Path):  # noqa: F811
    """Write to the broker as an attacker: only notifications of jobs have an effect."""
    plan(epochs=1)
    quiet = service.settings.model_copy(update={"sweep_seconds": 3600.0})
    with closing(make_app(redis_url)) as app, closing(redis.Redis.from_url(redis_url)) as broker:
        with WorkerThread(quiet, app) as worker:
            for what in poisons(done).values():
                broker.lpush("cpu", what)
                job_id = service.submit()
                JobQueue(app).notify(service.job(job_id))
                wait_until(lambda job_id=job_id: service.job(job_id).state is State.SUCCEEDED)
            assert worker.is_listening()
        assert broker.llen("cpu") == 0
    assert not done.exists()
