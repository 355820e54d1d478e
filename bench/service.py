"""The service under load: reading, submitting, listing, claiming, following, starting; ratios are of one run.

    python bench/service.py [--part NAME]... [--rounds 5]

Parts: `read` (GET /jobs/{id} against a bare FastAPI route that does one SELECT, in the same process), `submit` (POST
/jobs, 100 a second), `list` (a page with 100,000 jobs against one with 1,000), `claim` (16 processes on PostgreSQL),
`follow` (200 listeners on one job), `start` (from a submission to the engine's first line, in both ways to run it).

PostgreSQL, Redis and SQLite are real ones of their own and sync to the disk; they lie in a temporary folder, and
nothing else is written. A table goes to stderr, JSON to stdout. Without arguments it takes two to three minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from measuring import http, rows
from measuring.claims import claims_per_second
from measuring.following import follow
from measuring.promptness import seconds_to_first_line
from measuring.server import Where, serving
from measuring.servers import postgresql, redis_server
from rich.console import Console
from rich.table import Table

from gkd_core.data.shapes import draw_shapes
from jobs.store.store import Store

SMALL, LARGE = 1_000, 100_000
"""Jobs in the two databases."""
CONNECTIONS = 8
"""Connections of a measurement of requests a second: enough to keep one process busy."""
PER_SECOND, POST_SECONDS = 100, 15
CLAIMANTS, CLAIMS = 16, 3_000
LISTENERS, EVENTS = 200, 100

Found = dict[str, Any]


class Bench:
    """One database with the service in front of it."""

    def __init__(self, port: int, stores: dict[str, Store], rounds: int) -> None:
        self.port = port
        self.stores = stores
        self.rounds = rounds

    def read(self) -> Found:
        """Measure requests a second, in turn with the bare route, and the median of the ratios."""
        queued, running = (rows.submit(self.stores["small"]) for _ in range(2))
        rows.begin(self.stores["small"], running)
        paths = {"bare": f"/small-bare/{queued.id}", "queued": f"/small/jobs/{queued.id}"}
        paths["running"] = f"/small/jobs/{running.id}"
        rates = [{name: self._rate(path) for name, path in paths.items()} for _ in range(self.rounds)]
        found: Found = {f"{name}_per_second": median([each[name] for each in rates]) for name in paths}
        for name in ("queued", "running"):
            found[f"{name}_ratio"] = median([each[name] / each["bare"] for each in rates])
        return found

    def _rate(self, path: str) -> float:
        return asyncio.run(http.rate(self.port, http.get(path), connections=CONNECTIONS, seconds=1.0))

    def submit(self) -> Found:
        """Measure the milliseconds of a POST that checks its data set, queues the job and notifies, at 100 a second.

        A second of fewer requests goes before them: imports at the first one are not counted.
        """
        spec = {"kind": "train", "data": "shapes", "train": {"epochs": 2, "image_size": 64}}
        request = http.post("/small/jobs", json.dumps(spec).encode())
        sent = partial(http.latencies, self.port, lambda _: request, connections=64, expected=201)
        asyncio.run(sent(per_second=PER_SECOND / 5, seconds=1.0))
        taken = asyncio.run(sent(per_second=PER_SECOND, seconds=POST_SECONDS))
        middle, p99 = statistics.median(taken), statistics.quantiles(taken, n=100)[98]
        worst = {"median_ms": middle * 1e3, "p99_ms": p99 * 1e3, "most_ms": max(taken) * 1e3}
        return {"jobs": len(taken), **worst, "p99_ratio": p99 / middle}

    def list(self) -> Found:
        """Measure the milliseconds of a page of 50, in turn from a small and a large database, and their ratio."""
        found: Found = {}
        for name, query in PAGES.items():
            pairs = [self._page_times(query) for _ in range(3 * self.rounds)]
            found[f"{name}_ms"] = median([large for _, large in pairs]) * 1e3
            found[f"{name}_ratio"] = median([large for _, large in pairs]) / median(
                [small for small, _ in pairs]
            )
        return found

    def _page_times(self, query: str) -> tuple[float, float]:
        small, large = (self._page_time(f"/{name}/jobs{query}") for name in ("small", "large"))
        return small, large

    def _page_time(self, path: str) -> float:
        got = asyncio.run(
            http.latencies(
                self.port,
                lambda _: http.get(path),
                per_second=1000,
                seconds=0.001,
                connections=1,
                expected=200,
            )
        )
        return got[0]

    def follow(self) -> Found:
        """Measure 200 clients that follow one job, which records 20 events a second."""
        return follow(self.stores["small"], self.port, "/small", listeners=LISTENERS, events=EVENTS)


PAGES = {
    "page": "",
    "queued": "?state=queued",
    "failed": "?state=failed",
    "of_a_kind_that_is_not_there": "?kind=export",
    "with_a_tag_that_all_have": "?tag=team:lab",
    "with_a_tag_that_none_has": "?tag=team:moon",
}
PARTS = ("read", "submit", "list", "claim", "follow", "start")


def median(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def on_database(name: str, urls: dict[str, str], broker_url: str, parts: list[str], rounds: int) -> Found:
    """Measure everything that goes through HTTP, on one kind of database."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        draw_shapes(home / "data" / "shapes", train=4, val=2, size=64, seed=0)
        stores = {each: stack.enter_context(closing(Store(url))) for each, url in urls.items()}
        for store in stores.values():
            store.migrate()
        if {"list", "read"} & set(parts):
            rows.fill(stores["small"], SMALL)
        if "list" in parts:
            rows.fill(stores["large"], LARGE)
        where = Where(str(home), str(home / "data"), broker_url, urls)
        bench = Bench(stack.enter_context(serving(where)), stores, rounds)
        return {part: told(f"{name}: {part}", getattr(bench, part)) for part in parts}


