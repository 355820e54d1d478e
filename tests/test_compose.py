"""What the files for containers promise. `docker/verify.sh`, which needs Docker, checks that containers keep it."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text()
STACK: dict[str, Any] = yaml.safe_load(COMPOSE)
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
OURS = ("migrate", "api", "worker", "worker-cpu")


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_may_do_more_than_it_must(name: str):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "cap_add" not in service
    assert "privileged" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_runs_as_root(name: str):
    service = SERVICES[name]
    if name in OURS:
        recipe = (ROOT / "docker" / f"{service['image'].removeprefix('gkd-')}.Dockerfile").read_text()
        assert re.findall(r"^USER (.*)$", recipe, flags=re.MULTILINE) == ["10001"]
    else:
        assert int(service["user"].split(":")[0]) > 0


def test_only_the_api_is_published_and_on_the_loopback_by_default():
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"api"}
    assert SERVICES["api"]["ports"] == ["${GKD_BIND:-127.0.0.1}:${GKD_PORT:-8000}:8000"]


def test_database_and_queue_are_on_no_network_but_their_own():
    assert SERVICES["postgres"]["networks"] == SERVICES["redis"]["networks"] == ["inside"]
    assert STACK["networks"]["inside"] == {"internal": True}


def test_no_secret_has_a_default():
    names = re.findall(r"\$\{(GKD_\w*(?:PASSWORD|KEY)\w*)(:\?)?", COMPOSE)
    assert {name for name, _ in names} == {"GKD_POSTGRES_PASSWORD", "GKD_REDIS_PASSWORD", "GKD_ADMIN_KEY"}
    assert {demanded for _, demanded in names} == {":?"}


def test_only_the_api_gets_the_key_that_opens_everything():
    assert [name for name in SERVICES if "GKD_ADMIN_KEY" in SERVICES[name]["environment"]] == ["api"]


def test_every_container_that_stays_has_a_health_check_and_comes_back():
    for name, service in SERVICES.items():
        if name != "migrate":
            assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
            assert service["restart"] == "unless-stopped"


def test_a_worker_has_longer_to_stop_than_its_engine_may_take():
    settings = Settings()
    longest = 2 * settings.stop_seconds + settings.renew_seconds
    assert SERVICES["worker"]["stop_grace_period"] == SERVICES["worker-cpu"]["stop_grace_period"] == "2m"
    assert longest < 120


def test_what_containers_are_told_are_settings():
    told = {name for service in OURS for name in SERVICES[service]["environment"]}
    assert {name.removeprefix("GKD_").lower() for name in told} <= set(Settings.model_fields)


def test_the_example_names_every_variable_and_no_other():
    example = (ROOT / "docker" / "example.env").read_text()
    used = set(re.findall(r"\$\{(\w+)", COMPOSE)) | {"COMPOSE_PROFILES", "GKD_GPUS"}
    assert set(re.findall(r"^#?(\w+)=", example, flags=re.MULTILINE)) == used


def test_make_up_writes_secrets_that_only_the_owner_reads(up: Path, tmp_path: Path):
    run_up(up, str(tmp_path))
    written = dict(re.findall(r"^(\w+)=(.*)$", (up / ".env").read_text(), flags=re.MULTILINE))
    assert stat.S_IMODE((up / ".env").stat().st_mode) == 0o600
    assert written["GKD_DATA"] == f"'{tmp_path}'"
    assert written["COMPOSE_PROFILES"] == "cpu"
    secrets = [written[name] for name in ("GKD_POSTGRES_PASSWORD", "GKD_REDIS_PASSWORD", "GKD_ADMIN_KEY")]
    assert [bool(re.fullmatch(r"[0-9a-f]{48}", secret)) for secret in secrets] == [True] * 3
    assert len(set(secrets)) == 3


def test_make_up_leaves_settings_that_are_there_as_they_are(up: Path):
    (up / ".env").write_text("MINE=1\n")
    assert "compose up --detach --build --wait" in run_up(up, "")
    assert (up / ".env").read_text() == "MINE=1\n"


@pytest.mark.parametrize(
    ("data", "told"), [("", "make up DATA="), ("/no/such/folder", "/no/such/folder is no")]
)
def test_make_up_says_what_it_needs(up: Path, data: str, told: str):
    with pytest.raises(subprocess.CalledProcessError) as refused:
        run_up(up, data)
    assert told in refused.value.stderr
    assert not (up / ".env").exists()


@pytest.fixture
def up(tmp_path: Path) -> Path:
    """Return a checkout in which `docker` only prints its arguments, on a machine without GPUs."""
    checkout = tmp_path / "checkout"
    (checkout / "docker").mkdir(parents=True)
    for name in ("up.sh", "example.env"):
        (checkout / "docker" / name).symlink_to(ROOT / "docker" / name)
    for name, script in {"docker": 'echo "$@"', "nvidia-smi": "exit 9"}.items():
        command = checkout / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
    return checkout


def run_up(checkout: Path, data: str) -> str:
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    command = [str(checkout / "docker" / "up.sh"), data]
    done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True)
    return done.stdout


DOCKER = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in *"progress plain build"*) exit 1;; esac
"""
"""Replaces Docker: everything succeeds but the build."""


def verify(folder: Path) -> tuple[str, list[str]]:
    """Return the output of docker/verify.sh, and its calls of Docker, up to the build."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    docker = folder / "bin" / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    calls = folder / "calls"
    calls.unlink(missing_ok=True)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    settings = {"PATH": path, "CALLS": str(calls), "GKD_VERIFY_DIR": str(folder / "work")}
    command = ["bash", str(ROOT / "docker" / "verify.sh")]
    run = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=300)
    assert run.returncode != 0
    return run.stdout + run.stderr, calls.read_text().splitlines() if calls.exists() else []


def test_verifying_begins_without_what_a_run_that_was_killed_left(tmp_path: Path):
    (tmp_path / "work" / "drawn").mkdir(parents=True)
    (tmp_path / "work" / "drawn" / "left").touch()
    _, calls = verify(tmp_path)
    (build,) = [number for number, call in enumerate(calls) if "progress plain build" in call]
    before = calls[:build]
    assert [call for call in before if "-p gkd-verify" in call and "down --volumes --remove-orphans" in call]


@pytest.mark.skipif(not shutil.which("flock"), reason="needs flock")
def test_two_verifications_do_not_take_each_others_containers_away(tmp_path: Path):
    (tmp_path / "work").mkdir()
    with (tmp_path / "work.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said, calls = verify(tmp_path)
    assert "another run is at work" in said
    assert calls == []
