"""The style sheet, under an address that changes with its content, so that browsers keep it for a year."""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from api.auth import STATIC

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent / "static"
_FILES = {path.name: path.read_bytes() for path in sorted(_FOLDER.iterdir()) if path.is_file()}
HASH = hashlib.sha256(b"\0".join(_FILES.values())).hexdigest()[:16]
"""Of all files together."""


def address(name: str) -> str:
    """Return the path of a static file, with the hash in it."""
    return f"{STATIC}{HASH}/{name}"


@router.get(STATIC + "{version}/{name}")
async def static_file(version: str, name: str) -> Response:
    """Return a static file. An address of an earlier release answers 404: what it named is gone."""
    if version != HASH or name not in _FILES:
        raise HTTPException(404)
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(_FILES[name], headers=headers, media_type=media_type)
