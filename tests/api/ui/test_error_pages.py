"""Errors as people see them: what is wrong, what to do, and the id to ask about."""

from __future__ import annotations

import pytest

from jobs.store.store import StoreUnavailable


def test_an_error_says_what_is_wrong_and_carries_its_request_id(browser):
    answer = browser.get("/ui/jobs/nosuchjob")
    assert answer.status_code == 404
    assert "There is no job &#39;nosuchjob&#39;" in answer.text
    assert answer.headers["X-Request-ID"] in answer.text
    assert 'href="/ui/jobs"' in answer.text


def test_programs_still_get_problem_details(service):
    answer = service.http.get("/jobs/nosuchjob")
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_wrong_filter_is_explained(browser):
    for query in ("state=x", "kind=x", "after=x", "state=running&after=AAAA"):
        answer = browser.get(f"/ui/jobs?{query}")
        assert (answer.status_code, answer.headers["Content-Type"]) == (422, "text/html; charset=utf-8")
        assert "<code>query." in answer.text, query


def test_a_page_whose_database_is_away_asks_again_by_itself(
    browser, service, monkeypatch: pytest.MonkeyPatch
):
    def away(**_: object) -> None:
        raise StoreUnavailable(OSError("no route to db.internal"))

    monkeypatch.setattr(service.store.overview, "counts", away)
    answer = browser.get("/ui/jobs")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert '<meta http-equiv="refresh" content="5">' in answer.text
    assert "db.internal" not in answer.text


def test_a_defect_is_a_page_too(browser, service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service.store.overview, "counts", lambda **_: 1 / 0)
    answer = browser.get("/ui/jobs")
    assert (answer.status_code, "A defect of GKD" in answer.text) == (500, True)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
