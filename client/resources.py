"""The methods of `Client` about data sets and models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from client.connection import Connection, route
from jobs.resources import CheckedResource, Resource, ResourceKind, ResourceState

_BLOCK_BYTES = 1 << 20
_KEEPING_SECONDS = 3600.0
"""Timeout for the service to store an upload after all of it was sent."""
_LOOK_SECONDS = 0.5


class Resources:
    """Methods of `Client` about data sets and models; `kind` selects which."""

    _http: Connection

    def register(self, kind: ResourceKind, name: str, path: str | None = None, **layout: Any) -> Resource:
        """Register a data set or model under a data root of the service.

        Args:
            kind: A data set or a model.
            name: Name for people.
            path: Its path, as the service sees it.
            layout: Of a data set: `format`, and `train` and `val` instead of a path.
        """
        body = {"name": name, "path": path, **layout}
        sent = {field: value for field, value in body.items() if value is not None}
        return Resource.model_validate_json(self._http.ask("POST", f"/{kind}s", json=sent).content)

    def upload(
        self,
        kind: ResourceKind,
        file: Path,
        *,
        name: str | None = None,
        layout: Mapping[str, str] | None = None,
        told: Callable[[int], None] = lambda _: None,
    ) -> Resource:
        """Upload a file: an archive of a data set (zip, tar, tar.gz), or a model (`.safetensors`, `.pth`).

        Args:
            kind: A data set or a model.
            file: The file.
            name: Name for people; None: the file's name.
            layout: Of a data set: `format`.
            told: Called with the number of bytes sent so far.
        """
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.stat().st_size)}
        answer = self._http.ask(
            "POST",
            f"/{kind}s",
            params={"name": name or file.name, **(layout or {})},
            content=_blocks(file, told),
            headers=headers,
            timeout=httpx.Timeout(60.0, read=_KEEPING_SECONDS),
        )
        return Resource.model_validate_json(answer.content)

    def resources(
        self, kind: ResourceKind, *, state: ResourceState | str | None = None, limit: int = 50
    ) -> tuple[Resource, ...]:
        """Return the newest data sets or models, at most `limit`."""
        params: dict[str, Any] = {} if state is None else {"state": state}
        found: list[Resource] = []
        while len(found) < limit:
            params["limit"] = min(limit - len(found), 500)
            page = self._http.ask("GET", f"/{kind}s", params=params).json()
            found += map(Resource.model_validate, page["items"])
            if page["next"] is None:
                break
            params["after"] = page["next"]
        return tuple(found)

    def resource(self, kind: ResourceKind, resource_id: str) -> CheckedResource:
        """Return a data set or model as it is now, with its report."""
        answer = self._http.ask("GET", route(f"{kind}s", resource_id))
        return CheckedResource.model_validate_json(answer.content)

    def wait_for_check(
        self, kind: ResourceKind, resource_id: str, *, timeout: float | None = None
    ) -> CheckedResource:
        """Return a data set or model once it was checked, or as it is after `timeout` seconds."""
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        while True:
            found = self.resource(kind, resource_id)
            if found.state is not ResourceState.CHECKING or time.monotonic() >= deadline:
                return found
            time.sleep(_LOOK_SECONDS)

    def delete_resource(self, kind: ResourceKind, resource_id: str) -> None:
        """Delete a data set or model; files under a data root of the service stay there."""
        self._http.ask("DELETE", route(f"{kind}s", resource_id))


def _blocks(file: Path, told: Callable[[int], None]) -> Iterator[bytes]:
    sent = 0
    with file.open("rb") as source:
        while block := source.read(_BLOCK_BYTES):
            yield block
            sent += len(block)
            told(sent)
