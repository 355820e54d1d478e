"""Logging of the service and its libraries: JSON lines, or lines for people.

Modules log as usual (`logging.getLogger(__name__)`). The context of a line (request, job, attempt, worker,
tenant) is set once where it begins, with `bound`, and is part of each line until its end. Every line passes
`_Redactor`: it contains no secret, and no user-chosen name can forge a second line.
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
"""Minimum length of a secret to mask, in characters. A shorter password (`gkd`) would mask unrelated words;
in URLs it is masked anyway."""

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
"""Patterns of secrets, and their replacements."""

_OWN_LEVELS = {"alembic": logging.WARNING, "uvicorn": logging.WARNING}
"""Libraries that log at INFO what GKD logs itself."""


def configure(settings: Settings, *, queue: int = logging.WARNING, stream: TextIO | None = None) -> None:
    """Configure all logging of this process. Called only where the service is assembled.

    Args:
        settings: The format, and the secrets to mask.
        queue: Minimum level of the queue's log records.
        stream: The target; by default stderr.
    """
    stream = stream or sys.stderr
    form = settings.log_format or ("console" if stream.isatty() else "json")
    if not logging.getLogger().handlers:  # a program that embeds GKD may have configured its own
        handler = logging.StreamHandler(stream)
        handler.setFormatter(
            _formatter(form, stream.isatty(), _Redactor(_secrets_of(settings), form == "console"))
        )
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        logging.captureWarnings(True)
        threading.excepthook = _log_thread_error
    for name, level in (_OWN_LEVELS | {"celery": queue, "kombu": queue}).items():
        logging.getLogger(name).setLevel(level)


def carried(act: Callable[[], object]) -> Callable[[], object]:
    """Return the function for use in another thread, bound to the current log context."""
    return partial(copy_context().run, act)


def _log_thread_error(last: threading.ExceptHookArgs) -> None:
    """Log an uncaught exception of a thread, which Python would print across many lines."""
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


# ---- masking ---------------------------------------------------------------------------------------------


_FIRST = ("time", "level", "logger", "message")


class _Redactor:
    """A log processor that masks secrets, omits unknown values, and escapes what would break a line.

    Args:
        secrets: Texts to mask wherever they occur.
        lines: Whether the output is read as lines of text; JSON has its own escapes.
    """

    def __init__(self, secrets: frozenset[str], lines: bool) -> None:
        self._known = (
            re.compile("|".join(map(re.escape, sorted(secrets, key=len, reverse=True)))) if secrets else None
        )
        self._lines = lines

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        ordered = {name: event[name] for name in _FIRST} | dict(event)  # the most important fields first
        safe = {name: self._value(name, value) for name, value in ordered.items() if value is not None}
        if self._lines and "exception" in safe:
            safe["exception"] = "\n".join(f"  | {_escaped(line)}" for line in safe["exception"].split("\n"))
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
        return _escaped(text) if self._lines and name != "exception" else text

    def masked(self, text: str) -> str:
        """Return a text with its secrets masked."""
        if self._known:
            text = self._known.sub(MASK, text)
        for pattern, rest in _SECRETS:
            text = pattern.sub(rest, text)
        return text


def _escaped(text: str) -> str:
    """Return a text with its control characters (of terminals and lines) escaped."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _secrets_of(settings: Settings) -> frozenset[str]:
    admin = settings.admin_key.get_secret_value() if settings.admin_key else ""
    found = {admin, *_passwords(settings.database_url), *_passwords(settings.broker_url)}
    found |= {
        value for name, value in os.environ.items() if _SECRET_NAME.search(name)
    }  # those of AWS and PostgreSQL
    return frozenset(each for each in found if len(each) >= _LEAST_SECRET)


def _passwords(url: str) -> tuple[str, ...]:
    """Return the password in a URL, as written and percent-decoded."""
    try:
        written = urlsplit(url).password or ""
    except ValueError:  # the user of the URL reports what is wrong with it
        return ()
    return written, unquote(written)
