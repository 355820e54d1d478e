"""Headers of every request and answer, and what is logged of both."""

from __future__ import annotations

import logging
import time

import pytest

from api.routes.reference import POLICY


def test_a_request_id_is_kept_where_it_is_fit_to_be_logged(service):
    assert (
        service.http.get("/healthz", headers={"X-Request-ID": "abc-1.2_3"}).headers["X-Request-ID"]
        == "abc-1.2_3"
    )


@pytest.mark.parametrize("sent", ["", "two words", "x" * 65, "a\tb", "<script>"])
def test_any_other_request_id_is_replaced(service, sent: str):
    seen = service.http.get("/healthz", headers={"X-Request-ID": sent}).headers["X-Request-ID"]
    assert seen != sent
    assert len(seen) == 32


ANSWERS = [("GET", "/jobs", 200), ("GET", "/none", 404), ("PUT", "/jobs", 405), ("GET", "/schema/job", 200)]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
def test_no_browser_runs_frames_guesses_at_or_keeps_an_answer(service, method: str, path: str, status: int):
    answer = service.http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; frame-ancestors 'none'")
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_defect_and_a_refusal_carry_it_too(service, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr(service.store.reading, "get", lambda *_, **__: 1 / 0)
    answers = [service.http.get("/jobs/x"), service.http.get("/jobs", headers={"Host": "evil.example"})]
    answers.append(service.http.post("/jobs", headers={"Sec-Fetch-Site": "cross-site"}))
    assert [answer.status_code for answer in answers] == [500, 403, 403]
    for answer in answers:
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Request-ID"] == answer.json()["request_id"]
    assert caplog.text.count("Traceback") == 1, "told once, by us"


def test_a_route_that_knows_better_keeps_its_own(service, train_spec):
    job = service.submit(train_spec)
    assert service.http.get(f"/jobs/{job['id']}").headers["Cache-Control"] == "no-cache"
    page = service.http.get("/docs").headers
    assert page["Content-Type"].startswith("text/html")
    assert page["Content-Security-Policy"] == POLICY


def told(caplog: pytest.LogCaptureFixture, lines: int = 1) -> list[logging.LogRecord]:
    """Return the logged lines, once there are so many: each is written after its answer was sent."""
    deadline = time.monotonic() + 30
    while len(found := [record for record in caplog.records if record.name == "api.request_log"]) < lines:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def test_each_request_is_one_line_that_says_what_became_of_it(service, train_spec, caplog):
    caplog.set_level(logging.DEBUG, "api.request_log")
    job = service.submit(train_spec)
    told(caplog)
    caplog.clear()
    _, secret = service.store.keys.create_key("default", "k", {"read"})
    sent = {"Authorization": f"Bearer {secret.text}"}
    service.http.get(f"/jobs/{job['id']}?wait=0", headers=sent)
    service.http.get("/jobs", headers={"Authorization": "Bearer wrong"})
    service.http.get("/none", headers=sent)
    assert [
        (line.method, line.route, line.status, line.key_id, line.job, line.levelname)
        for line in told(caplog, 3)
    ] == [
        ("GET", "/jobs/{job_id}", 200, secret.key_id, job["id"], "INFO"),
        ("GET", None, 401, None, None, "INFO"),
        ("GET", None, 404, secret.key_id, None, "INFO"),
    ]
    assert all(line.ms > 0 for line in told(caplog))
    assert secret.text not in caplog.text


def test_those_who_watch_over_us_are_no_news(service, caplog):
    caplog.set_level(logging.DEBUG, "api.request_log")
    service.http.get("/healthz")
    assert [line.levelname for line in told(caplog)] == ["DEBUG"]


def test_a_path_is_logged_as_it_was_sent(service, caplog):
    caplog.set_level(logging.INFO, "api.request_log")
    service.http.get("/none%0AERROR%1b[31m")
    assert [line.getMessage() for line in told(caplog)] == ["GET /none%0AERROR%1b[31m 404"]
