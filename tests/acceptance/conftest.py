"""Runs the service as people do, with the real engine, in both ways."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gkd_core.data.shapes import draw_shapes

TINY = {"backbone_width": 0.25, "fpn": {"channels": 16}, "head": {"depth": 1}}
RECIPE = {"epochs": 2, "batch_size": 4, "image_size": 64, "workers": 0, "schedule": {"warmup_epochs": 0.5}}
PATIENCE_SECONDS = 150.0
"""Time limit of a whole job; it takes about ten seconds on an idle machine."""
END_STATES = ("succeeded", "failed", "cancelled")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    draw_shapes(folder, train=8, val=4, size=64, seed=3)
    return folder


class Service:
    """A running GKD: its processes by name ("serve", or "api" and "worker"), and its HTTP client."""

    def __init__(self, names: tuple[str, ...], environment: dict[str, str], folder: Path) -> None:
        self.url = f"http://127.0.0.1:{environment['GKD_PORT']}"
        self._environment = environment
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in names:
            self.start(name)

    def start(self, name: str) -> None:
        """Start a process, and wait until HTTP answers."""
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "client.cli", name],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if name != "worker":
            self._await_answer()

    def stop(self) -> None:
        """Send SIGTERM to all processes."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(60)

    # ---- HTTP --------------------------------------------------------------------------------------------

    def post(self, spec: dict[str, Any]) -> str:
        """Submit a job and return its id."""
        answer = httpx.post(f"{self.url}/jobs", json=spec, timeout=30)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def get(self, path: str) -> Any:
        """Return the JSON behind a path."""
        answer = httpx.get(self.url + path, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def await_end(self, job_id: str) -> dict[str, Any]:
        """Wait until a job has succeeded."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (job := self.get(f"/jobs/{job_id}?wait=10"))["state"] not in END_STATES:
            assert time.monotonic() < deadline, (job["reason"], self._logs())
        assert job["state"] == "succeeded", (job["reason"], job["failure"])
        result: dict[str, Any] = job
        return result

    def hashes(self, job_id: str) -> dict[str, str]:
        """Return the SHA-256 of each model that a job published."""
        listed = self.get(f"/jobs/{job_id}/artifacts")
        listed = listed["items"] if isinstance(listed, dict) else listed
        return {item["name"]: item["sha256"] for item in listed if item["name"].endswith(".safetensors")}

    def _await_answer(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{self.url}/healthz", timeout=5).raise_for_status()
                return
            except httpx.HTTPError:
                assert time.monotonic() < deadline, self._logs()
                time.sleep(0.1)

    def _logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self._folder.glob("*.log")))


def distil_through(service: Service, pictures: Path) -> tuple[str, str]:
    """Submit a teacher and its student; return their ids."""
    data = str(pictures)
    teacher = service.post({"kind": "train", "data": data, "model": TINY, "train": {**RECIPE, "epochs": 1}})
    weights = {"weights": f"job:{teacher}"}
    spec = {"kind": "distill", "data": data, "teacher": weights, "student": TINY, "train": RECIPE}
    return teacher, service.post(spec)


@pytest.fixture
def send() -> Callable[[Service, Path], tuple[str, str]]:
    return distil_through


@contextmanager
def _service(names: tuple[str, ...], folder: Path, pictures: Path, **settings: str) -> Iterator[Service]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("GKD_")}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    settings |= {"GKD_HOME": str(folder), "GKD_DATA_ROOTS": str(pictures), "GKD_PORT": port}
    folder.mkdir()
    service = Service(names, own | settings, folder)
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture
def laptop(tmp_path: Path, pictures: Path) -> Iterator[Service]:
    """Run `gkd serve`: SQLite, memory broker."""
    with _service(("serve",), tmp_path / "laptop", pictures) as service:
        yield service


@pytest.fixture
def node(tmp_path: Path, pictures: Path, new_postgres_url: str, redis_url: str) -> Iterator[Service]:
    """Run `gkd api` and `gkd worker` on PostgreSQL and Redis."""
    urls = {"GKD_DATABASE_URL": new_postgres_url, "GKD_BROKER_URL": redis_url}
    with _service(("api", "worker"), tmp_path / "node", pictures, **urls) as service:
        yield service
