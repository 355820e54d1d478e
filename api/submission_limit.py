"""A waiting line for submissions: few are inspected at a time, each with a timeout.

To inspect one is to read files, perhaps of a file server that does not answer, which cannot be interrupted. A
thread that does not return is abandoned, and its place goes to the next submission. Its result is discarded:
nothing is written for a submission that was answered with a timeout.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from anyio import CapacityLimiter

from api.errors import ApiError
from jobs.errors import OperationCancelled
from jobs.sync.background import run_in_background

AT_ONCE = 8
"""Submissions inspected at a time. They are CPU-bound and hold the GIL: forty threads take longer than one
after the other, and all other requests would wait."""
MOST_LEFT_BEHIND = 32
"""Number of hanging threads from which on no further submission is inspected."""

T = TypeVar("T")


class Line:
    """The waiting line.

    Args:
        seconds: Timeout of one inspection.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._places = CapacityLimiter(AT_ONCE)
        self._hanging: set[_Turn[Any]] = set()

    async def take(self, verb: Callable[[], T]) -> T:
        """Run a function that inspects a submission and then writes, in a thread, once it is its turn.

        Returns:
            Its result.

        Raises:
            ApiError: it took too long, or too many others still hang; nothing was written.
        """
        async with self._places:
            self._hanging = {turn for turn in self._hanging if not turn.outcome.done()}
            if len(self._hanging) >= MOST_LEFT_BEHIND:
                raise _too_slow(f"{len(self._hanging)} others have been looked into for longer than allowed")
            turn: _Turn[T] = _Turn(verb)
            outcome = asyncio.wrap_future(turn.outcome)
            done, _ = await asyncio.wait([outcome], timeout=self._seconds)
            if not done and turn.give_up():
                outcome.add_done_callback(_forget)
                self._hanging.add(turn)
                raise _too_slow(f"it took longer than {self._seconds:g} s")
            return await outcome


def _forget(outcome: asyncio.Future[T]) -> None:
    """Retrieve a late exception, so that asyncio does not log that it was never retrieved."""
    if not outcome.cancelled():
        outcome.exception()


def begin_to_write() -> None:
    """Mark the current submission as inspected, before it is written.

    Raises:
        OperationCancelled: it was answered with a timeout already.
    """
    turn = _turn.get()
    if turn is not None:
        turn.begin_to_write()


class _Turn(Generic[T]):
    """One submission under inspection, in a daemon thread that delays no shutdown."""

    def __init__(self, verb: Callable[[], T]) -> None:
        self._verb = verb
        self._lock = threading.Lock()
        self._writes = self._cancelled = False
        self.outcome: Future[T] = run_in_background(self._run)

    def give_up(self) -> bool:
        """Cancel the submission. Return False if it has begun to write."""
        with self._lock:
            self._cancelled = not self._writes
            return self._cancelled

    def begin_to_write(self) -> None:
        with self._lock:
            if self._cancelled:
                raise OperationCancelled
            self._writes = True

    def _run(self) -> T:
        _turn.set(self)
        return self._verb()


_turn: ContextVar[_Turn[Any] | None] = ContextVar("turn", default=None)


def _too_slow(why: str) -> ApiError:
    detail = (
        f"what this names could not be looked into: {why}. Does the disk or file server answer on which it lies? "
        "Nothing was queued; send the same again later, or raise GKD_LOOK_SECONDS"
    )
    return ApiError(503, "look_timed_out", detail, headers={"Retry-After": "60"})
