"""The worker: claims a job, starts the engine process, records its events in the store, and ends the attempt.

Not here: the training itself (`gkd_core`, another process), the rules of the state machine
(`jobs.store.store`), HTTP, torch. Worker and engine communicate through the run directory only.

Read first: `job_run.py` (one job, top to bottom), `event_recorder.py` (its events and files), `engine.py` (starting
and stopping the process), `lease.py` (keeping the job while it runs), `exit_codes.py` (what an exit code means),
then `runner.py` (which job next), `tasks.py` (Celery) and `periodic_task.py`.
"""
