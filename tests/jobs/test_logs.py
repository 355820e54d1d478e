"""All logging goes through one handler."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobs import logs
from jobs.keys import new_secret
from jobs.logs import bound, carried
from jobs.settings import Settings

log = logging.getLogger("somewhere")

PASSWORD = "pass word/7"  # it is encoded in a URL
WRITTEN = "pass%20word%2F7"


class Logged(io.StringIO):
    """The stream that all logs are written to."""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def line(self) -> dict[str, Any]:
        [line] = self.lines()
        return line


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """Yield the root logger, restored afterwards."""
    root, hook = logging.getLogger(), threading.excepthook
    handlers, level = list(root.handlers), root.level
    yield root
    logging.captureWarnings(False)
    threading.excepthook = hook
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def configured(root: logging.Logger) -> Callable[..., Logged]:
    def configure(**settings: Any) -> Logged:
        logged = Logged()
        root.handlers.clear()  # pytest's own
        logs.configure(Settings(**settings), stream=logged)
        return logged

    return configure


@pytest.fixture
def logged(configured: Callable[..., Logged]) -> Logged:
    return configured()


def test_away_from_a_terminal_a_line_is_json(logged: Logged):
    log.info("ready after %d s", 3)
    line = logged.line()
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "logger": "somewhere", "message": "ready after 3 s"}


def test_what_a_line_is_about_stands_in_it_and_in_no_later_one(logged: Logged):
    with bound(job="4f1c", request=None), bound(attempt=2):
        log.info("begun")
    log.info("over")
    told = [{name: line.get(name) for name in ("job", "attempt")} for line in logged.lines()]
    assert told == [{"job": "4f1c", "attempt": 2}, {"job": None, "attempt": None}]
    assert "request" not in logged.getvalue()


def test_a_thread_knows_what_it_was_started_for(logged: Logged):
    def act() -> None:
        log.info("renewed")

    with bound(job="4f1c"):
        threads = [threading.Thread(target=carried(act)) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert [line["job"] for line in logged.lines()] == ["4f1c", "4f1c"]


def test_fields_beside_the_message_are_kept(logged: Logged):
    log.info("answered", extra={"status": 200, "route": "/jobs", "who": {"key_id": "k"}})
    line = logged.line()
    assert (line["status"], line["route"], line["who"]) == (200, "/jobs", {"key_id": "k"})


def test_a_traceback_is_part_of_its_line(logged: Logged):
    try:
        raise ValueError("no\nnonsense")
    except ValueError:
        log.exception("failed")
    assert "Traceback" in logged.line()["exception"]
    assert "no\nnonsense" in logged.line()["exception"]


def test_warnings_and_threads_that_die_go_the_same_way(logged: Logged):
    def die() -> None:
        raise ValueError("of old age")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)  # pytest took it away
        warnings.warn("deprecated", stacklevel=1)
    thread = threading.Thread(target=die)
    thread.start()
    thread.join()
    warned, died = logged.lines()
    assert "deprecated" in warned["message"]
    assert "of old age" in died["exception"]


def test_libraries_speak_up_only_when_something_is_wrong(logged: Logged):
    for name in ("celery.worker", "kombu", "uvicorn.error", "alembic.runtime"):
        logging.getLogger(name).info("hello")
        logging.getLogger(name).warning("trouble")
    assert [line["message"] for line in logged.lines()] == ["trouble"] * 4


# ---- secrets ---------------------------------------------------------------------------------------------


def test_the_secrets_of_the_settings_are_nowhere(configured: Callable[..., Logged]):
    key = "0123456789abcdef0123456789abcdef-admin"
    url = f"postgresql://gkd:{WRITTEN}@db/gkd"
    logged = configured(admin_key=key, database_url=url, broker_url="redis://:broker-secret@redis/0")
    log.info("cannot reach %s", url)
    log.info(
        "password %s, or %s", WRITTEN, PASSWORD, extra={"more": [{"x": PASSWORD}], "error": OSError(key)}
    )
    try:
        raise OSError("redis says: AUTH broker-secret failed")
    except OSError:
        log.exception("no broker")
    for secret in (key, WRITTEN, PASSWORD, "broker-secret"):
        assert secret not in logged.getvalue()
    assert logged.lines()[0]["message"] == f"cannot reach postgresql://gkd:{logs.MASK}@db/gkd"


def test_the_secrets_of_the_environment_are_nowhere(
    configured: Callable[..., Logged], monkeypatch: pytest.MonkeyPatch
):
    for name in ("AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "GKD_API_KEY"):
        monkeypatch.setenv(name, f"value-of-{name}")
    logged = configured()
    log.info("S3 says: value-of-AWS_SECRET_ACCESS_KEY; value-of-PGPASSWORD, value-of-GKD_API_KEY")
    assert logged.line()["message"] == f"S3 says: {logs.MASK}; {logs.MASK}, {logs.MASK}"


def test_what_looks_like_a_secret_is_masked(logged: Logged):
    key = new_secret()
    secret = key.text.split("_", 2)[2]
    log.info("asked with %s", key.text)
    log.info("headers: {'authorization': 'Bearer abc.def'}, AWS password=hunter2&x=1")
    log.info("redis://u:p@host/0 and https://host:8000/a@b")
    shown = [line["message"] for line in logged.lines()]
    assert secret not in logged.getvalue()
    assert key.key_id in shown[0], "whose key it was may be known"
    assert shown[1] == f"headers: {{'authorization': 'Bearer {logs.MASK}'}}, AWS password={logs.MASK}&x=1"
    assert shown[2] == f"redis://u:{logs.MASK}@host/0 and https://host:8000/a@b"


@pytest.mark.parametrize(
    "name", ["password", "api_key", "AUTHORIZATION", "aws_secret_access_key", "session_token"]
)
def test_what_is_called_a_secret_is_masked(logged: Logged, name: str):
    log.info("x", extra={name: "abc", "inner": {name: ["abc"]}})
    assert "abc" not in logged.getvalue()
    assert logged.line()["inner"] == {name: logs.MASK}


# ---- lines -----------------------------------------------------------------------------------------------

FORGED = 'x\n{"level": "critical", "message": "forged"}\r\x1b[2K\u2028\x85 \x00\ud800'


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_name_makes_a_second_line(configured: Callable[..., Logged], form: str):
    logged = configured(log_format=form)
    with bound(job=FORGED):
        log.info("named %s", FORGED, extra={"more": {"name": FORGED}})
    text = logged.getvalue()
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    assert text[:-1].isprintable()
    if form == "json":
        assert logged.line()["message"] == f"named {FORGED}"


def test_on_a_terminal_a_traceback_is_seen_to_belong_to_its_line(configured: Callable[..., Logged]):
    logged = configured(log_format="console")
    try:
        raise ValueError(FORGED)
    except ValueError:
        log.exception("failed")
    first, *others = logged.getvalue().splitlines()
    assert "failed" in first
    assert all(line.startswith("  | ") for line in others)
    assert any("forged" in line for line in others)
    assert all(line.isprintable() for line in others)


def test_on_a_terminal_the_time_comes_first(configured: Callable[..., Logged]):
    logged = configured(log_format="console")
    log.info("hello")
    assert re.match(r"\d{4}-\d\d-\d\dT\S+Z \[info", logged.getvalue())


def test_whoever_embeds_us_keeps_his_own_logging(root: logging.Logger):
    own = logging.NullHandler()
    root.handlers[:] = [own]
    logs.configure(Settings())
    assert root.handlers == [own]
