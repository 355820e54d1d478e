"""Measures how quickly jobs are claimed by many processes, each with a store of its own."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import closing
from typing import Any

from sqlalchemy import select

from jobs.job import State
from jobs.store.store import Store
from jobs.store.tables import jobs
from measuring import rows


def claims_per_second(url: str, claimants: int, count: int) -> dict[str, Any]:
    """Claim so many queued jobs, first each by one claimant, then each by all.

    Args:
        url: A migrated database.
        claimants: Processes.
        count: Jobs in either round.

    Returns:
        Claims a second, and how many jobs went to more or fewer than one claimant: 0.
    """
    shared = _round(url, claimants, count, everybody=False)
    contended = _round(url, claimants, count // 4, everybody=True)
    return {
        "claimants": claimants,
        "claims_per_second": shared["per_second"],
        "contended_claims_per_second": contended["per_second"],
        "not_claimed_once": shared["not_once"] + contended["not_once"],
    }


def _round(url: str, claimants: int, count: int, *, everybody: bool) -> dict[str, Any]:
    with closing(Store(url)) as store:
        store.migrate()
        rows.queue(store, count)
        with store.database.read() as connection:
            queued = select(jobs.c.id).where(jobs.c.state == State.QUEUED.value).order_by(jobs.c.number)
            ids = list(connection.scalars(queued.limit(count)))
    context = multiprocessing.get_context(
        "fork"
    )  # sixteen imports of all modules would take longer than the claims
    ready, results = context.Barrier(claimants + 1), context.SimpleQueue()
    mine = [ids if everybody else ids[number::claimants] for number in range(claimants)]
    processes = [
        context.Process(target=_claim, args=(url, f"worker-{number}", mine[number], ready, results))
        for number in range(claimants)
    ]
    for process in processes:
        process.start()
    ready.wait()
    started = time.perf_counter()
    won = [job_id for _ in processes for job_id in results.get()]
    taken = time.perf_counter() - started
    for process in processes:
        process.join()
    return {"per_second": len(won) / taken, "not_once": len(won) - len(set(won)) + len(ids) - len(set(won))}


def _claim(url: str, worker: str, ids: list[str], ready: Any, results: Any) -> None:
    with closing(Store(url)) as store:
        store.ping()
        ready.wait()
        results.put([job_id for job_id in ids if store.commands.claim(job_id, worker) is not None])
