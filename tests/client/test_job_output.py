"""What commands about jobs print, and with which exit code watching one ends."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from client.job_output import print_check, print_new, watch_to_its_end
from gkd_core.errors import FailureClass
from jobs.job import Job, State

JOB = Job.model_validate(
    {
        "id": "j", "name": "cells", "kind": "train", "state": "queued", "desired": "run", "reason": "waits",
        "priority": 5, "tags": {}, "queue": "cpu", "attempt": 1, "worker": None, "lease_until": None,
        "created_at": "2026-01-01T00:00:00Z", "started_at": None, "finished_at": None, "waits_for": [], "spec": {},
        "resolved": {}, "progress": None, "evaluation": None, "failure": None, "attempts": [],
        "warnings": ["3 boxes have no area"],
    }
)  # fmt: skip


def service(**changes: Any) -> Any:
    """Return a client that knows one job, whose events were all read."""
    job = JOB.model_copy(update=changes)
    return SimpleNamespace(events=lambda job_id: iter(()), job=lambda job_id: job)


def test_a_new_job_is_printed_with_its_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    print_new(service(), JOB, follow=False, as_json=False)
    assert capsys.readouterr().out.splitlines() == ["j  cells: waits", "warning: 3 boxes have no area"]


def test_json_is_the_whole_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_new(service(), JOB, follow=False, as_json=True)
    assert json.loads(capsys.readouterr().out)["warnings"] == ["3 boxes have no area"]
    print_check({"config": {}}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"config": {}}


def test_watching_ends_well_only_where_the_job_does(capsys: pytest.CaptureFixture[str]) -> None:
    watch_to_its_end(service(state=State.SUCCEEDED), "j", as_json=True)
    failure = SimpleNamespace(failure_class=FailureClass.DIVERGED, message="a loss is NaN", hint="Lower it.")
    with pytest.raises(typer.Exit) as caught:
        watch_to_its_end(service(state=State.FAILED, failure=failure), "j", as_json=True)
    assert caught.value.exit_code == 1
    assert "a loss is NaN\nhint: Lower it." in capsys.readouterr().err
