"""The Python client of the service: `Client(url)` has a method for every route."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from client.resources import Resources
from client.stream import NoStream, NothingMore, listen
from gkd_core.errors import Problem
from gkd_core.events import Report
from gkd_core.run_dir import publish_file
from jobs.curves import JobCurves
from jobs.job import END_STATES, Artifact, Job, State, StoredEvent
from jobs.keys import DEFAULT_TENANT, Asker, Key, Limits, Scope, Tenant
from jobs.presence import Worker

DEFAULT_URL = "http://127.0.0.1:8000"

LOOPBACK = ("127.0.0.1", "localhost", "::1")

PATIENCE_SECONDS = 60.0
"""Time for which following a job outlasts an outage of the service: long enough to restart it."""

WAIT_SECONDS = 20.0
"""Duration of one long poll; shorter than the usual timeout of proxies."""


class ClientError(Exception):
    """Base class of this module's errors; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Unreachable(ClientError):
    """The service does not answer, or the connection broke."""


class ApiError(ClientError):
    """The service answered with an error; the message is its own."""

    def __init__(
        self, status: int, code: str, message: str, problems: tuple[Problem, ...], request_id: str
    ) -> None:
        super().__init__(message, " ".join(problem.hint for problem in problems if problem.hint))
        self.status = status
        self.code = code
        self.problems = problems
        self.request_id = request_id


class DamagedDownload(ClientError):
    """A file does not have the SHA-256 that the service announced."""


