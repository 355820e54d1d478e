"""Celery's side of the worker: the task that a ring starts, and the worker that listens for rings.

Nothing of a job is here; see `runner.py`. The worker always runs in a thread (`WorkerThread`), in `gkd serve`
beside the API and in `gkd worker` alone, so that there is one way in which it starts and stops.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from contextlib import ExitStack, closing

from celery import Celery
from celery.worker import WorkController, state

from jobs.artifacts import Artifacts
from jobs.job import queues_heard
from jobs.queue import TASK, Doorbell, make_app
from jobs.settings import Settings
from jobs.store import Store
from worker.gpus import count_gpus
from worker.home import hold
from worker.runner import Runner
from worker.sweeper import Repeated
from worker.tidying import TIDY_SECONDS

log = logging.getLogger(__name__)


def work(settings: Settings) -> None:
    """Take jobs until SIGTERM or SIGINT; the running one is then saved and given back. A second signal ends at once.

    Needs the main thread, and a broker that other processes reach.

    Raises:
        SystemExit: Celery gave up, which it says in the log; whoever watches over this process should start it anew.
    """
    asked_to_end = threading.Event()

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # the engine would die with us, and a sweep give the job back
        asked_to_end.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    name = f"{socket.gethostname()}-{os.getpid()}"
    with WorkerThread(settings, make_app(settings.broker_url), name=name) as worker:
        while not asked_to_end.wait(1.0):
            if not worker.is_listening():
                raise SystemExit(1)


class WorkerThread:
    """A worker with one slot, while entered. One per process: Celery's switch for stopping is a global.

    Args:
        settings: Where everything is; the tables are brought up to date at the start.
        app: What `jobs.queue.make_app` made.
        name: Under which jobs are claimed; no two workers may share one. None: the home's own worker, of which
            there is never a second, so that it takes back at once what an earlier one held.

    Raises:
        HomeInUse: On entering, when another process is this home's own worker.
    """

    def __init__(self, settings: Settings, app: Celery, *, name: str | None = None) -> None:
        self.name = name or f"serve@{settings.home}"
        self.queues = queues_heard(settings.gpus if settings.gpus is not None else count_gpus())
        self._settings = settings
        self._owns_home = name is None
        self._app = app
        self._open = ExitStack()

    def __enter__(self) -> WorkerThread:
        with ExitStack() as opening:  # what was opened is closed again when a later step fails
            if self._owns_home:
                opening.enter_context(hold(self._settings.home))
            runner = self._make_runner(opening)
            # Before the first sweep rings: Celery loses a task that is added while another thread first uses the app.
            listening = _Listening(self._app, runner, self.queues)
            opening.enter_context(Repeated(runner.sweep, self._settings.sweep_seconds))
            opening.enter_context(Repeated(runner.tidy, TIDY_SECONDS))
            self._listening = opening.enter_context(listening)
            self._open = opening.pop_all()
        log.info("worker %s takes jobs from %s", self.name, ", ".join(self.queues))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        log.info("worker %s has ended", self.name)

    def is_listening(self) -> bool:
        """Whether rings are still heard, or will be once the broker is back."""
        return self._listening.is_alive()

    def _make_runner(self, opening: ExitStack) -> Runner:
        settings = self._settings
        store = opening.enter_context(closing(Store.of(settings)))
        if self._owns_home:
            store.release(self.name)
        artifacts = Artifacts(settings.artifacts_url)
        return Runner(store, artifacts, Doorbell(self._app), settings, self.name)


class _Listening:
    """A thread that waits for rings, while entered; leaving it stops what runs."""

    def __init__(self, app: Celery, runner: Runner, queues: list[str]) -> None:
        self._runner = runner
        self._app = app
        app.task(name=TASK, shared=False)(runner.run)
        app.set_default()  # the pool's threads look the task up there
        self._controller = WorkController(
            app=app,
            hostname=f"gkd@{runner.worker}",
            pool="threads",  # the engine dies with the thread that started it, so this thread must outlive it
            concurrency=1,
            queues=queues,
            without_heartbeat=True,
            without_mingle=True,
            without_gossip=True,
        )
        self._thread = threading.Thread(target=self._controller.start, name="celery")

    def __enter__(self) -> _Listening:
        state.should_stop = None
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        state.should_stop = 0  # first, so that no ring is taken that nobody would answer
        if not self._runner.stop_all():
            log.error("a job could not be stopped in time; a sweep will take it back")
        self._thread.join()
        self._app.tasks.unregister(TASK)
        state.should_stop = None

    def is_alive(self) -> bool:
        return self._thread.is_alive()
