"""The routes of liveness and readiness."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest


def test_a_service_with_all_its_parts_is_ready(service):
    assert service.http.get("/healthz").json() == {"status": "alive"}
    answer = service.http.get("/readyz")
    assert answer.status_code == 200
    assert set(answer.json()["parts"]) == {"database", "broker", "artifacts", "data_roots"}


def test_a_lost_data_root_makes_it_unready_but_not_dead(service, root: Path):
    shutil.rmtree(root)
    answer = service.http.get("/readyz")
    assert answer.status_code == 503
    parts = answer.json()["parts"]
    assert parts["data_roots"].startswith("not ready")
    assert parts["database"] == parts["broker"] == "ready"
    assert service.http.get("/healthz").status_code == 200


def test_without_a_broker_jobs_are_still_taken_in(service_without_broker, train_spec):
    service = service_without_broker
    assert service.submit(train_spec)["state"] == "queued"
    answer = service.http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["broker"].startswith("not ready")


def test_a_part_that_hangs_holds_one_who_asks_and_no_more(service, monkeypatch: pytest.MonkeyPatch):
    assert service.http.get("/readyz").status_code == 200
    asked, goes_on = threading.Event(), threading.Event()

    def hang() -> None:
        asked.set()
        goes_on.wait(30)

    readiness = service.app.state.readiness
    monkeypatch.setitem(readiness._checks, "artifacts", hang)
    first = threading.Thread(target=readiness.check)
    first.start()
    try:
        assert asked.wait(30)
        for _ in range(3):
            service.http.get("/readyz")
        looks = [thread for thread in threading.enumerate() if thread.name == "look at artifacts"]
        assert len(looks) == 1
    finally:
        goes_on.set()
        first.join()
