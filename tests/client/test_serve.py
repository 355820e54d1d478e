"""Starting and ending the service."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from celery.worker import state
from rich.console import Console

from client import serve as services
from client.client import ApiError, Client
from client.serve import NotServed
from jobs.job import State
from jobs.keys import Scope
from jobs.settings import Settings
from jobs.store.store import Store
from worker.home import hold


@pytest.fixture
def settings(tmp_path: Path, port: int) -> Settings:
    return Settings(home=tmp_path / "home", port=port)


@pytest.mark.parametrize("roots", [("gone",), ("there", "gone"), ("there",)])
def test_data_roots_that_are_not_there_are_said(
    tmp_path: Path, roots: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "there").mkdir()
    settings = Settings(home=tmp_path / "home", data_roots=tuple(tmp_path / root for root in roots))
    services._warn_of_missing_roots(settings)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text for text in told if str(tmp_path / "gone") in text] == told[: "gone" in roots]
    assert ("there is no data root" in " ".join(told)) is (roots == ("gone",))


@pytest.mark.parametrize("command", ["serve", "api", "worker"])
def test_every_part_that_reads_data_says_at_its_start_which_roots_are_not_there(
    start, tmp_path: Path, port: int, command: str
) -> None:
    env = {
        "GKD_HOME": str(tmp_path / "home"),
        "GKD_DATA_ROOTS": str(tmp_path / "gone"),
        "GKD_PORT": str(port),
    }
    if command != "serve":
        env["GKD_BROKER_URL"] = "redis://127.0.0.1:1/0"
    with start(command, cwd=tmp_path, env=env) as process:
        process.wait_for(f"the data root {tmp_path / 'gone'} is no folder")


def test_a_job_that_ran_when_the_service_ended_goes_on_after_the_next_start(
    serve, data: Path, tmp_path: Path, port: int, spec
):
    slow = {"FAKE_ENGINE": '{"epochs": 4, "seconds": 0.4}'}
    with Client(f"http://127.0.0.1:{port}") as client:
        with serve(tmp_path / "home", data, port, **slow) as first:
            job = client.submit(spec)
            next(event for event in client.events(job.id, every=0.05) if event.kind == "progress")
            assert first.end(signal.SIGTERM) == 0, first.log.read_text()
        with serve(tmp_path / "home", data, port) as second:
            ended = client.wait(job.id, timeout=60)
            log, _ = client.log(job.id)
            assert second.end(signal.SIGINT) == 0, second.log.read_text()
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 2)
    assert "attempt 2 starts at epoch 0" not in log
    assert "Traceback" not in second.log.read_text()


def test_api_and_worker_as_processes_of_their_own(
    start, data: Path, tmp_path: Path, port: int, spec, postgres_url: str, redis_url: str
):
    env = {
        "GKD_HOME": str(tmp_path / "home"),
        "GKD_DATA_ROOTS": str(data),
        "GKD_PORT": str(port),
        "GKD_DATABASE_URL": postgres_url,
        "GKD_BROKER_URL": redis_url,
        "GKD_SWEEP_SECONDS": "60",  # the job must start by its notification
    }
    with start("api", cwd=tmp_path, env=env) as api, start("worker", cwd=tmp_path, env=env) as worker:
        api.wait_for("answers at")
        worker.wait_for("takes jobs")
        with Client(f"http://127.0.0.1:{port}") as client:
            teacher = client.submit(spec)
            student = client.submit(
                {"kind": "distill", "data": "shapes", "teacher": {"weights": f"job:{teacher.id}"}}
            )
            ended = client.wait(student.id, timeout=40)
            assert client.ready()
        assert ended.state is State.SUCCEEDED, worker.log.read_text()
        assert worker.end() == 0, worker.log.read_text()
        assert api.end() == 0, api.log.read_text()
    told = lines(worker)
    assert {line["worker"] for line in told} == {told[0]["worker"]}
    tries = {(line.get("job"), line.get("attempt"), line.get("tenant")) for line in told if "attempt" in line}
    assert tries == {(teacher.id, 1, "default"), (student.id, 1, "default")}
    asked = [line for line in lines(api) if line.get("route") == "/jobs"]
    assert [(line["method"], line["status"]) for line in asked] == [("POST", 201)] * 2
    assert asked[0]["request"] != asked[1]["request"]


def lines(process: Any) -> list[dict[str, Any]]:
    """Return the log lines of a process, all but the one with its address."""
    text = process.log.read_text().splitlines()
    return [json.loads(line) for line in text if not line.startswith("GKD answers at")]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_without_keys_it_does_not_listen_beyond_the_loopback(settings: Settings, host: str):
    with pytest.raises(NotServed, match="no API keys"):
        services.serve(settings.model_copy(update={"host": host}), Console(quiet=True))


def test_once_there_are_keys_it_listens_beyond_the_loopback(serve, data: Path, tmp_path: Path, port: int):
    with closing(Store.of(Settings(home=tmp_path / "home"))) as store:
        _, secret = store.keys.create_key("lab", "k", {Scope.READ})
    with serve(tmp_path / "home", data, port, GKD_HOST="0.0.0.0"):
        url = f"http://127.0.0.1:{port}"
        with Client(url) as client, pytest.raises(ApiError) as error:
            client.jobs()
        assert error.value.status == 401
        with Client(url, api_key=secret.text) as client:
            assert client.jobs() == ()


def test_a_taken_port_is_said_so(settings: Settings):
    with (
        socket.create_server(("127.0.0.1", settings.port)),
        pytest.raises(NotServed, match=str(settings.port)),
    ):
        services.serve(settings, Console(quiet=True))


def test_a_service_whose_worker_has_ended_ends_too(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    def end_the_worker() -> None:
        with Client(f"http://127.0.0.1:{settings.port}") as client:
            while not client.ready():
                time.sleep(0.05)
        monkeypatch.setattr(state, "should_stop", 0)

    ending = threading.Thread(target=end_the_worker)
    ending.start()
    with pytest.raises(NotServed, match="the worker ended"):
        services.serve(settings, Console(quiet=True))
    ending.join()


def test_a_home_in_use_is_said_so(settings: Settings):
    with hold(settings.home), pytest.raises(NotServed, match="in use"):
        services.serve(settings, Console(quiet=True))


def test_processes_of_their_own_need_a_queue_between_them(settings: Settings):
    with pytest.raises(NotServed, match="queue"):
        services.api(settings, Console(quiet=True))
    with pytest.raises(NotServed, match="queue"):
        services.worker(settings)


def test_one_process_does_not_take_a_foreign_queue(settings: Settings):
    with pytest.raises(NotServed, match="redis://"):
        services.serve(
            settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"}), Console(quiet=True)
        )


def test_no_part_of_an_answer_is_held_back(settings: Settings):
    """Measure the delay of an answer's last part.

    asyncio switches Nagle's algorithm off where the socket names its protocol; with it, the delay is 40 ms.
    """
    with services._listening(settings) as listener:
        assert listener.proto == socket.IPPROTO_TCP
