"""The list of jobs: what is open, in the order in which it will run, then what has ended, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from api.deps import Services, ServicesDep, TenantDep
from api.errors import no_cursor
from api.ui import words
from api.ui.pages import render
from api.ui.summary import Summary, summary_of
from jobs.errors import UnknownCursor
from jobs.job import END_STATES, Job, State
from jobs.specs.spec import Kind
from jobs.store.overview import COUNTED, ENDED

router = APIRouter(include_in_schema=False)

A_PAGE = 50
"""Ended jobs on one page."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Filter:
    """Which jobs are shown, as the address says it."""

    state: State | None
    kind: Kind | None
    text: str

    def address(self, **changes: str) -> str:
        """Return the address of the list with this filter, changed; empty values are left out."""
        values = {"state": self.state or "", "kind": self.kind or "", "q": self.text} | changes
        query = urlencode({name: value for name, value in values.items() if value})
        return f"/ui/jobs?{query}" if query else "/ui/jobs"

    def of_store(self) -> dict[str, Any]:
        """Return the arguments for the store: a text with a colon is a tag."""
        is_tag = ":" in self.text
        return {
            "kind": self.kind,
            "tags": (self.text,) if is_tag else (),
            "search": self.text if self.text and not is_tag else None,
        }


@router.get("/ui/jobs")
def job_list(
    request: Request,
    services: ServicesDep,
    tenant: TenantDep,
    state: State | Literal[""] = "",
    kind: Kind | Literal[""] = "",
    q: Annotated[str, Query(max_length=300)] = "",
    after: str | None = None,
) -> Response:
    """Show jobs by state, kind, and a text in their name, id or tags."""
    wanted = Filter(State(state) if state else None, kind or None, q.strip())
    counts = services.store.overview.counts(tenant=tenant)
    groups, following = _groups(services, tenant, wanted, after)
    return render(
        request,
        "jobs.html",
        filter=wanted,
        groups=groups,
        tabs=_tabs(wanted, counts),
        kinds=KINDS,
        sentence=_sentence(counts, groups),
        any_at_all=any(counts.values()),
        next=wanted.address(after=following) if following else None,
        first=wanted.address() if after else None,
        address=str(request.base_url).rstrip("/"),
    )


def _groups(
    services: Services, tenant: str, wanted: Filter, after: str | None
) -> tuple[list[tuple[str, list[Summary]]], str | None]:
    """Return the jobs of the page in groups with a heading, and the cursor of the next page."""
    chosen = wanted.of_store()
    is_first = wanted.state is None and after is None
    open_jobs = services.store.overview.open_jobs(tenant=tenant, **chosen) if is_first else ()
    states = (wanted.state.value,) if wanted.state else ENDED
    try:
        page = services.store.reading.list_jobs(
            states=states, after=after, limit=A_PAGE, tenant=tenant, **chosen
        )
    except UnknownCursor as error:
        raise no_cursor(error) from None
    ended = [job.id for job in page.items if job.state in END_STATES]
    reports = services.store.overview.reports(ended, tenant=tenant) if ended else {}
    of_page = [summary_of(job, reports.get(job.id)) for job in page.items]
    groups = [("", [summary_of(job, None) for job in open_jobs])]
    groups.append(("Ended" if wanted.state is None else "", of_page))
    return [(heading, rows) for heading, rows in groups if rows], page.next


def _tabs(wanted: Filter, counts: dict[State, int]) -> list[dict[str, Any]]:
    """Return the tabs by state: text, number, address, and whether it is the current one."""
    order = ("running", "queued", "paused", "failed", "succeeded", "cancelled")
    whole = sum(counts.values())
    most = whole + 1 if all(number < COUNTED for number in counts.values()) else COUNTED
    tabs = [{"text": "All", "number": _number(whole, most), "href": wanted.address(state="")}]
    for name in order:
        number = _number(counts[State(name)], COUNTED)
        tabs.append({"text": name.capitalize(), "number": number, "href": wanted.address(state=name)})
    current = 0 if wanted.state is None else 1 + order.index(wanted.state.value)
    return [tab | {"current": place == current} for place, tab in enumerate(tabs)]


def _number(number: int, most: int) -> str:
    return f"{most - 1}+" if number >= most else str(number)


def _sentence(counts: dict[State, int], groups: list[tuple[str, list[Summary]]]) -> list[tuple[str, str]]:
    """Return what runs, waits and failed as parts of a sentence, each with an address to look closer."""
    parts = []
    for state, one, many in (
        (State.RUNNING, "job runs", "jobs run"),
        (State.QUEUED, "waits", "wait"),
        (State.PAUSED, "is paused", "are paused"),
        (State.FAILED, "failed", "failed"),
    ):
        if number := counts[state]:
            text = f"{_number(number, COUNTED)} {one if number == 1 else many}"
            if state is State.QUEUED and (oldest := _oldest(groups)):
                text += f", the oldest for {words.age(oldest.created_at)}"
            parts.append((text, f"/ui/jobs?state={state}"))
    return parts


def _oldest(groups: list[tuple[str, list[Summary]]]) -> Job | None:
    waiting = [row.job for _, rows in groups for row in rows if row.job.state is State.QUEUED]
    return min(waiting, key=lambda job: job.created_at, default=None)
