"""Celery in the worker: the task that a notification starts, and the worker that listens for notifications.

Nothing about a job is here; see `runner.py`. The worker always runs in a thread (`WorkerThread`), in `gkd
serve` beside the API and in `gkd worker` alone, so that there is one way in which it starts and stops.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from celery import Celery, bootsteps
from celery.worker import WorkController, state
from celery.worker.consumer import Consumer

from jobs.artifacts import open_artifacts
from jobs.job import queues_heard
from jobs.logs import bound, carried
from jobs.queue import TASK, JobQueue, make_app
from jobs.settings import Settings
from jobs.store.store import Store
from worker.gpus import own_gpus
from worker.home import hold
from worker.periodic_task import PeriodicTask
from worker.presence import SignsOfLife
from worker.runner import Runner
from worker.slots import Slot, take_slot
from worker.tidying import TIDY_SECONDS

log = logging.getLogger(__name__)

_IDLE_CONNECTIONS = 1
"""Idle database connections. A worker needs one every few seconds, and PostgreSQL has a hundred for
everybody."""
_ASK_SECONDS = 10.0
"""Time without an iteration of Celery's loop (usually one per second) after which the broker is pinged."""
_STUCK_SECONDS = 60.0
"""Longer than Celery waits between two tries to reach a broker (30 s)."""
_REFUSED_SECONDS = 1.0
"""Interval of pings to a broker that answered with an error."""


def work(settings: Settings) -> None:
    """Run jobs until SIGTERM or SIGINT; the running one is then saved and requeued.

    A second signal ends at once.

    Needs the main thread, and a broker that other processes can reach.

    Raises:
        SystemExit: Celery gave up, as the log says; a supervisor should restart this process.
    """
    asked_to_end = threading.Event()

    def end(number: int, frame: object) -> None:
        signal.signal(
            number, signal.SIG_DFL
        )  # the engine would die with this process, and a sweep requeue the job
        asked_to_end.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with (
        take_slot(settings.home) as slot,
        WorkerThread(settings, make_app(settings.broker_url), slot=slot) as worker,
    ):
        while not asked_to_end.wait(1.0):
            if not worker.is_listening():
                raise SystemExit(1)
            slot.sign()


class WorkerThread:
    """A worker with one slot, while the context is entered.

    One per process: Celery's switch for stopping is a global.

    Args:
        settings: The settings; the tables are migrated at the start.
        app: Of `jobs.queue.make_app`.
        slot: The worker's slot on this machine. None: it is the home's own worker, of which there is never a
            second. Either way the jobs of its dead predecessor are taken back at once.

    Raises:
        HomeInUse: On entering, if another process is this home's own worker.
    """

    def __init__(self, settings: Settings, app: Celery, *, slot: Slot | None = None) -> None:
        self.name = slot.name if slot else f"serve@{settings.home}"
        self.gpus = own_gpus(settings.gpus)
        self.queues = list(settings.queues or queues_heard(len(self.gpus))[::-1])
        self._earlier = slot.earlier if slot else self.name
        self._settings = settings
        self._owns_home = slot is None
        self._draining = threading.Event()
        self._app = app
        self._open = ExitStack()

    def __enter__(self) -> WorkerThread:
        # What was opened is closed again if a later step fails.
        with bound(worker=self.name), ExitStack() as opening:
            if self._owns_home:
                opening.enter_context(hold(self._settings.home))
            runner = self._make_runner(opening)
            # Before the first sweep notifies: Celery loses a task that is added while another thread first uses
            # the app.
            listening = _Listening(self._app, runner, self.queues)
            opening.enter_context(PeriodicTask(runner.sweep, self._settings.sweep_seconds))
            opening.enter_context(PeriodicTask(runner.tidy, TIDY_SECONDS))
            opening.enter_context(self._sending_heartbeats(runner))
            self._listening = opening.enter_context(listening)
            self._open = opening.pop_all()
            log.info("worker %s takes jobs from %s", self.name, ", ".join(self.queues))
        return self

    def __exit__(self, *_: object) -> None:
        with bound(worker=self.name):
            self._draining.set()
            self._signs.hurry()  # draining must be visible before the job is saved
            self._open.close()
            log.info("worker %s has ended", self.name)

    def is_listening(self) -> bool:
        """Return whether notifications are still received, or will be once the broker is back."""
        return self._listening.is_alive()

    def _make_runner(self, opening: ExitStack) -> Runner:
        settings = self._settings
        store = opening.enter_context(closing(Store.of(settings, idle_connections=_IDLE_CONNECTIONS)))
        if self._earlier:
            store.recovery.release(self._earlier)
            store.workers.vanish(self._earlier)
        artifacts = open_artifacts(settings.artifacts_url)
        return Runner(store, artifacts, JobQueue(self._app), settings, self.name, self.gpus)

    @contextmanager
    def _sending_heartbeats(self, runner: Runner) -> Iterator[None]:
        """Send heartbeats, and remove this worker from the list at the end."""
        life = SignsOfLife(
            runner.store, self.name, queues=self.queues, gpus=self.gpus, draining=self._draining
        )
        try:
            with PeriodicTask(life.appear, self._settings.renew_seconds) as self._signs:
                yield
        finally:
            life.vanish()


