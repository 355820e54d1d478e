"""Jobs: their specs, their states, the store, their files, and the job queue.

Not here: HTTP (`api`), running a job (`worker`), torch. The database is the source of truth; the queue carries
job ids and may lose or duplicate them.

Read first: `job.py` (states and transitions), `specs/spec.py` (job specs), `store/store.py` (operations), then
`queue.py`, `artifacts/` and `settings.py`. Only the store and the migrations import `store/tables.py`.
"""
