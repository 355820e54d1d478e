"""Forms that change a job."""

from __future__ import annotations

import re


def test_a_form_without_the_right_token_changes_nothing(browser, service, running):
    browser.get(f"/ui/jobs/{running}")
    for fields in ({}, {"token": ""}, {"token": "0" * 64}, {"token": "ä"}):
        answer = browser.http.post(f"/ui/jobs/{running}/cancel", data=fields)
        assert (answer.status_code, "not sent from a current page" in answer.text) == (403, True), fields
    assert service.store.reading.get(running).desired == "run"


def test_a_token_is_good_for_one_browser_and_one_session_only(browser, service, make_key, running):
    key = make_key("read", "write", tenant="default")
    browser.log_in(key)
    before = browser.token("/ui/jobs")
    browser.post("/ui/logout", "/ui/jobs")
    browser.log_in(make_key("read", "write", tenant="default"))
    answer = browser.http.post(f"/ui/jobs/{running}/cancel", data={"token": before})
    assert answer.status_code == 403
    browser.http.cookies.delete("gkd_form")
    answer = browser.http.post(f"/ui/jobs/{running}/cancel", data={"token": before})
    assert answer.status_code == 403
    assert service.store.reading.get(running).desired == "run"


def test_a_form_of_another_site_changes_nothing_even_with_a_token(browser, service, running):
    fields = {"token": browser.token(f"/ui/jobs/{running}")}
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        answer = browser.http.post(f"/ui/jobs/{running}/cancel", data=fields, headers=headers)
        assert answer.status_code == 403, headers
    assert service.store.reading.get(running).desired == "run"


def test_actions_do_what_the_routes_of_the_api_do(browser, service, running):
    page = f"/ui/jobs/{running}"
    for action, desired in (("pause", "pause"), ("resume", "run"), ("cancel", "cancel")):
        answer = browser.post(f"{page}/{action}", page)
        assert (answer.status_code, answer.headers["Location"]) == (303, page)
        assert service.store.reading.get(running).desired == desired


def test_retrying_twice_with_one_form_makes_one_job(browser, service, train_spec):
    job_id = service.submit(train_spec)["id"]
    service.store.submission.cancel_requested(job_id)
    page = f"/ui/jobs/{job_id}"
    once = re.search(r'name="once" value="(\w+)"', browser.get(page).text)
    assert once
    led = {browser.post(f"{page}/retry", page, once=once[1]).headers["Location"] for _ in range(2)}
    assert len(led) == 1
    assert service.store.reading.get(led.pop().rpartition("/")[2]).retry_of == job_id


def test_deleting_leads_to_the_list(browser, service, train_spec):
    job_id = service.submit(train_spec)["id"]
    service.store.submission.cancel_requested(job_id)
    page = f"/ui/jobs/{job_id}"
    assert "Delete the job" in browser.get(page).text, "what is lost is said first"
    assert browser.post(f"{page}/delete", page).headers["Location"] == "/ui/jobs"
    assert browser.get(page).status_code == 404


def test_what_the_state_does_not_allow_is_not_offered_and_refused(browser, running):
    page = f"/ui/jobs/{running}"
    assert f"{page}/delete" not in browser.get(page).text
    answer = browser.post(f"{page}/delete", page)
    assert (answer.status_code, "it is running" in answer.text) == (409, True)
    assert f'href="{page}">Load again' in answer.text
    assert browser.post(f"{page}/explode", page).status_code == 422


def test_who_may_only_read_is_offered_nothing_and_refused(browser, make_key, running):
    browser.log_in(make_key("read", tenant="default"))
    page = f"/ui/jobs/{running}"
    assert f"{page}/cancel" not in browser.get(page).text
    answer = browser.post(f"{page}/cancel", page)
    assert (answer.status_code, "lacks the scope write" in answer.text) == (403, True)


def test_another_tenants_job_cannot_be_touched(browser, service, make_key, running):
    browser.log_in(make_key(tenant="ours"))
    for action in ("cancel", "pause", "resume", "retry", "clone", "delete"):
        assert browser.post(f"/ui/jobs/{running}/{action}", "/ui/jobs").status_code == 404, action
    assert service.store.reading.get(running).desired == "run"
