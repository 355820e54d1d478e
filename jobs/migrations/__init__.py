"""Changes of the tables, in order, carried out by `Store.migrate`.

A new one is a file in `versions/` with the next number, written by hand; a test compares the result with
`jobs/store/tables.py`. Migrations spell tables out: what they did must not change when `tables.py` does.
"""
