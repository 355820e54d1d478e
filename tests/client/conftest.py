"""A real `gkd serve` in a process of its own, with a fake engine, which trains nothing."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from client.client import Client
from gkd_core.data.shapes import draw_shapes

ROOT = Path(__file__).parents[2]
FAKE_ENGINE = shlex.join([sys.executable, str(ROOT / "tests" / "worker" / "fake_engine.py")])


class Process:
    """A `gkd` command in a process of its own."""

    def __init__(self, *arguments: str, cwd: Path, env: dict[str, str]) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("GKD_", "FAKE_"))}
        self.log = cwd / f"{arguments[0]}.log"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "client.cli", *arguments],
                cwd=cwd,
                env={**own, "PYTHONPATH": str(ROOT), "GKD_ENGINE": FAKE_ENGINE, "GKD_GPUS": "0", **env},
                stdout=output,
                stderr=output,
            )

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def wait_for(self, text: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


@contextmanager
def running(*arguments: str, cwd: Path, env: dict[str, str]) -> Iterator[Process]:
    command = Process(*arguments, cwd=cwd, env=env)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.kill()
            command.process.wait()


@contextmanager
def serving(home: Path, data: Path, port: int, **env: str) -> Iterator[Process]:
    """Run `gkd serve` until it is ready."""
    variables = {"GKD_HOME": str(home), "GKD_DATA_ROOTS": str(data), "GKD_PORT": str(port), **env}
    with (
        running("serve", cwd=home.parent, env=variables) as server,
        Client(f"http://127.0.0.1:{port}") as client,
    ):
        deadline = time.monotonic() + 60
        while not client.ready():
            assert server.process.poll() is None, server.log.read_text()
            assert time.monotonic() < deadline, server.log.read_text()
            time.sleep(0.05)
        yield server


@pytest.fixture
def start() -> Callable[..., Any]:
    return running


@pytest.fixture
def serve() -> Callable[..., Any]:
    return serving


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data root with the data set `shapes`."""
    root = tmp_path_factory.mktemp("data")
    draw_shapes(root / "shapes", train=4, val=2, size=64, seed=1)
    return root


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the GKD_HOME of the session's server."""
    return tmp_path_factory.mktemp("served") / "home"


@pytest.fixture(scope="session")
def url(home: Path, data: Path, session_port: int) -> Iterator[str]:
    """Yield the URL of a server that all tests of the session share."""
    with serving(home, data, session_port, FAKE_ENGINE='{"as_asked": true}'):
        yield f"http://127.0.0.1:{session_port}"


@pytest.fixture(scope="session")
def session_port() -> int:
    return free_port()


@pytest.fixture
def port() -> int:
    return free_port()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the fake engine for runs of this process."""
    monkeypatch.setenv("GKD_ENGINE", FAKE_ENGINE)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def spec() -> dict[str, Any]:
    return {"kind": "train", "data": "shapes", "train": {"epochs": 2, "image_size": 64, "batch_size": 2}}
