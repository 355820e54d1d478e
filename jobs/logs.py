"""One pipe for every word that the service logs, its own and its libraries': JSON lines, or lines for people.

Modules log as everywhere (`logging.getLogger(__name__)`). What a line is about (request, job, attempt, worker, tenant)
is said once where it begins, with `bound`, and stands in each line until its end. Whatever goes out has passed
`_safe`: no secret is in it, and nothing that somebody chose to be called makes a line look like two.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from contextvars import copy_context
from functools import partial
from typing import Any, Literal, TextIO
from urllib.parse import unquote, urlsplit

import structlog
from structlog.contextvars import bound_contextvars as bound
from structlog.typing import EventDict, Processor, WrappedLogger

from jobs.settings import Settings

__all__ = ["bound", "carried", "configure"]

log = logging.getLogger(__name__)

MASK = "[secret]"

_LEAST_SECRET = 6
"""Characters. A shorter password (`gkd`) would blot out words that have nothing to do with it; in URLs it is masked
all the same."""

_SECRET_NAME = re.compile(
    r"passw|secret|token|authorization|cookie|api_?key|admin_key|credential", re.IGNORECASE
)

_SECRETS = (
    (re.compile(r"\bgkd_([0-9a-f]{12})_[A-Za-z0-9_-]+"), rf"gkd_\1_{MASK}"),
    (re.compile(r"(://[^\s:/?#@]*:)[^\s/]+@"), rf"\1{MASK}@"),
    (re.compile(r"\b(Bearer|Basic) +[^\s'\"]+", re.IGNORECASE), rf"\1 {MASK}"),
    (
        re.compile(r"\b(password|passwd|secret|token)(['\"]?\s*[=:]\s*['\"]?)[^\s'\"&,]+", re.IGNORECASE),
        rf"\1\2{MASK}",
    ),
)
"""What looks like a secret, wherever it stands, and what is left of it."""

_OWN_LEVELS = {"alembic": logging.WARNING, "uvicorn": logging.WARNING}
"""Libraries that say at INFO what GKD says itself."""


def configure(settings: Settings, *, queue: int = logging.WARNING, stream: TextIO | None = None) -> None:
    """Set up all logging of this process. Called where the service is put together, and nowhere else.

    Args:
        settings: The format, and the secrets that must not be seen.
        queue: From which level on the queue's words are logged.
        stream: Where to; by default the standard error.
    """
    stream = stream or sys.stderr
    form = settings.log_format or ("console" if stream.isatty() else "json")
    if not logging.getLogger().handlers:  # who embeds us may have set up his own
        handler = logging.StreamHandler(stream)
        handler.setFormatter(
            _formatter(form, stream.isatty(), _Safe(_secrets_of(settings), form == "console"))
        )
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        logging.captureWarnings(True)
        threading.excepthook = _tell_of_death
    for name, level in (_OWN_LEVELS | {"celery": queue, "kombu": queue}).items():
        logging.getLogger(name).setLevel(level)


def carried(act: Callable[[], object]) -> Callable[[], object]:
    """The same act, for another thread, where it knows what it is about here and now."""
    return partial(copy_context().run, act)


def _tell_of_death(last: threading.ExceptHookArgs) -> None:
    """What Python would print across many lines."""
    if not isinstance(last.exc_value, SystemExit | None):
        log.error("a thread ended in an error", exc_info=last.exc_value)


def _formatter(form: Literal["json", "console"], colors: bool, safe: Processor) -> logging.Formatter:
    plain = structlog.dev.plain_traceback
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=plain, event_key="message", timestamp_key="time"
        )
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.ExtraAdder(),
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper("iso", utc=True, key="time"),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            safe,
            renderer,
        ],
    )


# ---- what must not be seen -------------------------------------------------------------------------------


_FIRST = ("time", "level", "logger", "message")


class _Safe:
    """A processor: takes out secrets, leaves out what is not known, and disarms what would break a line.

    Args:
        secrets: Texts that must not be seen wherever they stand.
        lines: Whether what goes out is read as lines of text; JSON has its own way to write what is in a text.
    """

    def __init__(self, secrets: frozenset[str], lines: bool) -> None:
        self._known = (
            re.compile("|".join(map(re.escape, sorted(secrets, key=len, reverse=True)))) if secrets else None
        )
        self._lines = lines

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        ordered = {name: event[name] for name in _FIRST} | dict(event)  # what people look for first
        safe = {name: self._value(name, value) for name, value in ordered.items() if value is not None}
        if self._lines and "exception" in safe:
            safe["exception"] = "\n".join(f"  | {_disarmed(line)}" for line in safe["exception"].split("\n"))
        return safe

    def _value(self, name: str, value: Any) -> Any:
        if _SECRET_NAME.search(name):
            return MASK
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {str(key): self._value(str(key), each) for key, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value(name, each) for each in value]
        text = self.masked(str(value))
        return _disarmed(text) if self._lines and name != "exception" else text

    def masked(self, text: str) -> str:
        """A text without secrets."""
        if self._known:
            text = self._known.sub(MASK, text)
        for pattern, rest in _SECRETS:
            text = pattern.sub(rest, text)
        return text


def _disarmed(text: str) -> str:
    """A text in which control characters, of terminals and of lines, are written out."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _secrets_of(settings: Settings) -> frozenset[str]:
    admin = settings.admin_key.get_secret_value() if settings.admin_key else ""
    found = {admin, *_passwords(settings.database_url), *_passwords(settings.broker_url)}
    found |= {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}  # AWS', PostgreSQL's
    return frozenset(each for each in found if len(each) >= _LEAST_SECRET)


def _passwords(url: str) -> tuple[str, ...]:
    """The password in a URL, as it is written and as it is meant."""
    try:
        written = urlsplit(url).password or ""
    except ValueError:  # whoever uses it says what is wrong with it
        return ()
    return written, unquote(written)
