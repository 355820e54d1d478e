"""What a job is: its spec, its states, the one store that moves it, its files, and the job_queue.

Not here: HTTP (`api`), running a job (`worker`), torch. The database is the truth; the queue carries job ids
and may lose or double them.

Read first: `job.py` (states and moves), `specs/spec.py` (what is asked for), `store/store.py` (the verbs), then
`queue.py`, `artifacts/` and `settings.py`. Only the store and the migrations know `store/tables.py`.
"""
