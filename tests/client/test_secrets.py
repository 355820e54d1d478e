"""No secret appears in logs, events, answers or files: every secret holds a marker that is searched everywhere."""

from __future__ import annotations

from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import make_url

from client.client import Client

MARKER = "MARKER0000000000000000000000000000000"


@pytest.fixture
def env(tmp_path: Path, data: Path, port: int, postgres_url: str, redis_url: str) -> dict[str, str]:
    """Return the environment of a service all of whose secrets hold the marker.

    The servers of the tests take any password.
    """
    database = make_url(postgres_url).set(password=MARKER).render_as_string(hide_password=False)
    return {
        "GKD_HOME": str(tmp_path / "home"),
        "GKD_DATA_ROOTS": str(data),
        "GKD_PORT": str(port),
        "GKD_DATABASE_URL": database,
        "GKD_BROKER_URL": redis_url.replace("redis://", f"redis://default:{MARKER}@"),
        "GKD_ADMIN_KEY": MARKER,
    }


def holders(folder: Path) -> list[Path]:
    """Return the files below a folder that hold the marker."""
    return [path for path in folder.rglob("*") if path.is_file() and MARKER.encode() in path.read_bytes()]


def command_lines(*pids: int) -> list[str]:
    """Return the command lines of processes and their children: every user of a machine may read them."""
    processes = [each for pid in pids for each in (psutil.Process(pid), *psutil.Process(pid).children(True))]
    return [" ".join(each.cmdline()) for each in processes]


COMMANDS = ["jobs", "whoami", "workers", "keys list", "keys limits", "show nobody", "cancel nobody"]


def test_no_command_shows_a_secret(start, tmp_path: Path, env, port: int):
    """Keep the commands' output in files below `tmp_path`; GKD_DEBUG also shows tracebacks."""
    own = env | {"GKD_URL": f"http://127.0.0.1:{port}", "GKD_API_KEY": MARKER, "GKD_DEBUG": "1"}
    with start("api", cwd=tmp_path, env=env) as api:
        api.wait_for("answers at")
        for command in COMMANDS:
            with start(*command.split(), "--json", cwd=tmp_path, env=own) as told:
                told.process.wait(60)
                assert told.log.stat().st_size > 0, command
    wrong = own | {"GKD_API_KEY": f"{MARKER}\n{MARKER}"}
    with start("whoami", cwd=tmp_path, env=wrong) as told:
        assert told.process.wait(60) != 0
    assert holders(tmp_path) == []


def test_a_job_that_runs_and_one_that_fails_leave_no_secret_behind(
    start, tmp_path: Path, env, port: int, spec
):
    url, broken = f"http://127.0.0.1:{port}", {"kind": "train", "data": "no/such/place"}
    answers: list[str] = []
    engine = {"FAKE_ENGINE": "{}", "GKD_DEBUG": "1"}
    with (
        start("api", cwd=tmp_path, env=env) as api,
        start("worker", cwd=tmp_path, env=env | engine) as worker,
    ):
        api.wait_for("answers at")
        worker.wait_for("takes jobs")
        with Client(url, api_key=MARKER) as client:
            job = client.wait(client.submit(spec).id, timeout=120)
            answers += command_lines(api.process.pid, worker.process.pid)
            assert job.state == "succeeded", worker.log.read_text()
            answers += [event.model_dump_json() for event in client.events(job.id, follow=False)]
            answers += [job.model_dump_json(), client.log(job.id)[0], client.whoami().model_dump_json()]
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {MARKER}"}) as http:
            answers += [
                http.get(path).text
                for path in (
                    "/openapi.json",
                    "/docs",
                    "/readyz",
                    "/keys",
                    "/tenants",
                    "/workers",
                    "/metrics",
                    "/none",
                )
            ]
            answers += [http.post("/jobs", json=broken).text, http.post("/jobs", content=b"{").text]
            answers += [http.get("/jobs", headers={"Authorization": f"Bearer {MARKER}x"}).text]
        assert api.end() == 0
        assert worker.end() == 0
    assert not [answer for answer in answers if MARKER in answer]
    assert holders(tmp_path) == []


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("api", {"GKD_BROKER_URL": f"amqp://u:{MARKER}@host/"}),
        ("serve", {}),  # it has its own queue and refuses another
        ("api", {"GKD_DATABASE_URL": f"mysql://u:{MARKER}@host/x"}),
        ("api", {"GKD_DATABASE_URL": f"postgresql://u:{MARKER}@127.0.0.1:1/x"}),
        ("worker", {"GKD_DATABASE_URL": f"postgresql://u:{MARKER}@127.0.0.1:1/x"}),
        ("api", {"GKD_PORT": "1000000"}),
        ("api", {"GKD_ADMIN_KEY": MARKER[:20]}),
        ("api", {"GKD_HOST": "no.such.host.invalid"}),
    ],
)
def test_a_start_that_fails_shows_no_secret(start, tmp_path: Path, env, command: str, wrong: dict[str, str]):
    with start(command, cwd=tmp_path, env=env | wrong) as process:
        assert process.process.wait(60) != 0
        told = process.log.read_text()
    assert told
    assert MARKER[:20] not in told
