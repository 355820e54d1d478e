"""A worker process whose broker redelivers a message after so many seconds: `work.py SECONDS`."""

from __future__ import annotations

import sys

from celery import Celery

from jobs.settings import Settings
from worker import tasks

if __name__ == "__main__":
    make_app = tasks.make_app

    def impatient(url: str) -> Celery:
        app = make_app(url)
        options = {"visibility_timeout": int(sys.argv[1])}
        app.conf.broker_transport_options = {**app.conf.broker_transport_options, **options}
        return app

    tasks.make_app = impatient
    tasks.work(Settings())
