"""The engine process seen from outside: start it, follow its events, stop it for sure.

The engine runs in a session of its own, so that a crash or a stuck loader cannot take the worker along and the
whole group can be ended at once. It dies with the thread that started it (`gkd_core.process.engine`).
One of several processes is started like any other: it starts the others itself, and they die with it
(`gkd_core.process.launch`).
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
"""What the engine has no business to know."""


def engine_command() -> list[str]:
    """The command that runs the engine; `GKD_ENGINE` names another one, such as `nice -n 19 python -m gkd_core.train`.

    It must become the engine, not start it: an engine whose parent is not its worker ends itself.
    """
    return shlex.split(os.environ.get("GKD_ENGINE", "")) or python("-m", "gkd_core.train")


class Engine:
    """One engine process and the processes that it started.

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
            run_dir: What `RunDir.prepare` made ready.
            attempt: The attempt it was made ready for.
            device: "cpu" hides the GPUs from the engine.
            env: Variables to add to this process's own.
            command: What to run instead of the engine; gets `RUN_DIR --attempt N` appended.
            stop_seconds: From the request to stop until SIGTERM, and from there until SIGKILL.

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
        """Process id, also that of the group."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code (negative: the signal that ended it), or None while it runs.

        Goes on with a `stop` that was asked for: SIGTERM when its time is over, then SIGKILL.
        """
        with self._alive:
            if self._process.returncode is None:
                self._press()
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    # To what the engine left behind; its id is ours until we reap it.
                    self._signal(signal.SIGKILL)
                    self._process.wait()
            return self._process.returncode

    def stop(self) -> None:
        """Ask the engine to stop after a checkpoint; `poll` then makes sure of it. Asking twice changes nothing."""
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            try:
                self._run_dir.ask(Control(attempt=self._attempt, wanted="stop"))
            except OSError as error:  # a full disk must not keep a job running: `poll` presses on
                log.warning("cannot ask the engine in %s to stop: %s", self._run_dir.path, error)

    def kill(self) -> None:
        """End the whole group at once. Nothing is torn by it: the engine renames finished files into place."""
        with self._alive:
            if self._process.returncode is None:
                self._signal(signal.SIGKILL)

    def events(self, offset: int) -> Iterator[tuple[Event, int]]:
        """Events that stand complete in the file, from a byte offset on.

        Yields:
            The event, and the offset behind it. Lines that cannot be read are skipped, and told of in a
            warning.
        """
        return read_events(self._run_dir.events, offset)

    def _press(self) -> None:
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
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            log.debug("process group %d is gone already", self.pid)


class UnreadableLines(Warning):
    """What stands for lines of an events file that are no events, so that each is told once and then left behind."""


def read_events(path: Path, offset: int) -> Iterator[tuple[Event, int]]:
    """Read the complete lines of an events file; see `Engine.events`."""
    if not path.exists():  # the engine has not come that far
        return
    unreadable: list[str] = []
    with path.open("rb") as file:
        file.seek(offset)
        while (line := file.readline()).endswith(b"\n"):
            event = _parse(line, unreadable)
            if event is not None:
                if unreadable:
                    yield _told(unreadable, offset), offset
                    unreadable = []
                yield event, offset + len(line)
            offset += len(line)
    if unreadable:
        yield _told(unreadable, offset), offset


def _parse(line: bytes, unreadable: list[str]) -> Event | None:
    """The event of a line; why there is none is added to `unreadable`, unless the line is empty."""
    try:
        return events.validate_json(line) if line.strip() else None
    except ValidationError as error:
        unreadable.append(f"{error.errors()[0]['msg']}: {line[:80]!r}")
        return None


def _told(unreadable: list[str], offset: int) -> UnreadableLines:
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
    calm = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin while they wait make a shared CPU crawl
    ours = {PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    return on_safe_path({**calm, **own, **hidden, **extra, **ours})
