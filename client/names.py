"""What people write for an id: the id, the beginning of one, or a name.

The service knows whole ids only; this is the one place where something shorter becomes one. An id that is there is
taken as it is, without asking for a list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Protocol, TypeVar

from client.client import ApiError, Client, ClientError
from client.show import age
from jobs.job import Job
from jobs.resources import Resource, ResourceKind

NEWEST = 2000
"""How many jobs, or data sets, or models, a name is looked for among."""
SHOWN = 8
"""Candidates that are listed where several fit."""


class NotOne(ClientError):
    """What was written fits nothing, or more than one thing."""


class Named(Protocol):
    """What has an id and a name."""

    @property
    def id(self) -> str:
        """The id; nothing else has it."""

    @property
    def name(self) -> str:
        """The name; others may have it, too."""


N = TypeVar("N", bound=Named)


def find_job(client: Client, written: str) -> str:
    """Return the id of the job that somebody means.

    Args:
        client: Asks the service.
        written: An id, its beginning, or a name; `job:` in front of it is left away.

    Raises:
        NotOne: it fits no job, or several; the message lists those, or what may have been meant.
        ClientError: the service does not answer, or refuses.
    """
    written = written.removeprefix("job:")
    return _find(
        written,
        ask=lambda: client.job(written),
        listed=lambda: client.jobs(limit=NEWEST),
        told=lambda job: f"{job.id}  {job.name}  {job.kind}, {job.state}, {age(job.created_at)}",
    )


def find_resource(client: Client, kind: ResourceKind, written: str) -> str:
    """Return the id of the data set or model that somebody means; as `find_job`."""
    written = written.removeprefix(f"{kind}:")
    return _find(
        written,
        ask=lambda: client.resource(kind, written),
        listed=lambda: client.resources(kind, limit=NEWEST),
        told=lambda found: f"{found.id}  {found.name}  {found.state}, {age(found.created_at)}",
    )


def _find(
    written: str,
    *,
    ask: Callable[[], Job | Resource],
    listed: Callable[[], Sequence[N]],
    told: Callable[[N], str],
) -> str:
    try:
        return ask().id
    except ApiError as refusal:
        if refusal.status != 404:
            raise
        everything = listed()
        matching = fitting(written, everything)
        if len(matching) == 1:
            return matching[0].id
        raise (
            _several(written, matching, told) if matching else _none(refusal, written, everything)
        ) from None


def fitting(written: str, things: Sequence[N]) -> list[N]:
    """Return those whose name this is, or whose id begins so, in their order."""
    return [thing for thing in things if thing.name == written or thing.id.startswith(written)]


def _several(written: str, matching: Sequence[N], told: Callable[[N], str]) -> NotOne:
    lines = [f"  {told(thing)}" for thing in matching[:SHOWN]]
    lines += [f"  and {len(matching) - SHOWN} more"] if len(matching) > SHOWN else []
    message = "\n".join([f"{written!r} fits {len(matching)}:", *lines])
    return NotOne(message, "Write the id, or as much of it as only one has.")


def _none(refusal: ApiError, written: str, everything: Sequence[N]) -> NotOne:
    close = likely(written, everything)
    return NotOne(refusal.message, f"Did you mean {' or '.join(close)}?" if close else refusal.hint)


def likely(written: str, things: Sequence[N]) -> list[str]:
    """Return names and ids that look like what was written, at most three, each once."""
    wanted = written.casefold()
    known = {word.casefold(): word for thing in reversed(things) for word in (thing.id, thing.name) if word}
    parts = [word for word in known if wanted in word]
    close = dict.fromkeys([*get_close_matches(wanted, known, n=3, cutoff=0.6), *parts])
    return [known[word] for word in close][:3]
