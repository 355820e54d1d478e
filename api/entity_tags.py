"""Entity tags (RFC 9110, section 8.8): making them, and comparing them with `If-None-Match`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, NamedTuple

from fastapi import Depends, Header, Request

_ELEMENT = re.compile(r'[ \t,]*(?:W/)?"(?P<opaque>[^"]*)"[ \t]*(?:,[ \t,]*|$)')
"""One tag of a list, up to and including the comma after it. A comma inside the quotes belongs to the tag; a
space, which no tag should have, is tolerated."""


class KnownTags(NamedTuple):
    """The representations that a client has, according to `If-None-Match`."""

    opaque: frozenset[str] = frozenset()
    """Tags without quotes and without the weakness mark, which the comparison ignores."""
    every: bool = False
    """`*`: any representation."""

    def __bool__(self) -> bool:
        return self.every or bool(self.opaque)

    def hold(self, tag: str) -> bool:
        """Return whether the representation with this tag is known, by weak comparison.

        Args:
            tag: As in the header `ETag`, with its quotes.
        """
        return self.every or tag.removeprefix("W/").strip('"') in self.opaque


def weak_tag(body: bytes) -> str:
    """Return the weak entity tag of a representation."""
    return f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'


def read_tags(values: Sequence[str]) -> KnownTags:
    """Parse the values of all `If-None-Match` headers of a request.

    One that is no list of tags counts as not sent.

    Args:
        values: One for each header line.
    """
    text = ",".join(values)
    if text.strip(" \t") == "*":
        return KnownTags(every=True)
    found, position = set(), 0
    while position < len(text):
        element = _ELEMENT.match(text, position)
        if element is None:
            return KnownTags()
        found.add(element["opaque"])
        position = element.end()
    return KnownTags(frozenset(found))


async def _known(
    request: Request,
    if_none_match: Annotated[
        str | None,
        Header(description="`ETag` of an earlier answer; several in a list, or `*`", examples=['W/"0"']),
    ] = None,
) -> KnownTags:
    return read_tags(request.headers.getlist("if-none-match"))


KnownTagsDep = Annotated[KnownTags, Depends(_known)]
"""The representations that the client has: answer 304 if they contain the current tag."""
