"""Measures the time from a submission to the first line of a small engine, in both ways to run the service."""

from __future__ import annotations

import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from client.client import Client
from gkd_core.config import DataConfig, TrainRun
from gkd_core.data.shapes import draw_shapes
from gkd_core.run_dir import RunDir
from worker.engine import Engine

_ROOT = Path(__file__).parents[2]
_ENGINE = [sys.executable, str(_ROOT / "tests" / "worker" / "fake_engine.py")]
_TRIES = 5
_PATIENCE_SECONDS = 60.0
_SPEC = {"kind": "train", "data": "shapes", "train": {"epochs": 1, "image_size": 64}}
_NO_SWEEPS = {"GKD_SWEEP_SECONDS": "600"}
"""Switched off: a sweep could send the notification that the submission should have sent."""


def seconds_to_first_line(database_url: str, broker_url: str) -> dict[str, Any]:
    """Return median seconds for `gkd serve` and for API and worker on PostgreSQL and Redis, and the overhead.

    Args:
        database_url: A PostgreSQL database.
        broker_url: A Redis.
    """
    alone = statistics.median(_engine_alone() for _ in range(_TRIES))
    several = {"GKD_DATABASE_URL": database_url, "GKD_BROKER_URL": broker_url}
    found = {"engine_alone_s": alone}
    for way, commands, variables in (
        ("serve", ["serve"], {}),
        ("api_and_worker", ["api", "worker"], several),
    ):
        taken = _through_the_service(commands, variables | _NO_SWEEPS)
        found |= {f"{way}_s": taken, f"{way}_adds_s": taken - alone}
    return found


def _engine_alone() -> float:
    with tempfile.TemporaryDirectory() as folder:
        run_dir = RunDir(Path(folder) / "run")
        run_dir.prepare(TrainRun(data=DataConfig(path="/data")), attempt=1)
        started = time.monotonic()
        with Engine.start(run_dir, 1, command=_ENGINE, env={"PYTHONPATH": str(_ROOT)}):
            _first_line(run_dir.log)
            return time.monotonic() - started


def _through_the_service(commands: list[str], variables: dict[str, str]) -> float:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        draw_shapes(home / "data" / "shapes", train=4, val=2, size=64, seed=0)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        env = {"GKD_HOME": str(home), "GKD_DATA_ROOTS": str(home / "data"), "GKD_PORT": str(port)}
        env |= {"GKD_ENGINE": shlex.join(_ENGINE), "GKD_GPUS": "0", "PYTHONPATH": str(_ROOT), **variables}
        for command in commands:
            stack.enter_context(_running(command, env))
        client = stack.enter_context(Client(f"http://127.0.0.1:{port}"))
        _wait_until(lambda: client.ready() and client.workers())
        return statistics.median(_seconds_of_one(client, home) for _ in range(_TRIES))


def _seconds_of_one(client: Client, home: Path) -> float:
    asked = time.monotonic()
    job = client.submit(_SPEC)
    _first_line(home / "runs" / job.id / "log.txt")
    taken = time.monotonic() - asked
    client.wait(job.id, timeout=_PATIENCE_SECONDS)
    return taken


@contextmanager
def _running(command: str, env: dict[str, str]) -> Iterator[None]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "client.cli", command], env={**os.environ, **env}, **quiet
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def _first_line(path: Path) -> None:
    _wait_until(lambda: path.exists() and path.stat().st_size > 0, pause=0.005)


def _wait_until(condition: Any, pause: float = 0.05) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the service or its engine does not start")
        time.sleep(pause)
