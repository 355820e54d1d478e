"""How long a request is repeated: while the service restarts, or as it asks for by `Retry-After`."""

from __future__ import annotations

import time

import httpx

RETRY_SECONDS = 30.0
"""Time for which a request is repeated once the service has answered: long enough to restart it."""
FIRST_CONTACT_SECONDS = 1.0
"""The same if it never has: the address may be wrong, and whoever typed it is waiting."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
AWAY = (502, 503, 504)
"""Answers of the service, or of a proxy before it, that say that it cannot answer now."""
REPEATABLE = ("GET", "HEAD", "PUT", "PATCH")
"""Methods that do the same if they are done twice."""


class Patience:
    """The pauses between the tries of one request, each twice as long as the one before."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._pause = FIRST_PAUSE

    def wait(self, seconds: float, least: float = 0.0) -> bool:
        """Sleep before another try; return False if it would begin more than `seconds` after the first.

        Args:
            seconds: Time for all tries together.
            least: Least duration of this pause in seconds.
        """
        pause = max(self._pause, least)
        if time.monotonic() + pause > self._since + seconds:
            return False
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        time.sleep(pause)
        return True


def may_repeat(method: str, headers: object) -> bool:
    """Return whether a request does the same if it is sent twice: by its method, or by an idempotency key."""
    return method in REPEATABLE or (isinstance(headers, dict) and "Idempotency-Key" in headers)


def asked_pause(answer: httpx.Response) -> float:
    """Return the seconds that `Retry-After` asks for; 0 without it, or where it is a date."""
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0
