"""The HTTP API of the job store: thin routes that validate, call the store, and answer.

Not here: the job and its states (`jobs`), running one (`worker`), torch. No route owns a transaction or a rule;
`errors.py` is the only place that maps errors of the other packages to status codes.

Read first: `app.py` (assembly), `routes/jobs.py` (submitting a job), `errors.py`.
"""
