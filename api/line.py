"""Submissions stand in line: few are looked into at a time, and each for so long and no longer.

To look into one is to read files, perhaps of a file server that answers no more, and nothing can break that off. A
thread that does not come back is left behind, and its place goes to the next. What it finds in the end is forgotten:
nothing is written for a submission whose sender was told that it took too long.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Generic, TypeVar

from anyio import CapacityLimiter

from api.errors import ApiError
from jobs.errors import OperationCancelled
from jobs.sync.background import run_in_background

AT_ONCE = 8
"""Submissions that are looked into at a time. They compute, and Python computes one thing at a time: a flood of them in
forty threads takes longer than one after the other, and all else would wait."""
MOST_LEFT_BEHIND = 32
"""Threads that may hang before no further submission is looked into."""

T = TypeVar("T")


class Line:
    """Where submissions wait for their turn.

    Args:
        seconds: How long one may be looked into.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._places = CapacityLimiter(AT_ONCE)
        self._hanging: set[_Turn[object]] = set()

    async def take(self, verb: Callable[[], T]) -> T:
        """What a verb gives that looks into a submission and then writes, once it is its turn; in a thread.

        Raises:
            ApiError: it took too long, or too many others still do; nothing was written.
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
                self._hanging.add(turn)  # type: ignore[arg-type]  # whatever it gives
                raise _too_slow(f"it took longer than {self._seconds:g} s")
            return await outcome


def _forget(outcome: asyncio.Future[T]) -> None:
    """Take what came too late, so that nobody complains that it was not taken."""
    if not outcome.cancelled():
        outcome.exception()


def begin_to_write() -> None:
    """Say that what a submission names was looked into, and is written down from here on.

    Raises:
        OperationCancelled: its sender has been told that it took too long.
    """
    turn = _turn.get()
    if turn is not None:
        turn.begin_to_write()


class _Turn(Generic[T]):
    """One submission that is being looked into, in a thread that keeps nobody, not even a process that ends."""

    def __init__(self, verb: Callable[[], T]) -> None:
        self._verb = verb
        self._lock = threading.Lock()
        self._writes = self._cancelled = False
        self.outcome: Future[T] = run_in_background(self._run)

    def give_up(self) -> bool:
        """Whether it is given up; no, where it has begun to write."""
        with self._lock:
            self._cancelled = not self._writes
            return self._cancelled

    def begin_to_write(self) -> None:
        with self._lock:
            if self._cancelled:
                raise OperationCancelled
            self._writes = True

    def _run(self) -> T:
        _turn.set(self)  # type: ignore[arg-type]  # whatever it gives
        return self._verb()


_turn: ContextVar[_Turn[object] | None] = ContextVar("turn", default=None)


def _too_slow(why: str) -> ApiError:
    detail = (
        f"what this names could not be looked into: {why}. Does the disk or file server answer on which it lies? "
        "Nothing was queued; send the same again later, or raise GKD_LOOK_SECONDS"
    )
    return ApiError(503, "look_timed_out", detail, headers={"Retry-After": "60"})
