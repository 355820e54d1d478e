"""Settings are read from the environment, and errors in it are named."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from jobs.settings import Settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("GKD_"):
            monkeypatch.delenv(name)


def test_everything_lies_in_the_home_folder_unless_told_otherwise(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert settings.database_url == f"sqlite:///{tmp_path}/gkd.db"
    assert settings.artifacts_url == tmp_path / "artifacts"
    assert settings.runs == tmp_path / "runs"
    assert settings.broker_url == "memory://"


def test_the_environment_sets_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GKD_HOME", "~/somewhere")
    monkeypatch.setenv("GKD_DATABASE_URL", "postgresql://db/gkd")
    monkeypatch.setenv("GKD_ARTIFACTS_URL", "file:///srv/models%20of%20gkd")
    monkeypatch.setenv("GKD_DATA_ROOTS", f"/data{os.pathsep}/more")
    settings = Settings()
    assert settings.home == Path.home() / "somewhere"
    assert settings.database_url == "postgresql://db/gkd"
    assert settings.artifacts_url == Path("/srv/models of gkd")
    assert settings.data_roots == (Path("/data"), Path("/more"))


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("s3://models", "s3://models"),
        ("s3://my.models-2/of/gkd_1/", "s3://my.models-2/of/gkd_1"),
        ("/srv/models", Path("/srv/models")),
    ],
)
def test_published_files_lie_in_a_folder_or_a_bucket(
    monkeypatch: pytest.MonkeyPatch, given: str, place: object
) -> None:
    monkeypatch.setenv("GKD_ARTIFACTS_URL", given)
    assert Settings().artifacts_url == place


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GKD_BROKER_URL", "")
    monkeypatch.setenv("GKD_GPUS", "")
    assert (Settings().broker_url, Settings().gpus) == ("memory://", None)


def test_jobs_read_under_the_current_folder_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings().data_roots == (tmp_path,)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("GKD_ARTIFACTS_URL", "gs://bucket", "not gs://"),
        ("GKD_ARTIFACTS_URL", "s3://", "needs s3://BUCKET"),
        ("GKD_ARTIFACTS_URL", "s3://key:secret@bucket", "AWS_... variables$"),
        ("GKD_ARTIFACTS_URL", "s3://bucket/../other", "needs s3://BUCKET"),
        ("GKD_DATA_ROOTS", os.pathsep, "at least one folder"),
        ("GKD_LEASE_SECONDS", "15", "renew_seconds 10 must be at most half of lease_seconds 15"),
        ("GKD_MAX_ATTEMPTS", "0", "greater than or equal to 1"),
        ("GKD_DATABASE_URL", "mysql://u:secret@h/x", "got 'mysql'$"),
        ("GKD_DATABASE_URL", "gkd.db", "needs sqlite:///FILE or postgresql://"),
        ("GKD_BROKER_URL", "amqp://u:secret@h", "got 'amqp'$"),
        ("GKD_PORT", "70000", "less than or equal to 65535"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert re.search(message, caught.value.errors()[0]["msg"])


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


@pytest.mark.parametrize(
    ("given", "gpus"),
    [("2", 2), ("0", 0), ("0,3", ("0", "3")), ("1,", ("1",)), ("GPU-5a, MIG-7/1/0", ("GPU-5a", "MIG-7/1/0"))],
)
def test_gpus_are_a_count_or_a_list(monkeypatch: pytest.MonkeyPatch, given: str, gpus: object) -> None:
    monkeypatch.setenv("GKD_GPUS", given)
    assert Settings().gpus == gpus


@pytest.mark.parametrize("given", ["-1", "all", "0,0", "0;1"])
def test_what_names_no_gpu_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("GKD_GPUS", given)
    with pytest.raises(ValidationError, match="gpus"):
        Settings()


def test_a_worker_may_be_told_its_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GKD_QUEUES", "gpu2, gpu")
    assert Settings().queues == ("gpu2", "gpu")
    monkeypatch.setenv("GKD_QUEUES", "gpu,fast")
    with pytest.raises(ValidationError, match="cpu, gpu, gpu2"):
        Settings()


def test_the_service_may_be_told_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().allowed_hosts is None
    monkeypatch.setenv("GKD_ALLOWED_HOSTS", "GKD.example.org, 10.0.0.7")
    assert Settings().allowed_hosts == ("gkd.example.org", "10.0.0.7")
    for wrong in ("https://gkd.example.org", "gkd.example.org:8000", "*"):
        monkeypatch.setenv("GKD_ALLOWED_HOSTS", wrong)
        with pytest.raises(ValidationError, match="host names without port"):
            Settings()


def test_sizes_and_policies_are_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GKD_FREE_BYTES", "5GiB")
    assert (Settings().free_bytes, Settings().keep_states) == (5 * 1024**3, "ended")
    monkeypatch.setenv("GKD_KEEP_STATES", "7.5")
    assert Settings().keep_states == 7.5
    for wrong in ("often", "-1", "inf", "nan"):
        monkeypatch.setenv("GKD_KEEP_STATES", wrong)
        with pytest.raises(ValidationError, match="keep_states"):
            Settings()


def test_a_cancelled_jobs_process_is_gone_within_a_minute_unless_somebody_chose_otherwise() -> None:
    settings = Settings()
    longest_to_hear, looks = settings.renew_seconds, 1.0
    assert longest_to_hear + 2 * settings.stop_seconds + looks < 60
