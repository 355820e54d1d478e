"""Recovery: takes jobs back from lost workers, finds lost notifications, lists the files in use."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import Connection, case, exists, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gkd_core.errors import Failure, FailureClass
from jobs.job import QUEUES, Notification, State, Ticket
from jobs.metrics import LEASES_LOST, SWEEPS
from jobs.store.attempts import LOST, BrokenOff, give_back, lock
from jobs.store.counters import tally
from jobs.store.database import Database, now
from jobs.store.leases import LeasePolicy
from jobs.store.queue_reasons import is_ready
from jobs.store.quotas import without_room
from jobs.store.resources import kept_uploads
from jobs.store.tables import artifacts, deleted, jobs, turns, waits
from jobs.store.transitions import (
    NOTIFY_AGAIN_SECONDS,
    Condition,
    fail_waiting,
    holds,
    is_in,
    is_job,
    is_open,
    move,
)

_LONGEST_NOTIFY_PAUSE = 600.0
"""Maximum time between two notifications for the same job, in seconds. Without it a long wait would fill the
queue with notifications."""
_SET_BACK_SECONDS = 600.0
"""A lease that ends this much later than one that begins now dates from before the database's clock was set
back."""
_FRONT = 500
"""Number of jobs at the front of each queue for which a sweep notifies workers: more than there are workers
that could become free before the next sweep. Notifications for jobs behind them would find no free worker,
and a long queue would fill Redis."""


class Recovery:
    """Methods of the sweeper. Concurrent sweeps are safe: each job is taken back by one of them."""

    def __init__(self, database: Database, policy: LeasePolicy) -> None:
        self.database = database
        self.policy = policy

    def sweep(self, *, only_due: bool = False, silent: Collection[str] = ()) -> tuple[str, ...]:
        """Take lost jobs back and find queued jobs whose workers must be notified.

        Args:
            only_due: Leave out jobs for which the last notification was a short time ago: for periodic sweeps,
                so that notifications for a long queue do not pile up.
            silent: Queues in which no notification waits; their jobs are due whenever their last notification
                was.

        Returns:
            Ids of queued jobs that are ready to run, in queue order, up to `_FRONT` per queue: notify workers
            of them.
        """
        self._shorten_leases()
        expired = jobs.c.lease_until < now()
        for ticket in self._running_tickets(expired):
            self._take_back(
                ticket, expired, "expired", f"no sign of life for {self.policy.lease_seconds:g} s"
            )
        self._fail_orphans()
        return self._to_notify(only_due, silent)

    def release(self, worker: str) -> None:
        """Take back at once what a worker of this name held, for a caller that knows the worker is dead (it restarted).

        Notifications that it had taken from the queue are lost with it, so every queued job is due at the next
        sweep.
        """
        held = jobs.c.worker == worker
        for ticket in self._running_tickets(held):
            self._take_back(ticket, held, "killed", "it was started again")
        with self.database.write() as connection:
            connection.execute(
                update(jobs).where(is_in(State.QUEUED), jobs.c.ring_at > now()).values(ring_at=now())
            )

    def take_turn(self, what: str, seconds: float) -> bool:
        """Return whether the caller is to run a task that one process should run once per period.

        Args:
            what: Name of the task.
            seconds: The period, during which every other caller gets False.
        """
        dialect = {"postgresql": postgresql, "sqlite": sqlite}[self.database.engine.dialect.name]
        take = dialect.insert(turns).values(what=what, taken_until=now() + seconds)
        until = {"taken_until": take.excluded.taken_until}
        # A turn that ends later than one that begins now dates from before the database's clock was set back.
        is_over = or_(turns.c.taken_until <= now(), turns.c.taken_until > now() + seconds)
        take = take.on_conflict_do_update(index_elements=[turns.c.what], set_=until, where=is_over)
        with self.database.write() as connection:
            return connection.execute(take.returning(turns.c.what)).one_or_none() is not None

    def notifications(self, job_ids: Sequence[str]) -> tuple[Notification, ...]:
        """Return the notifications of those of these jobs that are queued, in the given order."""
        place = {job_id: number for number, job_id in enumerate(job_ids)}
        query = select(jobs.c.id, jobs.c.queue, jobs.c.priority).where(jobs.c.id.in_(job_ids))
        with self.database.read() as connection:
            rows = connection.execute(query.where(is_in(State.QUEUED))).all()
        return tuple(sorted((Notification(*row) for row in rows), key=lambda each: place[each.id]))

    def waits_for_room(self, free: int) -> bool:
        """Return whether some job waits for at most this many free bytes (see `make_use_of_room`).

        Usually none does.
        """
        with self.database.read() as connection:
            return connection.scalar(select(jobs.c.id).where(jobs.c.needs_free <= free).limit(1)) is not None

    def make_use_of_room(self, free: int) -> tuple[str, ...]:
        """Let the jobs continue that were paused, or not started, for lack of disk space.

        Args:
            free: Free bytes on the disks of run directories and published files.

        Returns:
            Their ids: notify workers of them.
        """
        enough = jobs.c.needs_free <= free
        held = select(jobs.c.id, jobs.c.state).where(enough).order_by(jobs.c.number)
        with self.database.read() as connection:
            waiting = connection.execute(held).all()
        return tuple(row.id for row in waiting if self._continue_job(row.id, State(row.state), enough))

    def _continue_job(self, job_id: str, state: State, enough: Condition) -> bool:
        where = (is_job(job_id), is_in(state), enough)
        with self.database.write() as connection:
            if state is State.PAUSED:
                resumed = move(connection, State.QUEUED, *where, reason="resumed: there is room again")
                return resumed is not None
            told = update(jobs).where(*where).values(reason="", needs_free=None)
            return state is State.QUEUED and connection.execute(told).rowcount == 1

    def published(self) -> frozenset[str]:
        """Return the SHA-256 of every file that a job, data set or model names.

        Other files in the artifacts are unused.
        """
        with self.database.read() as connection:
            named = frozenset(connection.scalars(select(artifacts.c.sha256).distinct()))
            return named | kept_uploads(connection)

    def ended(self, seconds: float) -> tuple[str, ...]:
        """Return ids of the jobs that ended more than `seconds` ago."""
        query = select(jobs.c.id).where(jobs.c.finished_at < now() - seconds)
        with self.database.read() as connection:
            return tuple(connection.scalars(query))

    def is_being_retried(self, job_id: str) -> bool:
        """Return whether an open job retries this one, and may resume from its checkpoint."""
        query = exists().where(jobs.c.retry_of == job_id, is_open())
        with self.database.read() as connection:
            return bool(connection.scalar(select(query)))

    def deleted(self, job_ids: Iterable[str]) -> frozenset[str]:
        """Return those of these jobs that existed and were deleted; jobs of another database are not among them."""
        query = select(deleted.c.id).where(deleted.c.id.in_(job_ids))
        with self.database.read() as connection:
            return frozenset(connection.scalars(query))

    def _running_tickets(self, condition: Condition) -> list[Ticket]:
        with self.database.read() as connection:
            query = select(jobs.c.id, jobs.c.attempt).where(is_in(State.RUNNING), condition)
            return [Ticket(row.id, row.attempt) for row in connection.execute(query)]

    def _shorten_leases(self) -> None:
        """Shorten leases that are too long because the database's clock was set back.

        Live workers renew them in time.
        """
        full = now() + self.policy.lease_seconds
        too_long = jobs.c.lease_until > full + _SET_BACK_SECONDS
        for ticket in self._running_tickets(too_long):
            with self.database.write() as connection:
                connection.execute(update(jobs).where(*holds(ticket), too_long).values(lease_until=full))

    def _take_back(self, ticket: Ticket, condition: Condition, how: str, why: str) -> None:
        """Take one job back, in a transaction of its own, so that a long list of lost jobs blocks nobody."""
        with self.database.write() as connection:
            row = lock(connection, *holds(ticket), condition)
            if row is None:  # it was renewed, has ended, or another sweep was first
                return
            failure = Failure(
                failure_class=FailureClass.INFRASTRUCTURE,
                message=f"worker {row.worker} was lost: {why}",
                hint="Look at that machine: memory, disk, power, network.",
            )
            attempt = BrokenOff(LOST, failure.message, failure)
            give_back(connection, row, attempt, self.policy.max_attempts)
            tally(connection, LEASES_LOST, how)

    def _fail_orphans(self) -> None:
        """Fail jobs that were submitted at the moment when the job they wait for ended without a model."""
        dead = (State.FAILED.value, State.CANCELLED.value)
        other = jobs.alias()
        pairs = select(other.c.id, other.c.state).join(waits, waits.c.waits_for == other.c.id)
        pairs = pairs.join(jobs, jobs.c.id == waits.c.job_id)
        query = pairs.where(other.c.state.in_(dead), is_in(State.QUEUED)).distinct()
        with self.database.read() as connection:  # usually there are none
            orphaned = connection.execute(query).all()
        for row in orphaned:
            with self.database.write() as connection:
                fail_waiting(connection, row.id, State(row.state))

    def _to_notify(self, only_due: bool, silent: Collection[str]) -> tuple[str, ...]:
        age = now() - jobs.c.queued_at
        pause = case(
            (age < NOTIFY_AGAIN_SECONDS, NOTIFY_AGAIN_SECONDS),
            (age > _LONGEST_NOTIFY_PAUSE, _LONGEST_NOTIFY_PAUSE),
            else_=age,
        )
        with self.database.read() as connection:
            front = _jobs_in_front(connection)
        # A pause longer than the second condition allows dates from before the database's clock was set back.
        is_due = or_(
            jobs.c.ring_at <= now(),
            jobs.c.ring_at > now() + _LONGEST_NOTIFY_PAUSE,
            jobs.c.queue.in_(silent),
        )
        due = [is_due] if only_due else []
        # Rows that are locked are skipped: two sweeps that update them in different orders would deadlock.
        free = select(jobs.c.id).where(jobs.c.id.in_(front), is_in(State.QUEUED), *due)
        free = free.with_for_update(skip_locked=True)
        statement = update(jobs).where(jobs.c.id.in_(free)).values(ring_at=now() + pause)
        with self.database.write() as connection:
            rows = connection.execute(
                statement.returning(jobs.c.id, jobs.c.priority, jobs.c.queued_at, jobs.c.number)
            ).all()
            tally(connection, SWEEPS)
        return tuple(
            row.id for row in sorted(rows, key=lambda row: (-row.priority, row.queued_at, row.number))
        )


def _jobs_in_front(connection: Connection) -> list[str]:
    """Return ids of the jobs that could run, the first ones of each queue.

    A job whose tenant has reached its limit of running jobs is left out: it keeps its old `ring_at`, so that
    the first sweep after a job of the tenant has ended notifies workers of it.
    """
    could_run = (is_in(State.QUEUED), is_ready(for_few=True), jobs.c.tenant.not_in(without_room(connection)))
    in_line = (
        select(jobs.c.id).where(*could_run).order_by(jobs.c.priority.desc(), jobs.c.queued_at).limit(_FRONT)
    )
    return [job_id for queue in QUEUES for job_id in connection.scalars(in_line.where(jobs.c.queue == queue))]
