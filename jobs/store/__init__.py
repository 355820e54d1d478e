"""The one store: every change of a job's state, every row.

`store.py` has the class; the other modules are its parts. Only they and the migrations know `tables.py`.
"""
