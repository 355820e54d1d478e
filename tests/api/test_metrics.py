"""The metrics for Prometheus."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api import metrics
from jobs import metrics as job_metrics
from jobs.errors import StoreUnavailable
from jobs.job import State


@pytest.fixture
def told(service):
    """Return a function that reads the metrics, by name and labels."""

    def ask(headers: dict[str, str] | None = None) -> dict[Any, float]:
        answer = service.http.get("/metrics", headers=headers or {})
        assert answer.status_code == 200, answer.text
        families = text_string_to_metric_families(answer.text)
        samples = [sample for family in families for sample in family.samples]
        return {(each.name, *sorted(each.labels.values())): each.value for each in samples}

    return ask


def test_the_page_lists_every_number_and_no_other(service):
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    rows = re.findall(r"^\| `(gkd_\w+)` \| (\w+) \|([^|]*)\|", page, re.MULTILINE)
    listed = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    text = service.http.get("/metrics").text
    found = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    created = {name for name in found if name.endswith("_created")}
    assert {name: kind for name, (kind, _) in listed.items()} == {n: found[n] for n in found.keys() - created}
    for count in job_metrics.COUNTS:
        name = count.name if count.bounds else f"{count.name}_total"
        assert listed[name][1] == set(count.labels)


def test_a_service_without_jobs_tells_zeros(service, told):
    found = told()
    assert found["gkd_published_bytes",] == found["gkd_followers",] == 0
    assert {found["gkd_jobs", *sorted((state.value, "cpu"))] for state in State} == {0}
    assert found["gkd_workers", "lost"] == found["gkd_queue_oldest_seconds", "gpu"] == 0
    assert found["gkd_sweeps_total",] == 0


def test_jobs_are_told_as_the_database_knows_them(service, told, train_spec):
    jobs = [service.submit(train_spec)["id"] for _ in range(3)]
    service.store.commands.succeed(service.claim(jobs[0]))
    service.claim(jobs[1])
    found = told()
    assert [found["gkd_jobs", *sorted(("cpu", state))] for state in ("queued", "running", "succeeded")] == [
        1,
        1,
        1,
    ]
    assert found["gkd_jobs_submitted_total", "train"] == 3
    assert found["gkd_jobs_ended_total", "succeeded", "train"] == 1
    assert found["gkd_queue_seconds_count", "cpu"] == 2
    assert found["gkd_queue_seconds_bucket", "+Inf", "cpu"] == 2
    assert found["gkd_queue_seconds_bucket", "60.0", "cpu"] == 2
    assert found["gkd_attempt_seconds_count", "succeeded", "train"] == 1
    assert found["gkd_attempt_seconds_sum", "succeeded", "train"] >= 0


def test_requests_are_told_by_route_and_not_by_path(service, told, train_spec):
    job = service.submit(train_spec)
    for path in (job["id"], "none", "neither"):
        service.http.get(f"/jobs/{path}")
    service.http.get("/no/such/route")
    service.http.request("BREW", "/jobs")
    found = told()
    assert found["gkd_http_requests_total", "/jobs/{job_id}", "200", "GET"] == 1
    assert found["gkd_http_requests_total", "/jobs/{job_id}", "404", "GET"] == 2
    assert found["gkd_http_requests_total", "404", "GET", "none"] == 1
    assert [name for name in found if "BREW" in name or "no/such" in "".join(name)] == []
    assert found["gkd_http_request_seconds_count", "/jobs/{job_id}", "GET"] == 3


def test_who_follows_a_job_is_counted_while_he_does(service, told, train_spec):
    job = service.submit(train_spec)
    with service.http.stream("GET", f"/jobs/{job['id']}/stream") as stream:
        lines = stream.iter_lines()  # kept: the connection is closed when it is collected
        next(line for line in lines if line.startswith("id:"))
        assert told()["gkd_followers",] == 1


def test_the_database_is_looked_at_once_in_a_while(
    service, told, monkeypatch: pytest.MonkeyPatch, train_spec
):
    looks: list[int] = []
    look = service.store.metrics.figures
    monkeypatch.setattr(service.store.metrics, "figures", lambda: looks.append(1) or look())
    fresh = metrics._Fresh(service.store.metrics.figures, 60.0)
    assert fresh() is fresh()
    assert looks == [1]


def test_while_the_database_is_away_there_are_no_numbers_rather_than_old_ones(service, monkeypatch):
    def away(_: object) -> None:
        raise StoreUnavailable(OSError("refused"))

    monkeypatch.setattr(metrics._OfTheStore, "collect", away)
    assert service.http.get("/metrics").status_code == 503


@pytest.mark.parametrize(
    ("scope", "status"), [("metrics", 200), ("admin", 200), ("read", 403), ("write", 403)]
)
def test_a_key_for_numbers_opens_them_and_nothing_else(service, scope: str, status: int):
    _, secret = service.store.keys.create_key("lab", "prometheus", {scope})
    headers = {"Authorization": f"Bearer {secret.text}"}
    assert service.http.get("/metrics", headers=headers).status_code == status
    assert service.http.get("/metrics").status_code == 401
    if scope == "metrics":
        for path in ("/jobs", "/workers", "/whoami", "/keys"):
            assert service.http.get(path, headers=headers).status_code == 403
