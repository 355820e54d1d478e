"""Why an attempt stops, and what is waited for meanwhile."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.errors import ArtifactsRefused, OperationCancelled
from jobs.job import Desired
from worker.disk_space import Shortage
from worker.stop_request import StopRequest


def request(desired: Desired = Desired.RUN, lost: bool = False, stop_seconds: float = 5.0) -> Any:
    lease: Any = SimpleNamespace(desired=desired, lost=lost)
    return StopRequest(lease, threading.Event(), stop_seconds)


def test_every_reason_to_stop_counts() -> None:
    assert not request().is_wanted
    assert request(Desired.PAUSE).is_wanted
    assert request(Desired.CANCEL).is_wanted
    assert request(lost=True).is_wanted
    full, refused, shutdown = request(), request(), request()
    full.shortage = Shortage(Path("/runs"), free=1, needed=2)
    refused.refused = ArtifactsRefused("no such bucket", "Create it.")
    shutdown._shutdown.set()
    assert all(each.is_wanted for each in (full, refused, shutdown))


def test_the_time_counts_from_the_first_time_that_an_engine_was_asked() -> None:
    stop = request()
    asked: list[str] = []
    engine: Any = SimpleNamespace(stop=lambda: asked.append("stop"))
    assert (stop.was_asked, stop.seconds()) == (False, 0.0)
    stop.end(engine)
    time.sleep(0.02)
    stop.end(engine)
    assert (stop.was_asked, asked) == (True, ["stop", "stop"])
    assert stop.seconds() >= 0.02


def test_a_function_that_ends_by_itself_gives_its_result() -> None:
    stop = request()
    assert stop.unless_wanted(lambda cancelled: cancelled.is_set()) is False
    assert not stop.was_asked


def test_a_function_is_cancelled_where_the_attempt_is_to_stop() -> None:
    stop = request(Desired.CANCEL)
    heard = threading.Event()

    def until_cancelled(cancelled: threading.Event) -> None:
        if cancelled.wait(5):
            heard.set()

    with pytest.raises(OperationCancelled):
        stop.unless_wanted(until_cancelled)
    assert heard.is_set()
    assert stop.was_asked


def test_a_function_that_does_not_hear_is_left_behind() -> None:
    stop = request(Desired.CANCEL, stop_seconds=0.05)
    end = threading.Event()
    began = time.monotonic()
    with pytest.raises(OperationCancelled):
        stop.unless_wanted(lambda _: end.wait(20))
    assert time.monotonic() - began < 5
    end.set()
