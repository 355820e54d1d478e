"""Cursors: where a page of a list ends, as opaque text that stays good when the row at its end is deleted.

A cursor holds the sort key of that row, its number. Numbers count the rows of all tenants, so they are masked: what
others do must not show. The text cannot be made up, and is good for one list of one tenant (synthetic
initialisation vectors, RFC 5297, with HMAC).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import NamedTuple

from jobs.errors import UnknownCursor

_BYTES = 8
"""Of a number, and of the seal before it."""


class Cursors(NamedTuple):
    """The cursors of one list.

    Args:
        secret: What outsiders do not know, the same for every process that serves the list.
        listing: Which list it is, and whose.
    """

    secret: str
    listing: str

    def after(self, number: int) -> str:
        """Return the cursor of the page that begins behind the row of this number."""
        plain = number.to_bytes(_BYTES)
        seal = self._mac(b"seal", plain)
        return base64.urlsafe_b64encode(seal + self._masked(plain, seal)).rstrip(b"=").decode()

    def number(self, cursor: str) -> int:
        """Return the number of the row behind which a page begins.

        Raises:
            UnknownCursor: no page of this list has ended with it.
        """
        try:
            raw = base64.b64decode(cursor + "==", altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise UnknownCursor(cursor) from None
        seal, masked = raw[:_BYTES], raw[_BYTES:]
        plain = self._masked(masked, seal)
        if len(raw) != 2 * _BYTES or not hmac.compare_digest(seal, self._mac(b"seal", plain)):
            raise UnknownCursor(cursor)
        return int.from_bytes(plain)

    def _masked(self, text: bytes, seal: bytes) -> bytes:
        """Mask what is plain, or unmask what is masked."""
        return bytes(a ^ b for a, b in zip(text, self._mac(b"mask", seal), strict=False))

    def _mac(self, purpose: bytes, text: bytes) -> bytes:
        key = hashlib.sha256(f"cursors {self.secret}".encode()).digest()
        message = b"\0".join((purpose, self.listing.encode(), text))
        return hmac.digest(key, message, "sha256")[:_BYTES]
