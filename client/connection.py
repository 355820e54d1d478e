"""One connection to the service: requests, whose refusals become errors, and files, whose hashes are checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from client.errors import ApiError, ClientError, DamagedDownload, Unreachable
from client.stream import listen
from gkd_core.errors import Problem
from gkd_core.run_dir import publish_file
from jobs.job import StoredEvent

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Connection:
    """A connection to one address.

    Args:
        url: Address of the service.
        timeout: Seconds for an answer, in addition to the duration of a long poll.
        api_key: Sent with every request; None: `GKD_API_KEY`, if set.
    """

    def __init__(self, url: str, *, timeout: float, api_key: str | None) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        own = httpx.URL(self.url).host in LOOPBACK  # no proxy leads back to this machine
        key = (api_key or os.environ.get("GKD_API_KEY", "")).strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.client = httpx.Client(base_url=self.url, timeout=timeout, trust_env=not own, headers=headers)

    def close(self) -> None:
        """Close it."""
        self.client.close()

    def json(self, method: str, path: str, **how: Any) -> dict[str, Any]:
        """Send a request and return the JSON object of its answer, otherwise as `ask`."""
        answer: dict[str, Any] = self.ask(method, path, **how).json()
        return answer

    def ask(self, method: str, path: str, **how: Any) -> httpx.Response:
        """Send a request and return its answer.

        Raises:
            Unreachable: there was none.
            ApiError: it is an error.
        """
        try:
            answer = self.client.request(method, path, **how)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if answer.is_error:
            raise _refusal(answer)
        return answer

    def listen(self, path: str, after: int) -> Iterator[StoredEvent | None]:
        """Yield the events of a stream after number `after`, as `stream.listen` does.

        Raises:
            NoStream: poll for pages of events instead.
            NothingMore: do not reconnect.
            Unreachable: there is no connection (any more).
            ApiError: the service refused.
        """
        try:
            yield from listen(self.client, path, after)
        except httpx.HTTPStatusError as error:
            raise _refusal(error.response) from error
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def download(self, path: str, name: str, target: Path) -> str:
        """Download a file, which appears complete or not at all, and return its SHA-256.

        Raises:
            DamagedDownload: the received file has another hash than announced.
        """
        partial = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            announced, seen = self._stream(path, partial)
            if seen != announced:
                hint = "Try again; the file was not kept."
                raise DamagedDownload(f"{name} arrived with SHA-256 {seen}, announced was {announced}", hint)
            publish_file(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        return seen

    def _stream(self, path: str, target: Path) -> tuple[str, str]:
        """Write a file as it arrives, and return the announced SHA-256 (the ETag) and the actual one."""
        digest = hashlib.sha256()
        try:
            with self.client.stream("GET", path) as answer, target.open("wb") as file:
                if answer.is_error:
                    answer.read()
                    raise _refusal(answer)
                for piece in answer.iter_bytes():
                    digest.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        return answer.headers["ETag"].strip('"'), digest.hexdigest()

    def _unreachable(self, error: httpx.HTTPError) -> Unreachable:
        hint = "Start it with `gkd serve`, or give another address with --url or GKD_URL."
        return Unreachable(f"no answer from {self.url}: {error or type(error).__name__}", hint)


def route(collection: str, name: str, *parts: str) -> str:
    """Return the route of one item of a collection, such as the jobs."""
    if name.strip(".") == "":  # a URL without it, or without the segment before it, is another route
        single = collection.removesuffix("s")
        hint = f"See which there are: gkd {collection}{'' if collection == 'jobs' else ' list'}."
        raise ClientError(f"{name!r} is no id of a {single}", hint)
    return "/".join(["", collection, *(quote(part, safe="") for part in (name, *parts))])


def _refusal(answer: httpx.Response) -> ApiError:
    """Return the problem details of an answer as an error; other answers come from a proxy."""
    try:
        body = answer.json()
        problems = tuple(map(Problem.model_validate, body.get("errors", ())))
        return ApiError(answer.status_code, body["code"], body["detail"], problems, body["request_id"])
    except (ValueError, KeyError, AttributeError):
        message = f"{answer.request.url} answered {answer.status_code} {answer.reason_phrase}"
        return ApiError(answer.status_code, "not_gkd", message, (), "")
