"""One connection to the service: requests, whose refusals become errors, and files, whose hashes are checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx

from client.errors import ApiError, ClientError, DamagedDownload, Unreachable
from client.retrying import (
    AWAY,
    FIRST_CONTACT_SECONDS,
    RETRY_SECONDS,
    Patience,
    asked_pause,
    may_repeat,
)
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
        self._answered = False
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

        What does the same if it is done twice is repeated for a while after a lost connection, or an answer
        that says that the service is away; anything else only if there was no connection.

        Raises:
            Unreachable: there was none.
            ApiError: it is an error.
        """
        patience, repeatable = Patience(), may_repeat(method, how.get("headers"))
        while True:
            try:
                answer = self.client.request(method, path, **how)
            except httpx.HTTPError as error:
                again = repeatable or isinstance(error, httpx.ConnectError)
                if not (again and isinstance(error, httpx.TransportError) and self._wait(patience)):
                    raise self._unreachable(error) from error
                continue
            self._answered = True
            if repeatable and answer.status_code in AWAY and self._wait(patience, asked_pause(answer)):
                continue
            if answer.is_error:
                raise _refusal(answer)
            return answer

    def _wait(self, patience: Patience, least: float = 0.0) -> bool:
        return patience.wait(RETRY_SECONDS if self._answered else FIRST_CONTACT_SECONDS, least)

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

        Where the connection breaks, it goes on from there.

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
        etag, patience, had = "", Patience(), 0
        with target.open("w+b") as file:
            while True:
                try:
                    etag = self._receive(path, file, etag)
                    break
                except _Broken as broken:
                    etag, here = broken.etag, file.tell()
                    if here > had:  # a slow network is not a dead one
                        patience, had = Patience(), here
                    if not self._wait(patience, broken.pause):
                        raise broken.error from broken
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            return etag.strip('"'), hashlib.file_digest(file, "sha256").hexdigest()

    def _receive(self, path: str, file: BinaryIO, etag: str) -> str:
        """Append what is left of a file, or write it anew if it has changed, and return its ETag.

        Raises:
            _Broken: the connection broke, or the service is away.
            ApiError: the service refused.
        """
        headers = {"Accept-Encoding": "identity"}  # or offsets would not be those of the file
        if etag and file.tell():
            headers |= {"Range": f"bytes={file.tell()}-", "If-Range": etag}
        try:
            with self.client.stream("GET", path, headers=headers) as answer:
                self._answered = True
                if answer.is_error:
                    answer.read()
                    if answer.status_code in AWAY:
                        raise _Broken(etag, _refusal(answer), asked_pause(answer))
                    raise _refusal(answer)
                etag = answer.headers.get("ETag", "")
                if answer.status_code != 206:
                    file.seek(0)
                    file.truncate()
                for piece in answer.iter_bytes():
                    file.write(piece)
        except httpx.HTTPError as error:
            raise _Broken(etag, self._unreachable(error)) from error
        return etag

    def _unreachable(self, error: httpx.HTTPError) -> Unreachable:
        hint = "Start it with `gkd serve`, or give another address with --url or GKD_URL."
        return Unreachable(f"no answer from {self.url}: {error or type(error).__name__}", hint)


class _Broken(Exception):
    """A download broke off, or could not begin; `error` is what to raise if it is not tried again."""

    def __init__(self, etag: str, error: ClientError, pause: float = 0.0) -> None:
        super().__init__(error.message)
        self.etag = etag
        self.error = error
        self.pause = pause


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