def told(what: str, measure: Callable[[], Found]) -> Found:
    """Print what is measured, measure it, and return the figures rounded."""
    print(what, file=sys.stderr, flush=True)
    return {
        key: value if isinstance(value, int) else float(f"{value:.4g}") for key, value in measure().items()
    }


def measure(parts: list[str], rounds: int) -> Found:
    """Run the parts that are asked for."""
    found: Found = {}
    with postgresql("small", "large", "claim", "start") as urls, redis_server() as broker:
        http_parts = [part for part in parts if part not in ("claim", "start")]
        if http_parts:
            databases = dict(zip(("small", "large"), urls, strict=False))
            found["postgresql"] = on_database("PostgreSQL", databases, broker, http_parts, rounds)
            with tempfile.TemporaryDirectory() as folder:
                files = {name: f"sqlite:///{folder}/{name}.db" for name in ("small", "large")}
                found["sqlite"] = on_database("SQLite", files, "memory://", http_parts, rounds)
        if "claim" in parts:
            found["claim"] = told("claims", lambda: claims_per_second(urls[2], CLAIMANTS, CLAIMS))
        if "start" in parts:
            found["start"] = told(
                "from a submission to the first line",
                lambda: seconds_to_first_line(urls[3], broker.replace("/0", "/1")),
            )
    return found


def show(found: Found) -> None:
    """Print the table for people."""
    table = Table("where", "what", "figure")
    for where, parts in found.items():
        groups = parts if any(isinstance(value, dict) for value in parts.values()) else {"": parts}
        for part, figures in groups.items():
            for name, value in figures.items():
                table.add_row(where, f"{part} {name}".replace("_", " ").strip(), f"{value:g}")
    Console(stderr=True, width=100).print(table)


def main() -> None:
    """Measure, print the table and JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="Only this one; may be repeated.")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    found = measure(options.part or list(PARTS), options.rounds)
    show(found)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "load_before": round(load, 2)}
    print(json.dumps({"machine": machine, **found}, indent=1))


if __name__ == "__main__":
    main()
