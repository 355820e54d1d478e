"""A hundred workers and a long queue on one machine: the engine is simulated, all else is real.

    python bench/scaling.py [--jobs 2000] [--workers 100] [--processes 2] [--limit 600]

PostgreSQL and Redis are real ones; each simulated worker has its own connections, listens to the real queue and runs
the real `Runner` (`measuring/simulated.py` says what is left out). Of the notifications 5 % are lost and 5 % doubled,
1 % of the engines are killed, and 10 workers vanish with a job each at the start. Leases are 15 s, renewed every 5 s,
and sweeps come every 5 s: a third of the default, so three times the load. At the end the database is checked: every
job succeeded once, none was run twice at once, none is lost. `--limit` ends it after so many seconds; then the finished
jobs are checked, and that the others still exist.

A table goes to stderr, JSON to stdout.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import redis
from measuring import rows
from measuring.servers import postgresql, redis_server
from measuring.simulated import FaultyJobQueue, Plan, home_in_memory, work
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from jobs.job import Notification
from jobs.queue import make_app
from jobs.store.store import Store

PLAN = Plan(seconds=0.5, events=3, dies=0.01, lost=0.05, doubled=0.05)
SETTINGS: dict[str, Any] = {
    **{"lease_seconds": 15.0, "renew_seconds": 5.0, "sweep_seconds": 5.0},
    "max_attempts": 10,  # else a job that has several of the faults below in a row would rightly fail
}
SIZE = "SELECT pg_database_size(current_database())"
EVENT_SIZE = "SELECT pg_total_relation_size('events') / count(*) FROM events"
CONNECTED = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
VANISHED = 10
"""Workers that claim a job and then stop without a word to the store."""


def simulate(url: str, broker_url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Fill the queue, let the workers work, check the database."""
    patience = {name: SETTINGS[name] for name in ("lease_seconds", "max_attempts")}
    with closing(Store(url, **patience)) as store:
        store.migrate()
        empty = _scalar(store, SIZE)
        rows.queue(store, options.jobs)
        queued = _scalar(store, SIZE)
        costs = _costs(store)
        _vanish(store)
        _ring(store, broker_url)
        counts, run = _run(store, url, broker_url, options)
        with closing(redis.Redis.from_url(broker_url)) as broker:
            left = sum(broker.llen(key) for key in broker.keys("cpu*"))
        sizes = {"queued": queued - empty, "at_the_end": _scalar(store, SIZE) - empty}
        return {
            "with_all_queued": costs,
            "run": run | {"rings_left_over": left},
            "counted": counts,
            "bytes_a_job": {name: size // options.jobs for name, size in sizes.items()},
            "bytes_an_event": {"with_indexes": _scalar(store, EVENT_SIZE)},
            "books": _books(store, counts),
        }


def _costs(store: Store) -> dict[str, float]:
    """Return the milliseconds of single methods of the store with the whole queue in it.

    The jobs that are claimed for it are requeued.
    """
    ids, claimed = iter(store.recovery.sweep()), []
    sweeps = {"first_sweep_ms": store.recovery.sweep, "sweep_ms": lambda: store.recovery.sweep(only_due=True)}
    found = {"claim_ms": _median_ms(lambda: claimed.append(store.commands.claim(next(ids), "measuring")), 20)}
    found |= {name: _median_ms(sweep, 5) for name, sweep in sweeps.items()}
    for claim in filter(None, claimed):
        store.commands.requeue(claim.ticket, "claimed for a measurement")
    return found


def _median_ms(verb: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        verb()
        taken.append((time.perf_counter() - started) * 1e3)
    return round(statistics.median(taken), 2)


def _vanish(store: Store) -> None:
    for number, job_id in enumerate(store.recovery.sweep()[:VANISHED]):
        store.commands.claim(job_id, f"vanished-{number}")


def _ring(store: Store, broker_url: str) -> None:
    """Notify the queue of every job as submissions would, except that some notifications are lost."""
    FaultyJobQueue.plan = PLAN
    job_queue = FaultyJobQueue(make_app(broker_url))
    with store.database.read() as connection:
        queued = connection.execute(
            text("SELECT id, queue, priority FROM jobs WHERE state = 'queued' ORDER BY number")
        )
        for row in queued.all():
            job_queue.notify(Notification(*row))


def _run(
    store: Store, url: str, broker_url: str, options: argparse.Namespace
) -> tuple[Counter[str], dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    ready, leave, told = context.Barrier(options.processes + 1), context.Event(), context.Queue()
    names = [f"worker-{number:03}" for number in range(options.workers)]
    home = tempfile.mkdtemp(prefix="gkd-", dir=home_in_memory())
    settings = {**SETTINGS, "database_url": url, "broker_url": broker_url, "home": home, "free_bytes": 0}
    settings["data_roots"] = "/data"  # where the jobs of rows.py claim to have pictures, which nobody reads
    processes = [
        context.Process(
            target=work,
            args=(
                settings,
                names[each :: options.processes],
                PLAN,
                (broker_url.replace("/0", "/1"), each),
                ready,
                leave,
                told,
            ),
        )
        for each in range(options.processes)
    ]
    try:
        for process in processes:
            process.start()
        ready.wait()
        run = _until_done(store, options)
    finally:
        leave.set()
    counts: Counter[str] = Counter()
    for _ in processes:
        counts.update(told.get())
    for process in processes:
        process.join()
    shutil.rmtree(home)
    return Counter(dict(sorted(counts.items()))), run


def _until_done(store: Store, options: argparse.Namespace) -> dict[str, Any]:
    """Wait until every job is done or the time is over."""
    started, first = time.monotonic(), _activity(store)
    connections, done, told = 0, 0, 0.0
    while done < options.jobs and (taken := time.monotonic() - started) < options.limit:
        time.sleep(1.0)
        connections = max(
            connections,
            _scalar(store, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"),
        )
        done = _scalar(store, "SELECT count(*) FROM jobs WHERE state = 'succeeded'")
        if taken - told > 20:
            told = taken
            print(f"{done} of {options.jobs} jobs after {taken:.0f} s", file=sys.stderr, flush=True)
    taken, last = time.monotonic() - started, _activity(store)
    per_second = {
        f"{name}_per_second": round((last[name] - first[name]) / taken, 1) for name in ("commits", "rows")
    }
    return {
        "jobs_done": done,
        "seconds": round(taken, 1),
        "jobs_per_second": round(done / taken, 1),
        **per_second,
        "most_connections": connections,
    }


def _activity(store: Store) -> dict[str, int]:
    query = "SELECT xact_commit, tup_inserted + tup_updated FROM pg_stat_database WHERE datname = current_database()"
    with store.database.read() as connection:
        commits, changed = connection.execute(text(query)).one()
    return {"commits": commits, "rows": changed}


def _books(store: Store, counts: Counter[str]) -> dict[str, int]:
    """Return the counts that must be 0, and the numbers of repaired faults."""
    wrong = {
        "succeeded_more_than_once": "SELECT count(*) FROM (SELECT job_id FROM attempts WHERE outcome = 'succeeded' "
        "GROUP BY job_id HAVING count(*) > 1) AS twice",
        "attempts_that_overlap": "SELECT count(*) FROM attempts a JOIN attempts b ON a.job_id = b.job_id "
        "AND a.attempt < b.attempt WHERE a.ended_at > b.started_at",
        "events_with_gaps": "SELECT count(*) FROM (SELECT j.id FROM jobs j JOIN events e ON e.job_id = j.id "
        "GROUP BY j.id HAVING count(*) <> max(e.number) OR max(e.number) <> max(j.event_count)) AS torn",
        "done_without_their_file": "SELECT count(*) FROM jobs j WHERE state = 'succeeded' AND NOT EXISTS "
        "(SELECT 1 FROM artifacts a WHERE a.job_id = j.id)",
        "failed": "SELECT count(*) FROM jobs WHERE state NOT IN ('succeeded', 'queued', 'running')",
    }
    mended = {
        "workers_lost": "SELECT count(*) FROM attempts WHERE outcome = 'lost'",
        "engines_lost": "SELECT count(*) FROM attempts WHERE outcome = 'requeued' AND worker <> 'measuring'",
        "still_queued_or_running": "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')",
    }
    zero = {name: _scalar(store, query) for name, query in wrong.items()}
    return {
        "run_twice_at_once": int(counts["twice_at_once"]),
        **zero,
        **{name: _scalar(store, query) for name, query in mended.items()},
    }


def _scalar(store: Store, query: str) -> int:
    with store.database.read() as connection:
        return int(connection.scalar(text(query)))


def main() -> None:
    """Run the simulation, print a table and JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("jobs", 2000), ("workers", 100), ("processes", 2), ("limit", 3600)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with postgresql("gkd", connections=3 * options.workers + 50) as (url,), redis_server() as broker_url:
        found = simulate(url, broker_url, options)
    table = Table("what", "", "figure")
    for group, figures in found.items():
        for name, value in figures.items():
            table.add_row(group.replace("_", " "), name.replace("_", " "), f"{value:g}")
    Console(stderr=True, width=100).print(table)
    print(
        json.dumps(
            {**vars(options), "cores": os.cpu_count(), "load_before": round(load, 2), **found}, indent=1
        )
    )


if __name__ == "__main__":
    main()
