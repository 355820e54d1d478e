"""What the store and the artifacts refuse, each in a sentence."""

from __future__ import annotations

from jobs.job import Ticket


class JobsError(Exception):
    """Root of the errors of `jobs`."""


class UnknownJob(JobsError):
    """There is no such job."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id!r}")
        self.job_id = job_id


class UnknownCursor(JobsError):
    """No page of this list has ended with this cursor."""

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
    """The service has no file of its own of this model."""

    def __init__(self, model_id: str) -> None:
        message = f"model {model_id} lies under a data root; only the files of uploaded models are sent"
        JobsError.__init__(self, message)


class NotAllowed(JobsError):
    """The job's state does not allow this; `actions` are those that it does allow."""

    def __init__(self, job_id: str, action: str, state: str, actions: tuple[str, ...]) -> None:
        allowed = f"allowed now: {', '.join(actions)}" if actions else "nothing can be asked of it any more"
        super().__init__(f"cannot {action} job {job_id}: it is {state}; {allowed}")
        self.action = action
        self.state = state
        self.actions = actions


class InUse(JobsError):
    """The job's model is wanted by jobs that have not ended."""

    def __init__(self, job_id: str, users: tuple[str, ...]) -> None:
        super().__init__(
            f"cannot delete job {job_id}: its model is wanted by job {' and '.join(users[:_SHOWN])}"
            f"{' and others' if len(users) > _SHOWN else ''}; let them end, or cancel them first"
        )


_SHOWN = 3


class UnknownResource(JobsError):
    """There is no such data set or model."""

    def __init__(self, kind: str, resource_id: str) -> None:
        super().__init__(f"there is no {_KINDS.get(kind, kind)} {resource_id!r}")
        self.kind = kind


class ResourceInUse(JobsError):
    """A data set or model is needed by jobs that have not ended."""

    def __init__(self, kind: str, resource_id: str, users: tuple[str, ...]) -> None:
        shown = " and ".join(users[:_SHOWN]) + (" and others" if len(users) > _SHOWN else "")
        super().__init__(
            f"cannot delete {_KINDS[kind]} {resource_id}: job {shown} needs it; let them end, or cancel them first"
        )
        self.users = users


_KINDS = {"dataset": "data set", "model": "model"}


class IdempotencyConflict(JobsError):
    """The same idempotency key came with another spec."""

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
    """No API key can be called so."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name[:80]!r} is no name of a key: at most 200 characters, and not blanks alone")


class InvalidTenant(JobsError):
    """No tenant can be called so."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name[:80]!r} is no name of a tenant: at most 63 of a-z, 0-9 and -, and no - at the start"
        )


class QuotaExceeded(JobsError):
    """A tenant has as much of the service as it may.

    Args:
        limit: The field of `Limits`.
        allowed: Its value.
        used: How much of that the tenant has.
        hint: What helps, where it is not what mostly does.
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
"""What helps, by limit."""


class StaleTicket(JobsError):
    """The job is no longer this attempt's: whoever holds the ticket must stop and publish nothing."""

    def __init__(self, ticket: Ticket) -> None:
        super().__init__(f"attempt {ticket.attempt} no longer holds job {ticket.job_id}")
        self.ticket = ticket


class StoreUnavailable(JobsError):
    """The database does not answer; what was asked may be asked again later."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"the database does not answer: {str(cause).splitlines()[0]}")


class StoreRefuses(StoreUnavailable):
    """The database answers but takes no writes; what was asked may be asked again once somebody has seen to it.

    Whoever waits for a database that is away waits for this one, too.
    """

    def __init__(self, why: str, cause: Exception) -> None:
        self.message = f"the database takes no writes: {why}"
        JobsError.__init__(self, f"{self.message} ({str(cause).splitlines()[0]})")


class WrongRevision(JobsError):
    """The database is not as this release needs it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message}. {hint}")
        self.message = message
        self.hint = hint


class WrongContent(JobsError):
    """A file is not the one that was announced: it was replaced or damaged since."""

    def __init__(self, name: str, expected: str, seen: str) -> None:
        super().__init__(
            f"{name} has the SHA-256 {seen}, announced was {expected}; it was replaced or damaged"
        )


class ContentGone(JobsError):
    """A file that was published is not where published files lie."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"the file with the SHA-256 {sha256} is gone from where published files are kept")


class StillUnpacking(JobsError):
    """An uploaded data set is being unpacked on this machine for somebody else; soon it is there."""

    def __init__(self, sha256: str) -> None:
        super().__init__(
            f"the data set with the SHA-256 {sha256} is being unpacked on this machine; send the same again in a minute"
        )


class OperationCancelled(JobsError):
    """Somebody wants no more of what was being done, and it was broken off."""

    def __init__(self) -> None:
        super().__init__("it was broken off: nobody waits for it any more")


class ArtifactsUnavailable(JobsError):
    """Where published files lie does not answer; what was asked may be asked again later."""

    def __init__(self, place: str, cause: Exception) -> None:
        # A URL in the words goes on with what nobody wants to read.
        words = str(cause).partition("?")[0] or type(cause).__name__
        super().__init__(f"{place} does not answer: {words.splitlines()[0]}")


class ArtifactsRefused(JobsError):
    """Published files cannot be kept or read before somebody changes something; `hint` says what."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message}. {hint}")
        self.message = message
        self.hint = hint
