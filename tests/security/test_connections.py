"""Connections that send half a request, nothing, or a byte now and then, and those that do not read the answer."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from ..client.conftest import Process, free_port, running
from ..faults.conftest import wait_until

FOREVER_SECONDS = 60.0
HALF = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
UNREAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
"""A request with an unexpected body: the answer comes before the body."""


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def api(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Yield a real server with few files, few connections and short time limits."""
    folder: Path = tmp_path_factory.mktemp("connections")
    env = {"GKD_HOME": str(folder / "home"), "GKD_DATA_ROOTS": str(folder), "GKD_PORT": str(port)}
    env |= {"GKD_HEADER_SECONDS": "2", "GKD_CONNECTIONS": "100"}
    with running("serve", cwd=folder, env=env) as process:
        process.wait_for("GKD answers", seconds=180)
        wait_until(lambda: listens(port))
        resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE, (420, 420))
        yield process


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def connected(port: int, *sent: bytes) -> Iterator[list[socket.socket]]:
    """Open connections that each have sent something."""
    with ExitStack() as stack:
        yield [stack.enter_context(connection(port, each)) for each in sent]


@contextmanager
def connection(port: int, sent: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=FOREVER_SECONDS) as made:
        made.sendall(sent)
        yield made


def answers(port: int) -> bool:
    """Return whether a new client gets an answer."""
    return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=FOREVER_SECONDS).status_code == 200


def is_ended(made: socket.socket) -> bool:
    """Return whether the server closes a connection; what it sends before is discarded."""
    try:
        while made.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("sent", [b"", b"G", HALF, b"\r\n", WHOLE + HALF, UNREAD, UNREAD + b"x"])
def test_what_sends_no_whole_request_in_time_is_closed(api, port, sent):
    with connection(port, sent) as made:
        assert is_ended(made)
    assert answers(port)


@pytest.mark.parametrize("first", [HALF, UNREAD])
def test_a_byte_now_and_then_does_not_help(api, port, first):
    deadline = time.monotonic() + FOREVER_SECONDS
    with connection(port, first) as made:
        made.settimeout(0.2)
        while time.monotonic() < deadline:
            try:
                made.sendall(b"x")
                if not made.recv(65536):
                    return
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                return
    pytest.fail("the connection was never closed")


def test_a_request_that_takes_longer_than_its_headers_may_is_answered(api, port):
    body = b'{"kind": "train", "data": "nothing"}'
    head = b"POST /jobs/validate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    with connection(port, head + body[:10]) as made:
        time.sleep(3.5)
        made.sendall(body[10:])
        assert b"422" in made.recv(65536)


def test_hundreds_of_half_sent_requests_keep_nobody_from_an_answer(api, port):
    with connected(port, *([HALF] * 500)) as held:
        for _ in range(5):
            assert answers(port)
        assert all(is_ended(each) for each in held)
    assert api.process.poll() is None


def test_who_has_been_answered_gives_way_to_who_asks(api, port):
    with connected(port, *([WHOLE] * 150)):
        for _ in range(5):
            assert answers(port)
