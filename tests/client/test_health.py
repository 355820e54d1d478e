"""`gkd health`, as a container's health check calls it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from client.health import trouble_with_api
from jobs.settings import Settings
from worker.slots import STALE_SECONDS

NOT_READY = {"status": "not ready", "parts": {"database": "ready", "broker": "not ready: ConnectionError"}}


@contextmanager
def answering(status: int, body: bytes):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Settings(port=server.server_port, host="0.0.0.0")
        finally:
            server.shutdown()
            thread.join()


def test_an_api_that_is_ready_is_healthy():
    with answering(200, b"{}") as settings:
        assert trouble_with_api(settings) is None


def test_of_one_that_is_not_ready_the_parts_are_named():
    with answering(503, json.dumps(NOT_READY).encode()) as settings:
        assert trouble_with_api(settings) == "broker is not ready: ConnectionError"


def test_what_is_no_api_is_not_healthy():
    with answering(500, b"<html>") as settings:
        assert trouble_with_api(settings) == "/readyz answered 500"


def test_where_nobody_listens_is_no_health(port):
    assert "no answer" in trouble_with_api(Settings(port=port))


def health(env: dict[str, str]) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "client.cli", "health", "worker"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)


@pytest.fixture
def environment(tmp_path, sqlite_url, redis_url):
    return {"GKD_HOME": str(tmp_path / "home"), "GKD_DATABASE_URL": sqlite_url, "GKD_BROKER_URL": redis_url}


def test_a_worker_that_is_frozen_or_gone_is_not_healthy(start, tmp_path, environment):
    env = os.environ | environment
    assert health(env).returncode == 1
    with start("worker", cwd=tmp_path, env=environment) as worker:
        worker.wait_for("takes jobs")
        healthy = health(env)
        assert (healthy.returncode, healthy.stderr) == (0, "")
        worker.process.send_signal(signal.SIGSTOP)
        assert health(env).returncode == 0
        [place] = (tmp_path / "home" / "workers").iterdir()
        _, name = place.read_text().split()
        place.write_text(
            f"{time.monotonic() - STALE_SECONDS:020.3f}\n{name}\n"
        )  # as it is after half a minute
        frozen = health(env)
        assert frozen.returncode == 1
        assert "no sign of life" in frozen.stderr
        worker.process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 15
        while health(env).returncode != 0:
            assert time.monotonic() < deadline
        assert worker.end() == 0
    assert "no worker" in health(env).stderr
