"""Runs jobs: takes a job id, starts the engine process, carries its events into the store, and says how it ended.

Not here: the training itself (`gkd_core`, another process), the rules of the state machine (`jobs.store.store`), HTTP,
torch. The worker meets the engine in the run directory and nowhere else.

Read first: `job_run.py` (one job, top to bottom), `engine.py` (starting and stopping the process), `lease.py`
(keeping the job while it runs), `endings.py` (what an exit code means), then `runner.py` (which job next),
`tasks.py` (Celery) and `sweeper.py`.
"""