class Client(Resources):
    """A connection to the service; close it, or use it in a `with` statement.

    Args:
        url: Address of the service.
        timeout: Seconds for an answer, in addition to the duration of a long poll.
        api_key: Sent with every request; None: `GKD_API_KEY`, if set.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout: float = 60.0, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        own = httpx.URL(self.url).host in LOOPBACK  # no proxy leads back to this machine
        key = (api_key or os.environ.get("GKD_API_KEY", "")).strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=self.url, timeout=timeout, trust_env=not own, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Queue a job.

        Args:
            spec: The job spec as JSON values.
            idempotency_key: Sending the same key and spec again returns the same job.

        Raises:
            ApiError: the spec is wrong; `problems` names every field.
        """
        return self._new("/jobs", spec, idempotency_key)

    def validate(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a spec resolves to: `config`, `waits_for`, `warnings`, `report` on the data.

        Nothing is queued.
        """
        return self._json("POST", "/jobs/validate", json=spec)

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of a job spec."""
        return self._json("GET", "/schema/job")

    def job(self, job_id: str) -> Job:
        """Return a job as it is now."""
        return Job.model_validate_json(self._ask("GET", _path(job_id)).content)

    def jobs(
        self,
        *,
        state: State | str | None = None,
        kind: str | None = None,
        tag: str | Sequence[str] | None = None,
        limit: int = 50,
    ) -> tuple[Job, ...]:
        """Return the newest jobs, at most `limit`; `tag` is `key` or `key:value`.

        Jobs must have all of several tags.
        """
        wanted = {"state": state, "kind": kind, "tag": tag}
        params: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        found: list[Job] = []
        while len(found) < limit:
            page = self._json("GET", "/jobs", params={**params, "limit": min(limit - len(found), 500)})
            found += map(Job.model_validate, page["items"])
            if page["next"] is None:
                break
            params["after"] = page["next"]
        return tuple(found)

    def events(
        self, job_id: str, *, after: int = 0, follow: bool = True, every: float = 0.5
    ) -> Iterator[StoredEvent]:
        """Yield the events of a job from number `after` + 1 on; with `follow` until the job has ended.

        Following outlasts a restart of the service, and proxies that cut or buffer streams: no event is yielded
        twice.

        Args:
            job_id: The job.
            after: Number of the last known event.
            follow: Wait for further events.
            every: Polling interval in seconds: if streaming is not possible, or after a lost connection.

        Raises:
            Unreachable: the service does not answer, or has not for a minute.
            ApiError: the service answered with an error.
        """
        if not follow:
            yield from self._pages(job_id, after)
            return
        met, lost_at = False, 0.0
        while True:
            try:
                for event in self._listen(job_id, after):
                    met, lost_at = True, 0.0
                    if event is not None:
                        after = event.number
                        yield event
                        if _is_last(event):
                            return
            except NothingMore:
                return
            except NoStream:
                yield from self._polled(job_id, after, every)
                return
            except (Unreachable, ApiError) as error:
                lost_at = lost_at or time.monotonic()
                if not met or _is_final(error) or time.monotonic() > lost_at + PATIENCE_SECONDS:
                    raise
            time.sleep(every)

    def _listen(self, job_id: str, after: int) -> Iterator[StoredEvent | None]:
        try:
            yield from listen(self._http, _path(job_id, "stream"), after)
        except httpx.HTTPStatusError as error:
            raise _refusal(error.response) from error
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _polled(self, job_id: str, after: int, every: float) -> Iterator[StoredEvent]:
        """Yield the same events as `events`, by polling."""
        while True:
            ended = self.job(job_id).state in END_STATES  # read first: no events come after the end
            for event in self._pages(job_id, after):
                after = event.number
                yield event
            if ended:
                return
            time.sleep(every)

    def _pages(self, job_id: str, after: int) -> Iterator[StoredEvent]:
        """Yield the events that exist now."""
        while (page := self._json("GET", _path(job_id, "events"), params={"after": after}))["items"]:
            yield from map(StoredEvent.model_validate, page["items"])
            after = page["next"]

    def wait(self, job_id: str, *, timeout: float | None = None) -> Job:
        """Return the job once it has ended, or as it is after `timeout` seconds."""
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        while True:
            seconds = max(0.0, min(WAIT_SECONDS, deadline - time.monotonic()))
            answer = self._ask(
                "GET", _path(job_id), params={"wait": seconds}, timeout=httpx.Timeout(self._timeout + seconds)
            )
            job = Job.model_validate_json(answer.content)
            if job.state in END_STATES or time.monotonic() >= deadline:
                return job

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> Job:
        """Retry a failed or cancelled job, and return the new job."""
        return self._new(_path(job_id, "retry"), None, idempotency_key)

    def clone(
        self, job_id: str, changes: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None
    ) -> Job:
        """Queue a new job of an old one's spec.

        Args:
            job_id: The old job.
            changes: Changes as a JSON merge patch: None removes a field.
            idempotency_key: Sending the same key and changes again returns the same job.

        Raises:
            ApiError: the changed spec is wrong; `problems` names every field.
        """
        return self._new(_path(job_id, "clone"), dict(changes or {}), idempotency_key)

    def change(self, job_id: str, **changes: Any) -> Job:
        """Change `name`, `tags` (a tag that is None is removed) or, while it is queued, `priority`."""
        return Job.model_validate_json(self._ask("PATCH", _path(job_id), json=changes).content)

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended."""
        self._ask("DELETE", _path(job_id))

    def metrics(self, job_id: str, *, points: int = 500) -> JobCurves:
        """Return the metric curves of a job, each of at most `points` points."""
        answer = self._ask("GET", _path(job_id, "metrics"), params={"points": points})
        return JobCurves.model_validate_json(answer.content)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job."""
        return self._verb(job_id, "cancel")

    def pause(self, job_id: str) -> Job:
        """Ask a running job to stop after a checkpoint."""
        return self._verb(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        """Requeue a paused job, or withdraw the request to pause it."""
        return self._verb(job_id, "resume")

    def report(self, job_id: str) -> Report:
        """Return the report of a job.

        Raises:
            ApiError: code `no_report`; the message says why there is none.
        """
        return Report.model_validate_json(self._ask("GET", _path(job_id, "report")).content)

    def artifacts(self, job_id: str) -> tuple[Artifact, ...]:
        """Return the files that a job has published so far."""
        items = self._ask("GET", _path(job_id, "artifacts")).json()
        return tuple(map(Artifact.model_validate, items))

    def download(self, job_id: str, name: str, target: Path) -> str:
        """Download an artifact; the target appears complete or not at all.

        Args:
            job_id: The job.
            name: The artifact's name.
            target: The file to write.

        Returns:
            The SHA-256 of the written file.

        Raises:
            DamagedDownload: the received file has another hash than announced.
        """
        return self._fetched(_path(job_id, "artifacts", name), name, target)

    def download_model(self, model_id: str, target: Path) -> str:
        """Download an uploaded model, otherwise as `download`."""
        return self._fetched(_route("models", model_id, "file"), f"model {model_id}", target)

    def _fetched(self, path: str, name: str, target: Path) -> str:
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

    def log(self, job_id: str, *, offset: int = 0, limit: int | None = None) -> tuple[str, int]:
        """Return a part of the log from byte `offset` (negative: from the end), and the offset of the next part."""
        params = {"offset": offset} if limit is None else {"offset": offset, "limit": limit}
        answer = self._ask("GET", _path(job_id, "log"), params=params)
        return answer.text, int(answer.headers["X-Next-Offset"])

    def service_metrics(self) -> str:
        """Return the service's metrics in Prometheus' text format; needs the scope `metrics` or `admin`."""
        return self._ask("GET", "/metrics").text

    def whoami(self) -> Asker:
        """Return the authenticated caller with its tenant's limits and usage."""
        return Asker.model_validate_json(self._ask("GET", "/whoami").content)

    def list_keys(self) -> tuple[Key, ...]:
        """Return all keys ever created; needs the scope `admin`."""
        return tuple(map(Key.model_validate, self._ask("GET", "/keys").json()))

    def create_key(
        self,
        name: str,
        *,
        tenant: str = DEFAULT_TENANT,
        scopes: Iterable[Scope | str] = (Scope.READ, Scope.WRITE),
        expires_in_days: float | None = 90,
    ) -> tuple[Key, str]:
        """Create a key, and return it with its secret, which cannot be read again; needs the scope `admin`."""
        wanted = {"name": name, "tenant": tenant, "scopes": list(scopes), "expires_in_days": expires_in_days}
        made = self._json("POST", "/keys", json=wanted)
        return Key.model_validate(made["key"]), made["secret"]

    def revoke_key(self, key_id: str) -> Key:
        """Revoke a key; needs the scope `admin`."""
        return Key.model_validate(self._json("DELETE", f"/keys/{quote(key_id, safe='')}"))

    def tenants(self) -> tuple[Tenant, ...]:
        """Return all tenants, with limits and usage; needs the scope `admin`."""
        return tuple(map(Tenant.model_validate, self._ask("GET", "/tenants").json()))

    def set_limits(self, tenant: str, limits: Limits) -> Tenant:
        """Replace the limits of a tenant; needs the scope `admin`."""
        path = f"/tenants/{quote(tenant, safe='')}/limits"
        return Tenant.model_validate(self._json("PUT", path, json=limits.model_dump()))

    def workers(self) -> tuple[Worker, ...]:
        """Return every worker of the service, by name."""
        return tuple(map(Worker.model_validate, self._ask("GET", "/workers").json()))

    def ready(self) -> bool:
        """Return whether the service answers and all its parts are ready."""
        try:
            return self._http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def _route(self, *parts: str) -> str:
        return _route(*parts)

    def _verb(self, job_id: str, verb: str) -> Job:
        return Job.model_validate_json(self._ask("POST", _path(job_id, verb)).content)

    def _new(self, path: str, body: Mapping[str, Any] | None, idempotency_key: str | None) -> Job:
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return Job.model_validate_json(self._ask("POST", path, json=body, headers=headers).content)

    def _json(self, method: str, path: str, **how: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._ask(method, path, **how).json()
        return answer

    def _ask(self, method: str, path: str, **how: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **how)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if answer.is_error:
            raise _refusal(answer)
        return answer

    def _stream(self, path: str, target: Path) -> tuple[str, str]:
        """Write a file as it arrives, and return the announced SHA-256 (the ETag) and the actual one."""
        digest = hashlib.sha256()
        try:
            with self._http.stream("GET", path) as answer, target.open("wb") as file:
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


def _is_last(event: StoredEvent) -> bool:
    return event.kind == "state" and event.body["state"] in END_STATES


def _is_final(error: ClientError) -> bool:
    """Return whether a retry would get the same answer."""
    return isinstance(error, ApiError) and error.status not in (429, 502, 503, 504)


def _path(job_id: str, *parts: str) -> str:
    """Return a route of a job; user input stays one segment, whatever characters it has."""
    return _route("jobs", job_id, *parts)


def _route(collection: str, name: str, *parts: str) -> str:
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
