"""Cursors for pagination: opaque text that names the end of a page and stays valid when the row there is deleted.

A cursor holds the sort key of that row, its number. Numbers count the rows of all tenants, so they are
encrypted: a tenant must not learn how many jobs others submit. Cursors cannot be forged and are valid for one
list of one tenant (synthetic initialisation vectors, RFC 5297, with HMAC).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import NamedTuple

from jobs.errors import UnknownCursor

_BYTES = 8
"""Length of the number and of the authentication tag before it, in bytes."""


class Cursors(NamedTuple):
    """Encoder and decoder of the cursors of one list.

    Args:
        secret: A secret, the same for every process that serves the list.
        listing: Name of the list and of its tenant.
    """

    secret: str
    listing: str

    def after(self, number: int) -> str:
        """Return the cursor of the page that begins after the row of this number."""
        plain = number.to_bytes(_BYTES)
        seal = self._mac(b"seal", plain)
        return base64.urlsafe_b64encode(seal + self._masked(plain, seal)).rstrip(b"=").decode()

    def number(self, cursor: str) -> int:
        """Return the number of the row after which a page begins.

        Raises:
            UnknownCursor: the cursor is not one of this list.
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
        """Encrypt or decrypt a number by XOR with a keystream derived from the tag."""
        return bytes(a ^ b for a, b in zip(text, self._mac(b"mask", seal), strict=False))

    def _mac(self, purpose: bytes, text: bytes) -> bytes:
        key = hashlib.sha256(f"cursors {self.secret}".encode()).digest()
        message = b"\0".join((purpose, self.listing.encode(), text))
        return hmac.digest(key, message, "sha256")[:_BYTES]
