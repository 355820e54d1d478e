"""The errors of the Python client."""

from __future__ import annotations

from gkd_core.errors import Problem


class ClientError(Exception):
    """Base class of the client's errors; `hint` says what to do."""

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
