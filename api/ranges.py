"""The part of a file that a request asks for by `Range` (RFC 9110, section 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from api.errors import ApiError

_ONE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII)
_SEVERAL = re.compile(r"bytes=[\s\d-]*,[\s\d,-]*", re.ASCII)


def asked_part(headers: Mapping[str, str], size: int, etag: str) -> tuple[int, int] | None:
    """Return the bytes that a download is to send.

    Args:
        headers: Of the request.
        size: Bytes of the file.
        etag: Its entity tag, with quotes.

    Returns:
        The first byte and the one after the last; None: the whole file, because no part is asked for, or a part
        of another version, or several parts. The RFC allows to ignore several, and for a client the whole file
        is faster.

    Raises:
        ApiError: 400, it is not a range of bytes; 416, it is beyond the end.
    """
    wanted = headers.get("range")
    if wanted is None or headers.get("if-range", etag) != etag:
        return None
    if _SEVERAL.fullmatch(wanted):
        return None
    asked = _ONE.fullmatch(wanted)
    first, last = asked.groups() if asked else ("", "")
    if not (first or last) or _is_backwards(first, last):
        raise ApiError(400, "invalid_range", f"{wanted[:80]!r} is no range of bytes, such as bytes=0-1023")
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if start >= stop:
        detail = f"the range {wanted!r} lies beyond the end of the file, which has {size} bytes"
        raise ApiError(416, "range_not_satisfiable", detail, headers={"Content-Range": f"bytes */{size}"})
    return start, stop


def _is_backwards(first: str, last: str) -> bool:
    return bool(first and last and int(first) > int(last))
