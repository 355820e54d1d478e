"""Work in a thread of its own, while its caller does other things."""

import threading

import pytest
from structlog.contextvars import get_contextvars

from jobs.logs import bound
from jobs.sync.background import run_in_background


def test_it_is_done_elsewhere_and_waited_for_here():
    assert run_in_background(threading.get_ident).result(30) != threading.get_ident()


def test_its_error_is_for_who_waits():
    def fail():
        raise FileNotFoundError("no such model")

    with pytest.raises(FileNotFoundError, match="no such model"):
        run_in_background(fail).result(30)


def test_what_it_logs_says_which_job_it_is_about():
    with bound(job="a", attempt=2):
        assert run_in_background(get_contextvars).result(30) == {"job": "a", "attempt": 2}


def test_it_keeps_no_process_that_ends():
    left = threading.Event()
    threads = run_in_background(lambda: (left.wait(30), threading.current_thread())[1])
    assert not threads.done()
    left.set()
    assert threads.result(30).daemon