class _Listening:
    """A thread that waits for notifications while the context is entered; leaving it stops running jobs."""

    def __init__(self, app: Celery, runner: Runner, queues: list[str]) -> None:
        self._runner = runner
        self._app = app
        app.task(name=TASK, shared=False)(runner.run)
        app.set_default()  # the pool's threads look the task up there
        self._watchdog = watchdog = _Watchdog(JobQueue(app))

        class Beat(bootsteps.StartStopStep):  # type: ignore[misc]  # a step: Celery drops timers when it connects again
            requires = ("celery.worker.consumer.tasks:Tasks",)

            def __init__(self, consumer: Any, **options: Any) -> None:
                super().__init__(consumer, **options)
                make = consumer.create_task_handler
                consumer.create_task_handler = lambda *args, **kwargs: _rejecting_invalid(
                    make(*args, **kwargs)
                )

            def start(self, consumer: Any) -> None:
                consumer.timer.call_repeatedly(1.0, watchdog.beat)
                readers = getattr(consumer.task_consumer.channel, "handlers", {})  # Redis has them
                readers.update({name: _rejecting_invalid(read) for name, read in readers.items()})

        app.steps["consumer"] = {Beat}
        self._controller = WorkController(
            app=app,
            consumer_cls=_PatientConsumer,
            hostname=f"gkd@{runner.worker}",
            pool="threads",  # the engine dies with the thread that started it, so this thread must outlive it
            concurrency=1,
            queues=queues,
            without_heartbeat=True,
            without_mingle=True,
            without_gossip=True,
        )
        self._thread = threading.Thread(target=carried(self._controller.start), name="celery")

    def __enter__(self) -> _Listening:
        state.should_stop = None
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        state.should_stop = 0  # first, so that no notification is received that would not be answered
        if not self._runner.stop_all():
            log.error("a job could not be stopped in time; a sweep will take it back")
        self._thread.join()
        self._app.tasks.unregister(TASK)
        state.should_stop = None

    def is_alive(self) -> bool:
        return self._thread.is_alive() and self._watchdog.is_fine()


class _PatientConsumer(Consumer):  # type: ignore[misc]
    """A Celery consumer that waits for a broker that answers with errors, as Celery does for an unavailable one.

    Without the wait Celery would connect, meet the same error and connect again, as fast as it can.
    """

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Log the broker's error, and wait until the broker works again."""
        super().on_connection_error_before_connected(exc)
        self._wait_for_broker(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close the connection, log the broker's error, and wait until the broker works again."""
        super().on_connection_error_after_connected(exc)
        self._wait_for_broker(exc)

    def _wait_for_broker(self, exc: Exception) -> None:
        if not isinstance(exc, self.channel_errors):
            return  # it is unavailable: Celery waits by itself
        log.error("the broker refuses to work, so no job is taken until it is well again: %s", exc)
        while not _broker_answers(JobQueue(self.app)) and state.should_stop is None:
            time.sleep(_REFUSED_SECONDS)
        log.info("the broker works again")


def _broker_answers(job_queue: JobQueue) -> bool:
    try:
        job_queue.ping()
    except ConnectionError as error:
        log.debug("%s", error)
        return False
    return True


def _rejecting_invalid(hear: Callable[..., Any]) -> Callable[..., Any]:
    """Return the message handler, except that an invalid message is rejected.

    In Celery and Kombu it would end the worker.
    """

    def heard(*message: Any) -> Any:
        try:
            return hear(*message)
        except (TypeError, ValueError, AttributeError, LookupError, RecursionError) as error:
            log.warning("threw a message away that is no notification: %r", error)
            for each in message:  # none if it was not even an envelope
                each.reject_log_error(log, ())
            return None

    return heard


class _Watchdog:
    """A watchdog of Celery's loop. While the broker is unavailable the loop stands still, and may."""

    def __init__(self, job_queue: JobQueue) -> None:
        self._job_queue = job_queue
        self._beat_at = self._fine_at = self._asked_at = time.monotonic()

    def beat(self) -> None:
        """Record an iteration of the loop."""
        self._beat_at = time.monotonic()

    def is_fine(self) -> bool:
        """Return False once the loop has stood still for `_STUCK_SECONDS` while the broker always answered."""
        now = time.monotonic()
        if now - self._beat_at < _ASK_SECONDS:
            self._fine_at = now
        elif now - self._asked_at > _ASK_SECONDS:
            self._asked_at = now
            try:
                self._job_queue.ping()
            except ConnectionError:
                self._fine_at = now
        return now - self._fine_at < _STUCK_SECONDS
