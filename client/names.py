"""Resolution of what users type for an id: the id, the beginning of one, or a name.

The service knows whole ids only; this is the only place that completes shorter ones. An existing id is used as
it is, without requesting a list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, Protocol, TypeVar

from client.client import Client
from client.errors import ApiError, ClientError
from client.show_text import age
from jobs.job import Job
from jobs.resources import Resource, ResourceKind

NEWEST = 2000
"""Number of the newest jobs, data sets or models among which a name is searched."""
SHOWN = 8
"""Maximum number of candidates listed if several match."""


class NotOne(ClientError):
    """The text matches nothing, or more than one item."""


class Named(Protocol):
    """An item with an id and a name."""

    @property
    def id(self) -> str:
        """Return the id, which is unique."""

    @property
    def name(self) -> str:
        """Return the name, which need not be unique."""


N = TypeVar("N", bound=Named)


def find_job(client: Client, written: str) -> str:
    """Return the id of the job that the user means.

    Args:
        client: A client of the service.
        written: An id, its beginning, or a name; a leading `job:` is ignored.

    Raises:
        NotOne: it matches no job, or several; the message lists those, or suggestions.
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
    """Return the id of the data set or model that the user means, otherwise as `find_job`."""
    written = written.removeprefix(f"{kind}:")
    return _find(
        written,
        ask=lambda: client.resource(kind, written),
        listed=lambda: client.resources(kind, limit=NEWEST),
        told=lambda found: f"{found.id}  {found.name}  {found.state}, {age(found.created_at)}",
    )


REFERENCES = {"data": ("dataset",), "path": ("dataset",), "weights": ("job", "model")}
"""What a field of a spec may refer to."""
_ID = re.compile(r"[0-9a-f]{12}(/|$)")


def with_ids(client: Client, spec: Any) -> Any:
    """Return a spec whose references, such as `job:<name>`, hold ids, which are all that the service knows.

    Raises:
        NotOne: a reference fits nothing, or several.
        ClientError: the service does not answer, or refuses.
    """
    if isinstance(spec, list):
        return [with_ids(client, each) for each in spec]
    if not isinstance(spec, dict):
        return spec
    return {field: _field_with_ids(client, field, value) for field, value in spec.items()}


def _field_with_ids(client: Client, field: str, value: Any) -> Any:
    if field == "tags":  # free texts
        return value
    if field in REFERENCES and isinstance(value, str):
        return _with_id(client, value, REFERENCES[field])
    return with_ids(client, value)


def _with_id(client: Client, text: str, kinds: Sequence[str]) -> str:
    """Return a value of a field with an id for a name, if it refers to something; an id is not looked up."""
    kind, colon, name = text.partition(":")
    if not colon or kind not in kinds or _ID.match(name):
        return text
    found = find_job(client, name) if kind == "job" else find_resource(client, ResourceKind(kind), name)
    return f"{kind}:{found}"


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
            _several_matches(written, matching, told) if matching else _no_match(refusal, written, everything)
        ) from None


def fitting(written: str, things: Sequence[N]) -> list[N]:
    """Return the items with this name, or with an id that begins so, in their order."""
    return [thing for thing in things if thing.name == written or thing.id.startswith(written)]


def _several_matches(written: str, matching: Sequence[N], told: Callable[[N], str]) -> NotOne:
    lines = [f"  {told(thing)}" for thing in matching[:SHOWN]]
    lines += [f"  and {len(matching) - SHOWN} more"] if len(matching) > SHOWN else []
    message = "\n".join([f"{written!r} fits {len(matching)}:", *lines])
    return NotOne(message, "Write the id, or as much of it as only one has.")


def _no_match(refusal: ApiError, written: str, everything: Sequence[N]) -> NotOne:
    close = likely(written, everything)
    return NotOne(refusal.message, f"Did you mean {' or '.join(close)}?" if close else refusal.hint)


def likely(written: str, things: Sequence[N]) -> list[str]:
    """Return up to three names and ids similar to the text, each once."""
    wanted = written.casefold()
    known = {word.casefold(): word for thing in reversed(things) for word in (thing.id, thing.name) if word}
    parts = [word for word in known if wanted in word]
    close = dict.fromkeys([*get_close_matches(wanted, known, n=3, cutoff=0.6), *parts])
    return [known[word] for word in close][:3]
