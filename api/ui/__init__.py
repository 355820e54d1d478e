"""Pages for people below `/ui`: HTML by the server, charts as SVG, one style sheet, no script needed.

They show what the routes of the API answer and send what those take: each page calls the same functions, with the
same tenant and the same errors. Names that users gave are text in every template (`pages.py` escapes all values).

Read first: `pages.py` (rendering and its headers), `job_list.py`, `job_page.py`; then `session.py` (login, tokens of
forms), `error_pages.py`, `charts.py`.
"""
