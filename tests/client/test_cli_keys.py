"""`gkd keys`, `gkd migrate` and `gkd whoami`."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from client.cli import app
from client.client import ApiError, Client
from jobs import keys
from jobs.settings import Settings
from jobs.store.store import Store


@pytest.fixture
def gkd(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs a command on a database of its own."""
    monkeypatch.setenv("GKD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GKD_DATABASE_URL", sqlite_url)

    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return run


def test_a_key_is_printed_once_and_opens_what_it_says(gkd, sqlite_url: str):
    made = gkd(
        "keys", "create", "--name", "ci", "--tenant", "lab", "--scopes", "read, admin", "--expires", "12h"
    )
    secret = made.stdout.strip()
    key_id = keys.id_in(secret)
    assert key_id is not None
    with closing(Store(sqlite_url)) as store:
        admitted = store.keys.admit(key_id, keys.digest(secret))
        (key,) = store.keys.list_keys()
    assert admitted is not None
    assert (admitted.principal.tenant, admitted.principal.scopes) == ("lab", {"read", "admin"})
    assert key.expires_at is not None
    assert (key.expires_at - key.created_at).total_seconds() == pytest.approx(12 * 3600)
    listed = gkd("keys", "list").stdout
    assert key_id in listed
    assert secret.split("_", 2)[2] not in listed


def test_what_programs_read(gkd):
    made = json.loads(gkd("keys", "create", "--name", "ci", "--expires", "never", "--json").stdout)
    assert made["key"]["expires_at"] is None
    assert made["secret"].startswith(f"gkd_{made['key']['id']}_")
    revoked = json.loads(gkd("keys", "revoke", made["key"]["id"], "--json").stdout)
    assert json.loads(gkd("keys", "list", "--json").stdout) == [revoked]
    limits = gkd("keys", "limits", "lab", "--gpu-hours", "1.5", "--running-jobs", "2", "--json")
    assert json.loads(limits.stdout)[0]["limits"]["gpu_hours"] == 1.5
    lifted = json.loads(gkd("keys", "limits", "lab", "--gpu-hours", "none", "--json").stdout)[0]["limits"]
    assert (lifted["gpu_hours"], lifted["running_jobs"]) == (None, 2)
    assert [each["name"] for each in json.loads(gkd("keys", "limits", "--json").stdout)] == ["default", "lab"]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (["create", "--name", "x", "--scopes", "root"], 2),
        (["create", "--name", "x", "--expires", "soon"], 2),
        (["create", "--name", "x", "--expires", "0d"], 2),
        (["create", "--name", "x", "--tenant", "A B"], 1),
        (["revoke", "nobodys"], 1),
        (["limits", "lab", "--running-jobs", "-1"], 2),
        (["limits", "lab", "--requests-per-minute", "0"], 2),
        (["limits", "--running-jobs", "1"], 2),
    ],
)
def test_what_cannot_be_done_is_said(gkd, wrong: list[str], code: int):
    assert gkd("keys", *wrong, code=code).stderr
    assert json.loads(gkd("keys", "list", "--json").stdout) == []


def test_migrating_makes_the_tables_and_may_be_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GKD_HOME", str(tmp_path / "home"))
    for _ in range(2):
        assert CliRunner().invoke(app, ["migrate"]).exit_code == 0
    with closing(Store(Settings().database_url)) as store:
        assert store.reading.list_jobs().items == ()


def test_the_command_and_the_client_send_their_key(serve, data: Path, tmp_path: Path, port: int, monkeypatch):
    url, admin = f"http://127.0.0.1:{port}", "an-admin-key-of-at-least-32-characters"
    monkeypatch.setenv("GKD_URL", url)
    with serve(tmp_path / "home", data, port, GKD_ADMIN_KEY=admin), Client(url, api_key=admin) as client:
        refused = CliRunner().invoke(app, ["jobs"])
        assert refused.exit_code == 1
        assert "Authorization: Bearer" in refused.stderr
        key, secret = client.create_key("ci", tenant="lab", scopes=("read",))
        monkeypatch.setenv("GKD_API_KEY", secret)
        whoami = CliRunner().invoke(app, ["whoami"])
        assert f"key {key.id}: read" in whoami.stdout
        with Client(url) as ours, pytest.raises(ApiError) as error:
            ours.list_keys()
        assert error.value.code == "missing_scope"
        assert client.revoke_key(key.id).revoked_at
        assert [each.id for each in client.list_keys()] == [key.id]
