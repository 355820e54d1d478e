"""The Python client of the service: `Client(url)` has a method for every route."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from client.connection import Connection, route
from client.errors import ApiError, ClientError, DamagedDownload, Unreachable
from client.resources import Resources
from client.stream import NoStream, NothingMore
from gkd_core.events import Report
from jobs.curves import JobCurves
from jobs.job import END_STATES, Artifact, Job, State, StoredEvent
from jobs.keys import DEFAULT_TENANT, Asker, Key, Limits, Scope, Tenant
from jobs.presence import Worker

__all__ = ["ApiError", "Client", "ClientError", "DamagedDownload", "Unreachable"]

DEFAULT_URL = "http://127.0.0.1:8000"

PATIENCE_SECONDS = 60.0
"""Time for which following a job outlasts an outage of the service: long enough to restart it."""

WAIT_SECONDS = 20.0
"""Duration of one long poll; shorter than the usual timeout of proxies."""


class Client(Resources):
    """A connection to the service; close it, or use it in a `with` statement.

    Args:
        url: Address of the service.
        timeout: Seconds for an answer, in addition to the duration of a long poll.
        api_key: Sent with every request; None: `GKD_API_KEY`, if set.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout: float = 60.0, api_key: str | None = None) -> None:
        self._http = Connection(url, timeout=timeout, api_key=api_key)
        self.url = self._http.url

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
        return self._http.json("POST", "/jobs/validate", json=spec)

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of a job spec."""
        return self._http.json("GET", "/schema/job")

    def job(self, job_id: str) -> Job:
        """Return a job as it is now."""
        return Job.model_validate_json(self._http.ask("GET", _path(job_id)).content)

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
            page = self._http.json("GET", "/jobs", params={**params, "limit": min(limit - len(found), 500)})
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
                for event in self._http.listen(_path(job_id, "stream"), after):
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
        while (page := self._http.json("GET", _path(job_id, "events"), params={"after": after}))["items"]:
            yield from map(StoredEvent.model_validate, page["items"])
            after = page["next"]

    def wait(self, job_id: str, *, timeout: float | None = None) -> Job:
        """Return the job once it has ended, or as it is after `timeout` seconds."""
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        while True:
            seconds = max(0.0, min(WAIT_SECONDS, deadline - time.monotonic()))
            patience = httpx.Timeout(self._http.timeout + seconds)
            answer = self._http.ask("GET", _path(job_id), params={"wait": seconds}, timeout=patience)
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
        return Job.model_validate_json(self._http.ask("PATCH", _path(job_id), json=changes).content)

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended."""
        self._http.ask("DELETE", _path(job_id))

    def metrics(self, job_id: str, *, points: int = 500) -> JobCurves:
        """Return the metric curves of a job, each of at most `points` points."""
        answer = self._http.ask("GET", _path(job_id, "metrics"), params={"points": points})
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
        return Report.model_validate_json(self._http.ask("GET", _path(job_id, "report")).content)

    def artifacts(self, job_id: str) -> tuple[Artifact, ...]:
        """Return the files that a job has published so far."""
        items = self._http.ask("GET", _path(job_id, "artifacts")).json()
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
        return self._http.download(_path(job_id, "artifacts", name), name, target)

    def download_model(self, model_id: str, target: Path) -> str:
        """Download an uploaded model, otherwise as `download`."""
        return self._http.download(route("models", model_id, "file"), f"model {model_id}", target)

    def log(self, job_id: str, *, offset: int = 0, limit: int | None = None) -> tuple[str, int]:
        """Return a part of the log from byte `offset` (negative: from the end), and the offset of the next part."""
        params = {"offset": offset} if limit is None else {"offset": offset, "limit": limit}
        answer = self._http.ask("GET", _path(job_id, "log"), params=params)
        return answer.text, int(answer.headers["X-Next-Offset"])

    def service_metrics(self) -> str:
        """Return the service's metrics in Prometheus' text format; needs the scope `metrics` or `admin`."""
        return self._http.ask("GET", "/metrics").text

    def whoami(self) -> Asker:
        """Return the authenticated caller with its tenant's limits and usage."""
        return Asker.model_validate_json(self._http.ask("GET", "/whoami").content)

    def list_keys(self) -> tuple[Key, ...]:
        """Return all keys ever created; needs the scope `admin`."""
        return tuple(map(Key.model_validate, self._http.ask("GET", "/keys").json()))

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
        made = self._http.json("POST", "/keys", json=wanted)
        return Key.model_validate(made["key"]), made["secret"]

    def revoke_key(self, key_id: str) -> Key:
        """Revoke a key; needs the scope `admin`."""
        return Key.model_validate(self._http.json("DELETE", f"/keys/{quote(key_id, safe='')}"))

    def tenants(self) -> tuple[Tenant, ...]:
        """Return all tenants, with limits and usage; needs the scope `admin`."""
        return tuple(map(Tenant.model_validate, self._http.ask("GET", "/tenants").json()))

    def set_limits(self, tenant: str, limits: Limits) -> Tenant:
        """Replace the limits of a tenant; needs the scope `admin`."""
        path = f"/tenants/{quote(tenant, safe='')}/limits"
        return Tenant.model_validate(self._http.json("PUT", path, json=limits.model_dump()))

    def workers(self) -> tuple[Worker, ...]:
        """Return every worker of the service, by name."""
        return tuple(map(Worker.model_validate, self._http.ask("GET", "/workers").json()))

    def ready(self) -> bool:
        """Return whether the service answers and all its parts are ready."""
        try:
            return self._http.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def _verb(self, job_id: str, verb: str) -> Job:
        return Job.model_validate_json(self._http.ask("POST", _path(job_id, verb)).content)

    def _new(self, path: str, body: Mapping[str, Any] | None, idempotency_key: str | None) -> Job:
        headers = {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}  # so it may be repeated
        return Job.model_validate_json(self._http.ask("POST", path, json=body, headers=headers).content)


def _is_last(event: StoredEvent) -> bool:
    return event.kind == "state" and event.body["state"] in END_STATES


def _is_final(error: ClientError) -> bool:
    """Return whether a retry would get the same answer."""
    return isinstance(error, ApiError) and error.status not in (429, 502, 503, 504)


def _path(job_id: str, *parts: str) -> str:
    """Return a route of a job; user input stays one segment, whatever characters it has."""
    return route("jobs", job_id, *parts)
