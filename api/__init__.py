"""HTTP in front of the job store: thin routes that check, ask the store, and answer.

Not here: what a job is and how it moves (`jobs`), running one (`worker`), torch. No route owns a transaction
or a rule; `errors.py` is the only place where an error of the other packages meets a status code.

Read first: `app.py` (how it is put together), `routes/jobs.py` (asking for a job), `errors.py`.
"""
