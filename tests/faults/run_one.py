"""A worker process that runs one job and ends, for tests that kill or freeze it: `run_one.py JOB_ID NAME`."""

from __future__ import annotations

import sys

from jobs.artifacts import open_artifacts
from jobs.queue import JobQueue, make_app
from jobs.settings import Settings
from jobs.store.store import Store
from worker.runner import Runner

if __name__ == "__main__":
    job_id, name = sys.argv[1:]
    settings = Settings()
    store = Store(settings.database_url, lease_seconds=settings.lease_seconds)
    runner = Runner(
        store, open_artifacts(settings.artifacts_url), JobQueue(make_app("memory://")), settings, name
    )
    runner.run(job_id)
