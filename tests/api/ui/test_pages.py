"""What holds for each page: its headers, its independence of scripts, and that names are text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from api.auth import SESSION_COOKIE
from api.ui.static_files import address

POLICY = {
    "default-src": "'none'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
    **{f"{kind}-src": "'self'" for kind in ("script", "style", "img", "connect", "font")},
}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
VOID = {"meta", "link", "input", "img", "br", "hr"}


class Page(HTMLParser):
    """The elements of a page. Elements that are not closed in order are errors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{tag} is closed where it is not open"

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture
def pages(running: str) -> list[str]:
    """Return the address of each page, with a job that runs."""
    job = f"/ui/jobs/{running}"
    lists = ["/ui/jobs", "/ui/new", f"{job}/clone", "/ui/datasets", "/ui/models", "/ui/workers"]
    return [*lists, job, f"{job}?metric=AP50", "/ui/jobs/none", "/ui/none", "/ui/models/none"]


def test_each_page_has_the_strict_policy_and_no_other(browser, pages):
    for path in pages:
        answer = browser.get(path)
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8", path
        [policy] = answer.headers.get_list("Content-Security-Policy")
        assert dict(rule.split(" ", 1) for rule in policy.split("; ")) == POLICY, path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Frame-Options"] == "DENY"


def test_each_page_keeps_to_that_policy_and_needs_no_script(browser, pages):
    for path in pages:
        page = Page(browser.get(path).text)
        assert page.of("script") == [{"type": "module", "src": address("gkd.js")}], path
        assert page.of("style") == [], path
        for tag, attrs in page.elements:
            assert not [name for name in attrs if name == "style" or name.startswith("on")], (path, tag)
            for name in ("href", "src", "action"):
                assert (attrs.get(name) or "/")[0] in "/?#", (path, tag, attrs)


def test_each_control_has_a_name_and_each_id_is_used_once(browser, pages):
    for path in pages:
        page = Page(browser.get(path).text)
        ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
        assert len(ids) == len(set(ids)), path
        labelled = {attrs.get("for") for attrs in page.of("label")}
        shown = (
            [each for each in page.of("input") if each.get("type") != "hidden"]
            + page.of("select")
            + page.of("textarea")
        )
        unnamed = [each for each in shown if each.get("id") not in labelled and not each.get("aria-label")]
        assert unnamed == [], path
        for picture in page.of("svg"):
            inside = not {"role", "aria-hidden"} & set(picture)
            assert inside or picture.get("aria-hidden") or picture.get("aria-label"), (path, picture)


def test_each_form_that_changes_something_carries_a_token(browser, pages):
    for path in pages:
        text = browser.get(path).text
        forms = re.findall(r'<form method="post".*?</form>', text, re.DOTALL)
        assert forms, path
        assert all('name="token"' in form for form in forms), path


def test_names_that_users_gave_are_text(browser, service, train_spec):
    spec = train_spec | {"name": HOSTILE, "tags": {"team": HOSTILE}}
    job_id = service.submit(spec)["id"]
    for path in ("/ui/jobs", f"/ui/jobs/{job_id}", "/ui/jobs?q=%3Cscript%3Ealert(1)", "/ui/%3Cscript%3E"):
        text = browser.get(path).text
        assert text.count("<script") == 1, path
        assert "<img src=x" not in text, path
        Page(text)
    assert "&lt;script&gt;alert(1)" in browser.get("/ui/jobs").text


def test_style_is_kept_for_a_year_under_the_hash_of_its_content(browser, make_key):
    make_key()  # it is open to those who are to log in
    [link] = [each for each in Page(browser.get("/ui/login").text).of("link") if each["rel"] == "stylesheet"]
    answer = browser.get(str(link["href"]))
    assert (answer.status_code, link["href"]) == (200, address("gkd.css"))
    assert answer.headers["Content-Type"].startswith("text/css")
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    for wrong in ("/ui/static/0/gkd.css", address("base.html"), address("..%2f__init__.py")):
        assert browser.get(wrong).status_code == 404


def test_pages_are_not_part_of_the_description_of_the_api(service):
    assert not [path for path in service.http.get("/openapi.json").json()["paths"] if path.startswith("/ui")]


def test_the_key_is_on_no_page(browser, make_key, running):
    key = make_key("admin")
    browser.log_in(key)
    assert browser.http.cookies[SESSION_COOKIE] == key
    assert key not in browser.get("/ui/jobs").text
