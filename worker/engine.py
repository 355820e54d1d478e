"""The engine process, controlled from outside: start, follow its events, stop.

The engine runs in a session of its own, so that a crash or a stuck data loader does not affect the worker and
the whole process group can be killed at once. It dies with the thread that started it
(`gkd_core.process.engine`). A distributed engine is started in the same way: it starts its other processes
itself, and they die with it (`gkd_core.process.launch`).
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from gkd_core.events import Event, Warning, events
from gkd_core.process.interpreter import on_safe_path, python
from gkd_core.run_dir import PARENT, Control, RunDir

log = logging.getLogger(__name__)

SECRETS = (
    *("GKD_DATABASE_URL", "GKD_BROKER_URL", "GKD_ADMIN_KEY", "GKD_API_KEY"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
"""Environment variables that the engine must not see."""


def engine_command() -> list[str]:
    """Return the command that runs the engine.

    `GKD_ENGINE` replaces it, for example by `nice -n 19 python -m gkd_core.train`.

    It must become the engine (`exec`), not start it as a child: an engine whose parent is not its worker exits.
    """
    return shlex.split(os.environ.get("GKD_ENGINE", "")) or python("-m", "gkd_core.train")


class Engine:
    """One engine process and its children.

    `poll` and `events` are for one thread; `stop` and `kill` may be called from any.
    """

    def __init__(self, process: subprocess.Popen[bytes], run_dir: RunDir, attempt: int, stop_seconds: float):
        self._process = process
        self._run_dir = run_dir
        self._attempt = attempt
        self._stop_seconds = stop_seconds
        self._stopping_since: float | None = None
        self._alive = threading.Lock()  # while held, the process is not reaped, so its id is its own

    @classmethod
    def start(
        cls,
        run_dir: RunDir,
        attempt: int,
        *,
        device: str = "auto",
        env: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        stop_seconds: float = 30.0,
    ) -> Engine:
        """Start the engine on a prepared run directory.

        Args:
            run_dir: Prepared by `RunDir.prepare`.
            attempt: The attempt it was prepared for.
            device: "cpu" hides the GPUs from the engine.
            env: Variables to add to this process's own.
            command: Command to run instead of the engine; gets `RUN_DIR --attempt N` appended.
            stop_seconds: From the request to stop until SIGTERM, and from there until SIGKILL.

        Returns:
            The running engine.

        Raises:
            OSError: The command cannot be started.
        """
        line = [*(command or engine_command()), str(run_dir.path), "--attempt", str(attempt)]
        with run_dir.log.open("ab") as output:
            process = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(device, env or {}),
                start_new_session=True,
            )
        return cls(process, run_dir, attempt, stop_seconds)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        with self._alive:
            self._process.wait()

    @property
    def pid(self) -> int:
        """Return the process id, which is also that of the group."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal that ended it), or None while it runs.

        Escalates a `stop` in progress: SIGTERM after `stop_seconds`, then SIGKILL.
        """
        with self._alive:
            if self._process.returncode is None:
                self._escalate()
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    # To the engine's remaining children; the group's id is ours until it is reaped.
                    self._signal(signal.SIGKILL)
                    self._process.wait()
            return self._process.returncode

    def stop(self) -> None:
        """Ask the engine to stop after a checkpoint; `poll` then escalates. Idempotent."""
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            try:
                self._run_dir.ask(Control(attempt=self._attempt, wanted="stop"))
            except OSError as error:  # a full disk must not keep a job running: `poll` escalates
                log.warning("cannot ask the engine in %s to stop: %s", self._run_dir.path, error)

    def kill(self) -> None:
        """Kill the whole process group at once.

        No file is damaged: the engine renames finished files into place.
        """
        with self._alive:
            if self._process.returncode is None:
                self._signal(signal.SIGKILL)

    def events(self, offset: int) -> Iterator[tuple[Event, int]]:
        """Yield the complete events in the file from a byte offset on.

        Yields:
            The event, and the offset after it. Unreadable lines are skipped and reported in a warning.
        """
        return read_events(self._run_dir.events, offset)

    def _escalate(self) -> None:
        if self._stopping_since is None:
            return
        waited = time.monotonic() - self._stopping_since
        if waited > 2 * self._stop_seconds:
            self._signal(signal.SIGKILL)
        elif waited > self._stop_seconds:
            self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
            log.debug("process group %d is gone already", self.pid)


class UnreadableLines(Warning):
    """A warning event in place of unreadable lines of an events file, so that each is reported once."""


def read_events(path: Path, offset: int) -> Iterator[tuple[Event, int]]:
    """Yield the complete lines of an events file; see `Engine.events`."""
    if not path.exists():  # the engine has not got that far
        return
    unreadable: list[str] = []
    with path.open("rb") as file:
        file.seek(offset)
        while (line := file.readline()).endswith(b"\n"):
            event = _parse(line, unreadable)
            if event is not None:
                if unreadable:
                    yield _warn_unreadable(unreadable, offset), offset
                    unreadable = []
                yield event, offset + len(line)
            offset += len(line)
    if unreadable:
        yield _warn_unreadable(unreadable, offset), offset


def _parse(line: bytes, unreadable: list[str]) -> Event | None:
    """Return the event in a line.

    The reason why there is none is added to `unreadable`, unless the line is empty.
    """
    try:
        return events.validate_json(line) if line.strip() else None
    except ValidationError as error:
        unreadable.append(f"{error.errors()[0]['msg']}: {line[:80]!r}")
        return None


def _warn_unreadable(unreadable: list[str], offset: int) -> UnreadableLines:
    lines = "a line" if len(unreadable) == 1 else f"{len(unreadable)} lines"
    message = (
        f"the engine wrote {lines} before byte {offset} of its events that cannot be read: {unreadable[0]}"
    )
    log.warning("%s", message)
    hint = "What these said is missing here; the job goes on. Look at the disk of the run directory."
    return UnreadableLines(time=time.time(), message=message, hint=hint)


def _environment(device: str, extra: Mapping[str, str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in SECRETS}
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    calm = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that busy-wait slow down a shared CPU
    ours = {PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    return on_safe_path({**calm, **own, **hidden, **extra, **ours})
