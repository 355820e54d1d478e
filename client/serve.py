"""Assembly of the service: `gkd serve` (all in one process), `gkd api` and `gkd worker`."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import uvicorn
from fastapi import FastAPI
from rich.console import Console

from api.app import create_app, end_streams
from api.connections import server_config
from client.signals import answered_by
from gkd_core.errors import GkdError
from jobs import logs
from jobs.artifacts import open_artifacts
from jobs.queue import JobQueue, make_app
from jobs.settings import Settings
from jobs.store.store import Store
from worker.home import HomeInUse
from worker.tasks import WorkerThread, work

log = logging.getLogger(__name__)

GRACE_SECONDS = 3
"""Grace period of requests in progress once the server is asked to stop; streams and long polls end at once."""


class NotServed(GkdError):
    """The service cannot be started as configured."""


def serve(settings: Settings, console: Console) -> None:
    """Run API, worker, queue and database in one process, until SIGINT or SIGTERM.

    Raises:
        NotServed: the address is taken or open to other machines, workers need a real queue, or the worker
            ended.
    """
    if settings.broker_url != "memory://":
        hint = "Unset GKD_BROKER_URL, or start `gkd api` and `gkd worker`."
        raise NotServed(
            f"`gkd serve` brings its own queue, but GKD_BROKER_URL names {settings.broker_url.split('://')[0]}://",
            hint,
        )
    logs.configure(settings, queue=logging.ERROR)  # they warn that memory:// has no host and no prefetch
    _warn_of_missing_roots(settings)
    with _listening(settings) as listener, closing(Store.of(settings)) as store:
        job_queue = JobQueue(make_app(settings.broker_url))
        http = create_app(store, open_artifacts(settings.artifacts_url), job_queue, settings)
        with _ended_by_signals(), _worker(settings, job_queue) as worker:
            _announce(listener, settings, console)
            _run(http, listener, settings, while_=worker.is_listening)
            if not worker.is_listening():
                raise NotServed("the worker ended, and nobody would run jobs; the log above says why")


def api(settings: Settings, console: Console) -> None:
    """Run the API alone, until SIGINT or SIGTERM; workers are other processes.

    Raises:
        NotServed: the address is taken or open to other machines, or there is no queue to reach workers by.
    """
    _need_broker(settings, "api")
    logs.configure(settings)
    _warn_of_missing_roots(settings)
    with _listening(settings) as listener, closing(Store.of(settings)) as store, _ended_by_signals():
        job_queue = JobQueue(make_app(settings.broker_url))
        _announce(listener, settings, console)
        _run(
            create_app(store, open_artifacts(settings.artifacts_url), job_queue, settings), listener, settings
        )


def worker(settings: Settings) -> None:
    """Run a worker, until SIGINT or SIGTERM.

    Raises:
        NotServed: there is no queue to be reached by.
    """
    _need_broker(settings, "worker")
    logs.configure(settings)
    _warn_of_missing_roots(settings)
    work(settings)


@contextmanager
def _worker(settings: Settings, job_queue: JobQueue) -> Iterator[WorkerThread]:
    with ExitStack() as stack:
        try:
            worker = stack.enter_context(WorkerThread(settings, job_queue.app))
        except HomeInUse as error:
            raise NotServed(str(error)) from error
        yield worker


def _need_broker(settings: Settings, command: str) -> None:
    if settings.broker_url == "memory://":
        hint = "Set GKD_BROKER_URL=redis://host:6379/0, or start everything in one process with `gkd serve`."
        raise NotServed(f"`gkd {command}` needs a queue that other processes can reach", hint)


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """Open the listening socket; bound before anything else starts, so that a taken port fails early."""
    _must_be_guarded(settings)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With an explicit protocol asyncio disables Nagle's algorithm, which would delay the second part of an
    # answer by 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            hint = "Choose another with --port, or stop who has it."
            raise NotServed(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}", hint
            ) from error
        yield listener


def _must_be_guarded(settings: Settings) -> None:
    if settings.on_loopback or settings.admin_key is not None:
        return
    with closing(Store.of(settings)) as store:
        if store.keys.has_keys():
            return
    message = (
        f"refusing to listen on {settings.host}: there are no API keys, so anybody could use this machine"
    )
    raise NotServed(message, "Make one with `gkd keys create`, or set GKD_ADMIN_KEY, or listen on 127.0.0.1.")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that a worker can save its job and requeue it.

    uvicorn raises the signal again once it has stopped; the default handler would then end the process at once.
    """

    def unwind() -> None:
        raise SystemExit(0)

    with answered_by(unwind):
        yield


class _Server(uvicorn.Server):
    """A uvicorn server that also stops when the worker beside it has ended."""

    def __init__(self, http: FastAPI, config: uvicorn.Config, while_: Callable[[], bool]) -> None:
        super().__init__(config)
        self._http = http
        self._while = while_

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop now; called ten times a second."""
        return await super().on_tick(counter) or not self._while()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; streams and long polls are ended first, otherwise they would be waited for."""
        end_streams(self._http)
        await super().shutdown(sockets)


def _run(
    http: FastAPI, listener: socket.socket, settings: Settings, *, while_: Callable[[], bool] = lambda: True
) -> None:
    config = server_config(http, settings, grace_seconds=GRACE_SECONDS)
    _Server(http, config, while_).run(sockets=[listener])


def _warn_of_missing_roots(settings: Settings) -> None:
    """Warn of missing data roots. They may appear later (a disk that is not mounted yet), so the service starts."""
    missing = [root for root in settings.data_roots if not root.is_dir()]
    for root in missing:
        log.warning("the data root %s is no folder on this machine; it stands in GKD_DATA_ROOTS", root)
    if len(missing) == len(settings.data_roots):
        log.warning("there is no data root: jobs can only read data sets that were uploaded")


def _announce(listener: socket.socket, settings: Settings, console: Console) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    roots = ", ".join(map(str, settings.data_roots))
    console.print(
        f"GKD answers at http://{shown}:{port}; jobs read data under {roots}; Ctrl-C stops", soft_wrap=True
    )
