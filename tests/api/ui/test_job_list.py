"""The list of jobs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gkd_core.errors import Failure, FailureClass


def names(text: str) -> list[str]:
    """Return the ids of the jobs of a page, in order."""
    return re.findall(r'<td class="c-n"><a href="/ui/jobs/(\w+)">', text)


@pytest.fixture
def submit(service, train_spec: dict[str, Any]):
    """Return a function that submits a job and returns its id."""

    def submit(name: str = "", **fields: Any) -> str:
        return str(service.submit(train_spec | {"name": name} | fields)["id"])

    return submit


def test_without_jobs_it_says_how_to_submit_one(browser, service):
    text = browser.get("/ui/jobs").text
    assert "No jobs yet" in text
    assert f"gkd submit --url {service.http.base_url}".rstrip("/") in text


def test_open_jobs_come_first_as_they_will_run_and_ended_ones_newest_first(browser, service, submit):
    old, ended, later, urgent, running = submit(), submit(), submit(), submit(priority=9), submit()
    for job_id in (old, ended):
        service.store.submission.cancel_requested(job_id)
    service.claim(running)
    text = browser.get("/ui/jobs").text
    assert names(text) == [running, urgent, later, ended, old]
    assert "Ended" in text


def test_a_state_is_said_in_words_with_its_reason(browser, service, submit):
    waits, fails = submit("waits"), submit("fails")
    failure = Failure(failure_class=FailureClass.OUT_OF_MEMORY, message="memory ran out", hint="Try less.")
    service.store.commands.fail(service.claim(fails), failure)
    text = browser.get("/ui/jobs").text
    assert "memory ran out Try less." in text
    assert "Next, waiting for a worker" in text
    assert re.search(r"1 waits, the oldest for \d+ s</a>; <a [^>]+>1 failed</a>\.", text)
    assert names(browser.get("/ui/jobs?state=failed").text) == [fails]
    assert names(browser.get("/ui/jobs?state=queued").text) == [waits]


def test_a_running_job_shows_how_far_it_is_and_its_ap(browser, running):
    text = browser.get("/ui/jobs").text
    assert "Epoch 2 of 2" in text
    assert '<rect class="done" width="100.0%"' in text
    assert "<b>25.0</b>" in text


def test_jobs_are_found_by_name_tag_kind_and_the_beginning_of_their_id(browser, submit):
    found = submit("cells-1", tags={"team": "lab"})
    submit("other", tags={"team": "shop"})
    for query in ("q=cell", "q=CELLS", "q=team:lab", "kind=train&q=s-1", f"q={found[:8]}"):
        assert names(browser.get(f"/ui/jobs?{query}").text) == [found], query


def test_what_no_job_is_like_is_said_so(browser, submit):
    submit("plain")
    for query in ("q=%25", "q=_", "q=%00", "q=nothing", "kind=export", "q=%5C"):
        text = browser.get(f"/ui/jobs?{query}").text
        assert (names(text), "No job is like that" in text) == ([], True), query


def test_long_lists_have_pages(browser, service, submit, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("api.ui.job_list.A_PAGE", 2)
    ids = [submit() for _ in range(3)]
    for job_id in ids:
        service.store.submission.cancel_requested(job_id)
    first = browser.get("/ui/jobs?kind=train").text
    [following] = re.findall(r'href="([^"]+)" rel="next"', first)
    second = browser.get(following.replace("&amp;", "&")).text
    assert names(first) + names(second) == ids[::-1]
    assert 'rel="next"' not in second
    assert "kind=train" in following


def test_counts_end_where_counting_would_take_long(browser, submit, monkeypatch: pytest.MonkeyPatch):
    for module in ("jobs.store.overview", "api.ui.job_list"):
        monkeypatch.setattr(f"{module}.COUNTED", 2)
    for _ in range(3):
        submit()
    text = browser.get("/ui/jobs").text
    assert "Queued <small>1+</small>" in text
    assert "1+ wait" in text


def test_another_tenants_jobs_are_not_there(browser, service, make_key, train_spec):
    theirs = {"Authorization": f"Bearer {make_key(tenant='theirs')}"}
    service.submit(train_spec | {"name": "secret"}, **theirs)
    browser.log_in(make_key(tenant="ours"))
    for query in ("", "?q=secret", "?state=queued"):
        text = browser.get(f"/ui/jobs{query}").text
        assert names(text) == []
    text = browser.get("/ui/jobs").text
    assert ("No jobs yet" in text, "secret" in text) == (True, False), "not even their number"
