"""Entity tags (RFC 9110, section 8.8): how they are made, and the one comparison with what `If-None-Match` says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, NamedTuple

from fastapi import Depends, Header, Request

_ELEMENT = re.compile(r'[ \t,]*(?:W/)?"(?P<opaque>[^"]*)"[ \t]*(?:,[ \t,]*|$)')
"""One tag of a list, to behind the comma that follows it. A comma inside the quotes belongs to the tag, and a
space, which no tag should have, does no harm."""


class KnownTags(NamedTuple):
    """The representations that a client has, as it says in `If-None-Match`."""

    opaque: frozenset[str] = frozenset()
    """Tags without quotes and without the mark of weakness, which this comparison does not look at."""
    every: bool = False
    """`*`: whatever there is."""

    def __bool__(self) -> bool:
        return self.every or bool(self.opaque)

    def hold(self, tag: str) -> bool:
        """Return whether the representation with this tag is known, by weak comparison.

        Args:
            tag: As in the header `ETag`, with its quotes.
        """
        return self.every or tag.removeprefix("W/").strip('"') in self.opaque


def weak_tag(body: bytes) -> str:
    """Return the entity tag of a representation that is compared by what it means."""
    return f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'


def read_tags(values: Sequence[str]) -> KnownTags:
    """Read the values of every `If-None-Match` of a request; a header that is no list of tags counts as not sent.

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
        Header(description="`ETag` of an answer before; several in a list, or `*`", examples=['W/"0"']),
    ] = None,
) -> KnownTags:
    return read_tags(request.headers.getlist("if-none-match"))


KnownTagsDep = Annotated[KnownTags, Depends(_known)]
"""What the client has already: answer 304 where it holds the tag of what would be sent."""
