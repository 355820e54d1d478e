"""The time from a submission to the engine's first line: what the service adds to the engine's own start."""

import os
import statistics
import time
from contextlib import ExitStack, contextmanager

import pytest

from client.client import Client
from gkd_core.config import DataConfig, TrainRun
from gkd_core.run_dir import RunDir
from worker.engine import Engine

TRIES = 5
MOST_SECONDS = 1.0


@pytest.fixture
def laptop(serve, data, tmp_path, port):
    @contextmanager
    def run():
        with serve(tmp_path / "home", data, port, GKD_SWEEP_SECONDS="600"):
            yield

    return run


@pytest.fixture
def node(start, data, tmp_path, port, postgres_url, redis_url):
    env = {"GKD_HOME": str(tmp_path / "home"), "GKD_DATA_ROOTS": str(data), "GKD_PORT": str(port)}
    env |= {"GKD_DATABASE_URL": postgres_url, "GKD_BROKER_URL": redis_url, "GKD_SWEEP_SECONDS": "600"}

    @contextmanager
    def run():
        with ExitStack() as stack:
            for name, ready in (("api", "answers at"), ("worker", "takes jobs")):
                stack.enter_context(start(name, cwd=tmp_path, env=env)).wait_for(ready)
            yield

    return run


def first_line(path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or not path.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def own_start(folder) -> float:
    """Return the seconds until the first line of an engine that is started by hand."""
    run_dir = RunDir(folder)
    run_dir.prepare(TrainRun(data=DataConfig(path="/data")), attempt=1)
    started = time.monotonic()
    with Engine.start(run_dir, 1, env={"FAKE_ENGINE": "{}"}):
        first_line(run_dir.log)
        return time.monotonic() - started


@pytest.mark.parametrize("way", ["laptop", "node"])
def test_the_engine_starts_within_a_second_of_the_submission(way, request, tmp_path, port, spec, fake_engine):
    taken, alone = [], []
    with request.getfixturevalue(way)(), Client(f"http://127.0.0.1:{port}") as client:
        for number in range(TRIES):
            alone.append(own_start(tmp_path / f"run-{number}"))
            asked = time.monotonic()
            job = client.submit(spec)
            first_line(tmp_path / "home" / "runs" / job.id / "log.txt")
            taken.append(time.monotonic() - asked)
            client.wait(job.id, timeout=30)
    print(f"{way}: {sorted(taken)}, of which the engine alone {sorted(alone)}", os.getloadavg())
    assert statistics.median(taken) - statistics.median(alone) < MOST_SECONDS
