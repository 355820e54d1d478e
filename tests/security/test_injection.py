"""Text from others stays text, wherever it is shown: in headers, in logs, in a terminal, on a page."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from client import show_jobs, terminal
from client.follow import follow
from gkd_core.events import Progress, Warning
from jobs import logs
from jobs.job import Artifact, StoredEvent

SCRIPT = "<script>alert(1)</script>"

LINES = [
    "a\r\nSet-Cookie: x=1",
    "a\nb",
    "a\rb",
    "a\u2028b",
    "a\x85b",
    "a\x00b",
    "\x1b[2J\x1b[31m",
    "\u202egnp.exe",
    "\x9b2J",
]
"""Characters that end a line for some program, or that a terminal interprets."""


# ---- headers ----


@pytest.mark.parametrize("name", LINES)
def test_nothing_that_ends_a_line_is_a_name_or_a_tag(send, train_spec, name: str):
    for field in ({"name": name}, {"tags": {"team": name}}, {"tags": {name: "x"}}):
        answer = send("/jobs", train_spec | field)
        assert answer.status_code == 422, field


@pytest.mark.parametrize(
    "name", ['a"b.svg', "a;b.svg", "größe 😀.svg", "a%0d%0ab.svg", SCRIPT.replace("/", "-"), "..."]
)
def test_a_download_is_named_in_its_header_and_ends_no_line_of_it(service, train_spec, publish, name: str):
    from urllib.parse import quote

    url = publish(service, service.claim(service.submit(train_spec)["id"]), name, b"<svg onload=alert(1)/>")
    answer = service.http.get(f"{url}/{quote(name, safe='')}")
    assert answer.status_code == 200, answer.text
    told = answer.headers["Content-Disposition"]
    assert told.startswith("attachment; filename")
    assert told.isascii()
    assert told.count('"') in (0, 2)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("sent", ["a%0d%0aX-Evil:%201", "%0d%0a%0d%0a<script>", "%E2%80%A8"])
def test_no_path_ends_up_in_a_header(service, sent: str):
    for path in (f"/jobs/{sent}", f"/jobs/{sent}/retry", f"/{sent}"):
        for method in ("GET", "POST", "DELETE"):
            answer = service.http.request(method, path)
            assert "X-Evil" not in answer.headers
            assert "evil" not in str(answer.headers).lower()


# ---- pages ----


def test_every_answer_says_what_it_is_and_that_it_is_nothing_else(service, train_spec):
    """Name a job <script>: browsers do not render JSON that is declared as JSON with `nosniff`."""
    job = service.submit(train_spec | {"name": SCRIPT, "tags": {"team": SCRIPT}})
    paths = [
        "/jobs",
        f"/jobs/{job['id']}",
        f"/jobs/{job['id']}/events",
        f"/jobs/{SCRIPT}",
        "/schema/job",
        "/whoami",
    ]
    for path in [
        *paths,
        f"/jobs/{job['id']}/log",
        f"/jobs/{job['id']}/stream?wait=0",
        f"/{SCRIPT}",
        "/readyz",
    ]:
        answer = service.http.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        media_type = answer.headers["Content-Type"].partition(";")[0]
        assert media_type in (
            "application/json",
            "application/problem+json",
            "text/plain",
            "text/event-stream",
        ), path


@pytest.mark.parametrize("path", ["/docs"])
def test_the_only_page_shows_nothing_of_jobs_or_of_the_request(service, train_spec, path: str):
    before = service.http.get(path).text
    service.submit(train_spec | {"name": SCRIPT})
    after = service.http.get(f"{path}?x={SCRIPT}&url=//evil.example", headers={"X-Forwarded-Prefix": SCRIPT})
    assert after.text == before
    assert after.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("name", ["page.html", "image.svg", "page.xhtml", "x.js"])
def test_a_published_page_is_saved_and_not_shown(service, train_spec, publish, name: str):
    url = publish(service, service.claim(service.submit(train_spec)["id"]), name, SCRIPT.encode())
    answer = service.http.get(f"{url}/{name}")
    assert answer.headers["Content-Disposition"].startswith("attachment")


# ---- logs ----


@pytest.fixture
def logged(service) -> Iterator[Callable[[str], io.StringIO]]:
    """Yield a function that sets up logging as a process of the service does, and returns its stream."""
    root, hook = logging.getLogger(), threading.excepthook
    handlers, level = root.handlers[:], root.level

    def begin(form: str) -> io.StringIO:
        written = io.StringIO()
        root.handlers.clear()
        logs.configure(service.settings.model_copy(update={"log_format": form}), stream=written)
        return written

    yield begin
    logging.captureWarnings(False)
    threading.excepthook = hook
    root.handlers[:] = handlers
    root.setLevel(level)


FORGED = [f"{end}ERROR forged" for end in ("%0a", "%0d%0a", "%E2%80%A8", "%C2%85", "%0b", "%00")]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("text", [*FORGED, "%1b[2J", "%C2%9b2J"])
def test_no_request_forges_a_line_of_the_log(
    service, logged, monkeypatch: pytest.MonkeyPatch, form: str, text: str
):
    def broken(job_id: str, **_: object) -> None:
        raise RuntimeError(f"it broke at {job_id}")

    monkeypatch.setattr(service.store.reading, "get", broken)
    written = logged(form)
    assert service.http.get(f"/jobs/{text}").status_code == 500
    lines = written.getvalue().splitlines()
    assert [line for line in lines if "it broke" in line]
    assert not [line for line in lines if line.lstrip().startswith("ERROR forged")], lines
    assert not [each for each in written.getvalue() if not each.isprintable() and each != "\n"]


# ---- terminals ----


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Callable[[], str]]:
    """Return a function that replaces the output by a terminal, and returns what is written from then on."""

    def watch() -> Callable[[], str]:
        written = io.StringIO()
        written.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr("sys.stdout", written)
        monkeypatch.setenv("TERM", "xterm-256color")
        return written.getvalue

    return watch


ATTACK = "\x1b]0;title\x07\x1b[2J\x1b[1;1Hok\x9b2J\r\x08\u202eevil [red]no[/red] [link=http://evil]x[/link]"


def obeyed(text: str) -> str:
    """Return the characters that a terminal interprets, without those of rich itself (colours, moves of a bar)."""
    import re

    own = re.sub(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[[0-9]*[AK]|\r", "", text)
    return "".join(each for each in own if not each.isprintable() and each not in "\n\t")


def job(service, train_spec) -> Any:
    made = service.store.reading.get(service.submit(train_spec)["id"])
    return made.model_copy(
        update={"name": ATTACK, "reason": ATTACK, "worker": ATTACK, "tags": {"team": ATTACK}}
    )


def test_no_table_of_ours_obeys_what_others_wrote(
    service, train_spec, screen: Callable[[], Callable[[], str]]
):
    seen, told = job(service, train_spec), screen()
    file = Artifact(name=ATTACK, size=1, sha256=ATTACK, created_at=datetime.now(UTC))
    out = terminal.console()
    assert out.is_terminal
    out.print(show_jobs.jobs_table((seen,)))
    out.print(show_jobs.job_card(seen, (file,)))
    out.print(f"error: {ATTACK}")
    assert obeyed(told()) == ""
    assert "\\u001b" in told()
    assert "[red]no[/red]" in told()
    assert "\x1b]8;" not in told(), "no link either"


def test_no_event_that_is_watched_is_obeyed(screen: Callable[[], Callable[[], str]]):
    events = [
        Warning(message=ATTACK, hint=ATTACK),
        Progress(run=ATTACK, epoch=0, epochs=1, step=1, steps=2, fraction=0.5, losses={ATTACK: 1.0}),
    ]
    when = {"number": 1, "attempt": 1, "time": datetime.now(UTC)}
    moved = StoredEvent(kind="state", body={"state": "failed", "reason": ATTACK}, **when)
    told = screen()
    follow([*events, moved], terminal.console())
    assert "evil" in told()
    assert obeyed(told()) == ""


def test_what_programs_read_is_the_same_text_and_not_obeyed_either(
    service, train_spec, screen: Callable[[], Callable[[], str]]
):
    import json

    seen, told = job(service, train_spec), screen()
    terminal.print_json(seen)
    assert json.loads(told())["name"] == ATTACK
    terminal.print_line(seen)
    assert obeyed(told()) == ""


def test_a_log_goes_to_a_pipe_as_it_is_and_to_a_terminal_as_it_looks(
    screen: Callable[[], Callable[[], str]], monkeypatch: pytest.MonkeyPatch
):
    told = screen()
    terminal.print_text(ATTACK)
    assert "evil" in told()
    assert obeyed(told()) == ""
    pipe = io.StringIO()
    monkeypatch.setattr("sys.stdout", pipe)
    terminal.print_text(ATTACK)
    assert pipe.getvalue() == ATTACK
