"""The job store: every transition of a job's state and every row of the database.

`store.py` has the class `Store`; the other modules are its parts. Only they and the migrations import
`tables.py`.
"""
