"""Simulated workers, dozens in one process: all of a worker but Celery's loop and the engine.

A notification is taken out of the real queue, and the real `Runner` claims, renews, records, publishes and sweeps
with a store and connections of the worker's own. The engine is a stand-in without a process: it writes the events of
a short run and marks in Redis that it runs, so that two of one job at the same time would be noticed.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import redis
from kombu import Consumer

import worker.job_run
from gkd_core.events import Checkpoint, Event, Progress
from gkd_core.run_dir import COMPLETE, RunDir, write_atomically
from jobs.artifacts import open_artifacts
from jobs.job import Desired, Job, Notification, Ticket
from jobs.queue import JobQueue, make_app
from jobs.settings import Settings
from jobs.store.recovery import Recovery
from jobs.store.store import Claim, Store
from jobs.store.worker_commands import WorkerCommands
from worker.engine import read_events
from worker.periodic_task import PeriodicTask
from worker.presence import SignsOfLife
from worker.runner import Runner

_KILLED = -9
_WEIGHTS = b"weights"


class Plan(NamedTuple):
    """Behaviour of workers and their engines."""

    seconds: float
    """Duration of an engine, from its start to its end."""
    events: int
    """Progress events of one run, beside those of a checkpoint and of states."""
    dies: float
    """Share of the engines that are killed half-way."""
    lost: float
    """Share of the notifications that never arrive."""
    doubled: float
    """Share of the notifications that arrive twice."""


class StandIn:
    """Replaces `worker.engine.Engine`."""

    plan: Plan
    running: redis.Redis
    counts: ClassVar[Counter[str]] = Counter()

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._name = f"running:{run_dir.path.name}"
        self._started = time.monotonic()
        self._written = 0
        self._dies = random.random() < self.plan.dies
        self._code: int | None = None

    @classmethod
    def start(cls, run_dir: RunDir, attempt: int, **_: object) -> StandIn:
        """Start the run; if another engine runs the same job now, count it."""
        engine = cls(run_dir)
        cls.counts["engines"] += 1
        if not cls.running.set(engine._name, attempt, nx=True):
            cls.counts["twice_at_once"] += 1
        return engine

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        self.running.delete(self._name)
        if self._code == COMPLETE:  # else a hundred thousand of them would fill the memory
            shutil.rmtree(self._run_dir.path)

    def poll(self) -> int | None:
        """Write the events that are due; return the exit code once the time is over."""
        done = (time.monotonic() - self._started) / self.plan.seconds
        if self._dies and done > 0.5:
            return _KILLED
        self._write_progress(min(self.plan.events, int(done * self.plan.events)))
        if done < 1 and self._code is None:
            return None
        if self._code is None:
            self._append(_checkpoint(self._run_dir))
            self._code = COMPLETE
        return self._code

    def events(self, offset: int) -> Iterator[tuple[Event, int]]:
        """Read events as the real engine does."""
        return read_events(self._run_dir.events, offset)

    def stop(self) -> None:
        """End like an engine that was asked to stop."""
        self._code = 75

    def kill(self) -> None:
        """End at once."""
        self._code = _KILLED

    def _write_progress(self, until: int) -> None:
        for step in range(self._written + 1, until + 1):
            fraction = step / self.plan.events
            common = {"run": "model", "epoch": 1, "epochs": 1, "step": step, "steps": self.plan.events}
            self._append(Progress(**common, fraction=fraction, losses={"loss": 1 / step}, saved=False))
        self._written = max(self._written, until)

    def _append(self, event: Event) -> None:
        with self._run_dir.events.open("ab") as file:
            file.write(event.model_dump_json().encode() + b"\n")


def _checkpoint(run_dir: RunDir) -> Checkpoint:
    write_atomically(run_dir.path / "model.safetensors", _WEIGHTS)
    digest = hashlib.sha256(_WEIGHTS).hexdigest()
    about: dict[str, Any] = {"run": "model", "epoch": 1, "step": 1, "best": True, "metrics": {"AP": 0.5}}
    return Checkpoint(**about, file="model.safetensors", size=len(_WEIGHTS), sha256=digest)


class FaultyJobQueue(JobQueue):
    """Loses and doubles notifications."""

    plan: Plan
    counts: ClassVar[Counter[str]] = Counter()

    def notify(self, job: Job | Notification) -> bool:
        """Notify once, not at all, or twice."""
        self.counts["notifications"] += 1
        drawn = random.random()
        if drawn < self.plan.lost:
            self.counts["rings_lost"] += 1
            return True
        if drawn < self.plan.lost + self.plan.doubled:
            self.counts["rings_doubled"] += 1
            super().notify(job)
        return super().notify(job)


class CountingCommands(WorkerCommands):
    """A worker's commands to its store, counted."""

    counts: ClassVar[Counter[str]] = Counter()

    def claim(self, job_id: str, worker: str) -> Claim | None:
        """Claim as the store does, and count it."""
        found = super().claim(job_id, worker)
        self.counts["claims" if found else "claims_too_late"] += 1
        return found

    def renew(self, ticket: Ticket) -> Desired:
        """Renew as the store does, and count it."""
        self.counts["renewals"] += 1
        return super().renew(ticket)


