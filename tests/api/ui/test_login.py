"""Sessions: which browsers are let in, and for how long."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from api.auth import SESSION_COOKIE
from api.ui.session import local_path
from jobs.store.tables import keys


def test_the_address_of_the_service_leads_to_the_jobs(browser):
    assert browser.get("/").headers["Location"] == browser.get("/ui").headers["Location"] == "/ui/jobs"
    assert browser.get("/").status_code == 303


def test_without_keys_nobody_has_to_log_in(browser):
    assert browser.get("/ui/jobs").status_code == 200
    assert browser.get("/ui/login").headers["Location"] == "/ui/jobs"


def test_who_has_no_key_is_led_to_the_login_and_from_there_back(browser, make_key):
    key = make_key()
    answer = browser.get("/ui/jobs?state=failed")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/ui/login?to=/ui/jobs%3Fstate%3Dfailed"
    assert browser.log_in(key, to="/ui/jobs?state=failed").headers["Location"] == "/ui/jobs?state=failed"
    assert browser.get("/ui/jobs").status_code == 200


def test_the_session_is_kept_from_scripts_and_from_other_sites(browser, make_key):
    cookie = browser.log_in(make_key()).headers["Set-Cookie"]
    assert cookie.startswith(f"{SESSION_COOKIE}=")
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert parts == {"httponly", "samesite=strict", "path=/ui"}, (
        "without TLS, and until the browser is closed"
    )


@pytest.mark.parametrize("headers", [{"Origin": "https://127.0.0.1"}, {"X-Forwarded-Proto": "https"}])
def test_behind_tls_the_session_is_sent_over_tls_only(browser, make_key, headers: dict[str, str]):
    key = make_key()
    fields = {"token": browser.token(), "key": key}
    if "Origin" in headers:
        headers |= {"Origin": f"https://{browser.http.base_url.netloc.decode()}"}
    answer = browser.http.post("/ui/login", data=fields, headers=headers)
    assert answer.status_code == 303
    assert "Secure" in answer.headers["Set-Cookie"]


@pytest.mark.parametrize("end", ["revoked", "expired", "logged out"])
def test_a_session_ends_with_its_key(browser, service, make_key, end: str):
    make_key()
    assert browser.log_in(make_key()).status_code == 303
    assert browser.get("/ui/jobs").status_code == 200
    if end == "revoked":
        for key in service.store.keys.list_keys():
            service.store.keys.revoke_key(key.id)
    elif end == "expired":
        with service.store.database.write() as connection:
            connection.execute(update(keys).values(expires_at=1.0))
    else:
        assert browser.post("/ui/logout", "/ui/jobs").headers["Location"] == "/ui/login"
    assert browser.get("/ui/jobs").headers["Location"].startswith("/ui/login")


def test_a_wrong_key_gets_no_session(browser, make_key):
    make_key()
    for key in ("", "gkd_0_0", "ä\n;", "gkd_" + "0" * 12 + "_" + "A" * 43):
        answer = browser.log_in(key)
        assert (answer.status_code, SESSION_COOKIE in answer.headers.get("Set-Cookie", "")) == (401, False)
        assert "unknown, expired or revoked" in answer.text, key


def test_a_key_that_may_not_read_gets_no_session(browser, make_key):
    answer = browser.log_in(make_key("metrics"))
    assert (answer.status_code, "lacks the scope read" in answer.text) == (403, True)


def test_a_session_opens_pages_and_nothing_else(browser, make_key):
    browser.log_in(make_key())
    session = browser.http.cookies[SESSION_COOKIE]
    assert browser.http.get("/jobs", headers={"Cookie": f"{SESSION_COOKIE}={session}"}).status_code == 401


def test_a_key_in_a_header_opens_pages_too(browser, make_key):
    assert browser.get("/ui/jobs", Authorization=f"Bearer {make_key()}").status_code == 200


def test_a_session_of_another_service_on_this_machine_locks_nobody_out(browser):
    browser.http.cookies.set(SESSION_COOKIE, "gkd_old", "127.0.0.1", "/ui")
    led = browser.get(browser.get("/ui/jobs").headers["Location"])
    assert (led.status_code, led.headers["Location"]) == (303, "/ui/jobs")
    assert browser.get("/ui/jobs").status_code == 200


def test_a_link_from_another_site_keeps_the_session(browser, make_key):
    """A browser sends no strict cookie with it, so it is led through a page of this service."""
    browser.log_in(make_key())
    session = browser.http.cookies[SESSION_COOKIE]
    browser.http.cookies.delete(SESSION_COOKIE)
    answer = browser.get("/ui/jobs", **{"Sec-Fetch-Site": "cross-site"})
    assert 'content="0;url=/ui/login?to=/ui/jobs"' in answer.text
    browser.http.cookies.set(SESSION_COOKIE, session, path="/ui")
    assert browser.get("/ui/login?to=/ui/jobs").headers["Location"] == "/ui/jobs"


@pytest.mark.parametrize(
    "to", ["https://evil.example", "//evil.example", "/ui/\\evil", "javascript:1", "/jobs", "/ui/a\r\nb: c"]
)
def test_the_login_leads_nowhere_else(to: str):
    assert local_path(to) == "/ui/jobs"


def test_the_theme_is_remembered(browser):
    assert "data-theme" not in browser.get("/ui/jobs").text
    answer = browser.post("/ui/theme", "/ui/jobs", theme="dark", to="/ui/jobs?q=x")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/ui/jobs?q=x")
    assert '<html lang="en" data-theme="dark">' in browser.get("/ui/jobs").text


def test_who_may_only_read_can_log_out_and_choose_a_theme(browser, make_key):
    browser.log_in(make_key("read"))
    assert browser.post("/ui/theme", "/ui/jobs", theme="light").status_code == 303
    assert browser.post("/ui/logout", "/ui/jobs").status_code == 303
