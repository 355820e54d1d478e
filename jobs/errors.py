"""Errors of the store and the artifacts, each with a message for users."""

from __future__ import annotations

from jobs.job import Ticket


class JobsError(Exception):
    """Base class of the errors of `jobs`."""


class UnknownJob(JobsError):
    """There is no such job."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id!r}")
        self.job_id = job_id


class UnknownCursor(JobsError):
    """The cursor does not belong to this list."""

    def __init__(self, cursor: str) -> None:
        super().__init__(
            f"{cursor[:80]!r} is not the `next` of an earlier page of this list; ask for the first page"
        )


class UnknownArtifact(JobsError):
    """The job has published no such file."""

    def __init__(self, job_id: str, name: str) -> None:
        super().__init__(f"job {job_id} has published no file {name!r}")
        self.job_id = job_id
        self.name = name


class UnknownModelFile(UnknownArtifact):
    """The model is not an upload, so the service has no file of it to send."""

    def __init__(self, model_id: str) -> None:
        message = f"model {model_id} lies under a data root; only the files of uploaded models are sent"
        JobsError.__init__(self, message)


class NotAllowed(JobsError):
    """The job's state does not allow the action; `actions` are the allowed ones."""

    def __init__(self, job_id: str, action: str, state: str, actions: tuple[str, ...]) -> None:
        allowed = f"allowed now: {', '.join(actions)}" if actions else "nothing can be asked of it any more"
        super().__init__(f"cannot {action} job {job_id}: it is {state}; {allowed}")
        self.action = action
        self.state = state
        self.actions = actions


class InUse(JobsError):
    """The job's model is needed by jobs that have not ended."""

    def __init__(self, job_id: str, users: tuple[str, ...]) -> None:
        super().__init__(
            f"cannot delete job {job_id}: its model is wanted by job {' and '.join(users[:_NAMED_JOBS])}"
            f"{' and others' if len(users) > _NAMED_JOBS else ''}; let them end, or cancel them first"
        )


_NAMED_JOBS = 3


class UnknownResource(JobsError):
    """There is no such data set or model."""

    def __init__(self, kind: str, resource_id: str) -> None:
        super().__init__(f"there is no {_KINDS.get(kind, kind)} {resource_id!r}")
        self.kind = kind


class ResourceInUse(JobsError):
    """The data set or model is needed by jobs that have not ended."""

    def __init__(self, kind: str, resource_id: str, users: tuple[str, ...]) -> None:
        shown = " and ".join(users[:_NAMED_JOBS]) + (" and others" if len(users) > _NAMED_JOBS else "")
        super().__init__(
            f"cannot delete {_KINDS[kind]} {resource_id}: job {shown} needs it; let them end, or cancel them first"
        )
        self.users = users


_KINDS = {"dataset": "data set", "model": "model"}


class IdempotencyConflict(JobsError):
    """The idempotency key was sent with another spec before."""

    def __init__(self, key: str, job_id: str) -> None:
        super().__init__(
            f"the idempotency key {key!r} belongs to job {job_id}, which was asked for by another spec; "
            "send a new key with a new spec"
        )
        self.key = key
        self.job_id = job_id


class UnknownKey(JobsError):
    """There is no such API key."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no API key {key_id!r}; `gkd keys list` shows all")


class InvalidKeyName(JobsError):
    """The name of an API key is not valid."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name[:80]!r} is no name of a key: at most 200 characters, and not blanks alone")


class InvalidTenant(JobsError):
    """The name of a tenant is not valid."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name[:80]!r} is no name of a tenant: at most 63 of a-z, 0-9 and -, and no - at the start"
        )


class QuotaExceeded(JobsError):
    """A tenant has reached one of its limits.

    Args:
        limit: The field of `Limits`.
        allowed: Its value.
        used: The tenant's usage.
        hint: What to do, if it is not the usual remedy.
    """

    def __init__(self, limit: str, allowed: float, used: float, hint: str | None = None) -> None:
        super().__init__(
            f"this tenant may have {limit} {allowed:.12g} and has {used:.12g}; {hint or _MAKES_ROOM[limit]}"
        )


_MAKES_ROOM = {
    "queued_jobs": "wait until some have started, or cancel some",
    "stored_bytes": "delete jobs that have ended, or uploads, which nobody needs any more; "
    "what is being sent counts, too",
    "gpu_hours": "those of the last 30 days count; jobs without a GPU are still taken in",
}
"""The usual remedy, by limit."""


class StaleTicket(JobsError):
    """The ticket is no longer valid: its holder must stop and publish nothing."""

    def __init__(self, ticket: Ticket) -> None:
        super().__init__(f"attempt {ticket.attempt} no longer holds job {ticket.job_id}")
        self.ticket = ticket


class StoreUnavailable(JobsError):
    """The database does not answer; the call may be retried later."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"the database does not answer: {str(cause).splitlines()[0]}")


class StoreRefuses(StoreUnavailable):
    """The database answers but accepts no writes; the call may be retried once an operator has fixed that.

    It is a `StoreUnavailable`, so that callers retry it in the same way.
    """

    def __init__(self, why: str, cause: Exception) -> None:
        self.message = f"the database takes no writes: {why}"
        JobsError.__init__(self, f"{self.message} ({str(cause).splitlines()[0]})")


class WrongRevision(JobsError):
    """The revision of the database is not the one this release needs."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message}. {hint}")
        self.message = message
        self.hint = hint


class WrongContent(JobsError):
    """A file has another hash than announced: it was replaced or damaged."""

    def __init__(self, name: str, expected: str, seen: str) -> None:
        super().__init__(
            f"{name} has the SHA-256 {seen}, announced was {expected}; it was replaced or damaged"
        )


class ContentGone(JobsError):
    """A published file is missing from the artifacts."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"the file with the SHA-256 {sha256} is gone from where published files are kept")


class StillUnpacking(JobsError):
    """An uploaded data set is being unpacked on this machine by another caller and will be ready soon."""

    def __init__(self, sha256: str) -> None:
        super().__init__(
            f"the data set with the SHA-256 {sha256} is being unpacked on this machine; send the same again in a minute"
        )


class OperationCancelled(JobsError):
    """The operation was cancelled by its caller."""

    def __init__(self) -> None:
        super().__init__("it was broken off: nobody waits for it any more")


class ArtifactsUnavailable(JobsError):
    """The storage of the artifacts does not answer; the call may be retried later."""

    def __init__(self, place: str, cause: Exception) -> None:
        # The query of a URL in the message is of no use.
        words = str(cause).partition("?")[0] or type(cause).__name__
        super().__init__(f"{place} does not answer: {words.splitlines()[0]}")


class ArtifactsRefused(JobsError):
    """The storage of the artifacts refuses the request until somebody changes something; `hint` says what."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message}. {hint}")
        self.message = message
        self.hint = hint