class CountingRecovery(Recovery):
    """The sweeps of a store, counted."""

    def sweep(self, *, only_due: bool = False, silent: Collection[str] = ()) -> tuple[str, ...]:
        """Sweep as the store does, and count it."""
        CountingCommands.counts["sweeps"] += 1
        return super().sweep(only_due=only_due, silent=silent)


class CountingStore(Store):
    """A worker's store that counts its calls."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.commands = CountingCommands(self.database, self.policy)
        self.recovery = CountingRecovery(self.database, self.policy)


class SimulatedWorker(threading.Thread):
    """One worker, from its start until `leave` is set."""

    def __init__(self, name: str, settings: Settings, app: Any, leave: threading.Event) -> None:
        super().__init__(name=name)
        self._settings = settings
        self._app = app
        self._leave = leave

    def run(self) -> None:
        """Do what `worker.tasks.WorkerThread` does, without Celery."""
        settings, name = self._settings, self.name
        patience = {"lease_seconds": settings.lease_seconds, "max_attempts": settings.max_attempts}
        store = CountingStore(settings.database_url, **patience, idle_connections=1)
        with ExitStack() as stack:
            stack.enter_context(closing(store))
            artifacts = open_artifacts(settings.artifacts_url)
            runner = Runner(store, artifacts, FaultyJobQueue(self._app), settings, name)
            life = SignsOfLife(store, name, queues=["cpu"], gpus=[], draining=threading.Event())
            stack.enter_context(PeriodicTask(runner.sweep, settings.sweep_seconds))
            stack.enter_context(PeriodicTask(life.appear, settings.renew_seconds))
            self._listen(runner)
            runner.stop_all()

    def _listen(self, runner: Runner) -> None:
        def heard(body: Any, message: Any) -> None:
            message.ack()
            runner.run(body[0][0])

        with self._app.connection_for_read() as connection:
            queue = self._app.amqp.queues["cpu"]
            with Consumer(
                connection.channel(), [queue], callbacks=[heard], accept=["json"], prefetch_count=1
            ):
                while not self._leave.is_set():
                    with suppress(TimeoutError):
                        connection.drain_events(timeout=1.0)


def work(
    settings: dict[str, Any],
    names: list[str],
    plan: Plan,
    about: tuple[str, int],
    ready: Any,
    leave: Any,
    told: Any,
) -> None:
    """Run so many workers in this process; put their counts into `told` at the end.

    Args:
        settings: For `Settings`.
        names: Of the workers.
        plan: Their behaviour.
        about: URL of the Redis in which engines mark their runs, and a seed.
        ready: A barrier: all workers start at once.
        leave: An event that ends the workers.
        told: A queue for the counts.
    """
    random.seed(about[1])
    StandIn.plan = FaultyJobQueue.plan = plan
    StandIn.running = redis.Redis.from_url(about[0])
    worker.job_run.Engine = StandIn  # type: ignore[assignment, misc]
    made = Settings(**settings)
    app = make_app(made.broker_url)
    app.set_default()
    leaving = threading.Event()
    workers = [SimulatedWorker(name, made, app, leaving) for name in names]
    ready.wait()
    for each in workers:
        each.start()
    leave.wait()
    leaving.set()
    for each in workers:
        each.join()
    told.put({**StandIn.counts, **FaultyJobQueue.counts, **CountingCommands.counts})


def home_in_memory() -> Path:
    """Return a folder in memory where there is one: thousands of run directories need not wait for a disk there."""
    return Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
