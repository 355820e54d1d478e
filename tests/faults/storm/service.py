"""A running GKD of real processes that can be killed, frozen and started again, in both ways to run it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx
import psutil

from jobs.job import Ticket

from .servers import PATIENCE_SECONDS, Postgres, Redis, free_port, wait_until
from .wire import Wire

ROOT = Path(__file__).parents[3]
LEASE_SECONDS = 6.0
"""Long enough for a busy machine, short enough to wait for hundreds of times."""
HOME_BYTES = 160 << 20
"""Size of the service's own disk, where one can be mounted."""
SETTINGS = {
    "GKD_LEASE_SECONDS": str(LEASE_SECONDS),
    "GKD_RENEW_SECONDS": "0.5",
    "GKD_SWEEP_SECONDS": "0.5",
    "GKD_STOP_SECONDS": "5",
    "GKD_MAX_ATTEMPTS": "1000",  # no failure here is the job's fault, however many there are
    "GKD_FREE_BYTES": "32MiB",
    "GKD_GPUS": "0",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}


@dataclass(frozen=True)
class EngineSeen:
    """A running engine process."""

    process: psutil.Process
    ticket: Ticket

    def is_alive(self) -> bool:
        """Return whether it has not ended."""
        return self._status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)

    def is_running(self) -> bool:
        """Return whether it is alive and not stopped."""
        return self.is_alive() and self._status() != psutil.STATUS_STOPPED

    def _status(self) -> str:
        try:
            return self.process.status() if self.process.is_running() else psutil.STATUS_DEAD
        except psutil.NoSuchProcess:
            return psutil.STATUS_DEAD


class Part:
    """One process of the service, started with a clock of its own.

    Args:
        name: Of the part.
        word: `api`, `worker` or `serve`.
        folder: Of its log and its clock.
        environment: Variables of its own.
    """

    def __init__(self, name: str, word: str, folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        self._clock = folder / f"{name}.clock"
        self._word = word
        self._environment = environment | {"GKD_STORM_CLOCK": str(self._clock)}
        self.start()

    def start(self) -> None:
        """Start it, without waiting for it."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.storm.skewed", self._word],
                env=self._environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def ended(self) -> bool:
        """Return whether it has ended, for any reason."""
        return self.process.poll() is not None

    @property
    def worker(self) -> str | None:
        """Return the name under which it claims jobs, from its slot on this machine (`worker/slots.py`)."""
        with suppress(OSError):
            for file in Path(f"/proc/{self.process.pid}/fd").iterdir():
                if (target := file.resolve()).parent.name == "workers":
                    return target.read_text().partition("\n")[2].strip() or None
        return None

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Stop it with SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue it with SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def set_clock(self, seconds: float) -> None:
        """Set its clock so many seconds ahead."""
        new = self._clock.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._clock)

    def engines(self) -> list[EngineSeen]:
        """Return the running engine processes that it started."""
        with suppress(psutil.NoSuchProcess):
            return engines_among(psutil.Process(self.process.pid).children(recursive=True))
        return []


def engines_among(processes: list[psutil.Process]) -> list[EngineSeen]:
    """Return those of the processes that are engines."""
    found = []
    for process in processes:
        with suppress(psutil.Error):
            line = process.cmdline()
            if "gkd_core.train" in line and process.status() != psutil.STATUS_ZOMBIE:
                run_dir, _, attempt = line[line.index("gkd_core.train") + 1 :][:3]
                found.append(EngineSeen(process, Ticket(Path(run_dir).name, int(attempt))))
    return found


class Service:
    """Base class of both ways to run the service.

    Args:
        folder: Short path of an empty folder for all files.
        pictures: Data root of the jobs.
    """

    api_part: str
    words: ClassVar[dict[str, str]]
    """The command of each part, by its name."""

    def __init__(self, folder: Path, pictures: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.disk_is_own = mount(self.home)
        self.parts: dict[str, Part] = {}
        self.refusals: list[str] = []
        """Answers that should never be given, whatever is away: 500 and its like."""
        self.fell_over: list[str] = []
        """Parts that ended without having been killed, and were started again."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        own = {name: value for name, value in os.environ.items() if not name.startswith("GKD_")}
        places = {"GKD_HOME": self.home, "GKD_DATA_ROOTS": pictures, "GKD_PORT": port, "PYTHONPATH": ROOT}
        self.environment = own | SETTINGS | {name: str(value) for name, value in places.items()}

    def start(self) -> None:
        """Start every part and wait until all are ready."""
        for name, word in self.words.items():
            self.parts[name] = Part(name, word, self.folder, self.environment)
        self.heal()

    @property
    def database_url(self) -> str:
        """Return the URL of the store."""
        raise NotImplementedError

    @property
    def workers(self) -> list[Part]:
        """Return the parts that run jobs."""
        return [part for name, part in self.parts.items() if self.words[name] != "api"]

    def engines(self) -> list[EngineSeen]:
        """Return every engine that runs under one of the workers."""
        return [engine for worker in self.workers for engine in worker.engines()]

    def all_engines(self) -> list[EngineSeen]:
        """Return every engine of this service on the machine, whatever its parent is now."""
        seen = engines_among(list(psutil.process_iter()))
        return [each for each in seen if str(self.home) in " ".join(each.process.cmdline())]

    def heal(self) -> None:
        """Restart the parts that have ended, as a container runtime would, and wait until all answer.

        Raises:
            TimeoutError: it does not become ready again.
        """
        wait_until(self._well, "the service is well again", 2 * PATIENCE_SECONDS)

    def _well(self) -> bool:
        for part in self.parts.values():
            if part.ended:
                self.fell_over.append(f"{part.name} ended with {part.process.returncode}")
                part.start()
        if not all(part.worker for part in self.workers if part.name != self.api_part):
            return False
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        return False

    def ask(self, method: str, path: str, **how: Any) -> httpx.Response:
        """Repeat a request until the service answers with a success.

        Raises:
            ValueError: it refused for good.
            TimeoutError: it did not answer.
        """
        answers: list[httpx.Response] = []

        def answered() -> bool:
            with suppress(httpx.HTTPError):
                answers.append(httpx.request(method, self.url + path, timeout=30, **how))
                return self._is_answer(answers[-1])
            return False

        wait_until(answered, f"{method} {path} is answered", 2 * PATIENCE_SECONDS)
        return answers[-1]

    def _is_answer(self, answer: httpx.Response) -> bool:
        if answer.is_success:
            return True
        told = f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:300]}"
        if answer.status_code not in (429, 503):
            self.refusals.append(told)
        if answer.status_code < 429:
            raise ValueError(told)
        return False

    def fill_disk(self) -> None:
        """Fill the disk of the home folder, which must be its own."""
        assert self.disk_is_own
        ballast = os.open(self.home / "ballast", os.O_WRONLY | os.O_CREAT)
        try:
            with suppress(OSError):
                while True:
                    os.write(ballast, bytes(1 << 16))
        finally:
            os.close(ballast)

    def make_room(self) -> None:
        """Free the disk again."""
        (self.home / "ballast").unlink(missing_ok=True)

    def forget_run(self, job_id: str) -> None:
        """Remove the run directory of a job that has ended: the disk is small."""
        shutil.rmtree(self.home / "runs" / job_id, ignore_errors=True)

    def close(self) -> None:
        """Stop every part, and free the disk."""
        for part in self.parts.values():
            part.thaw()
            part.process.terminate()
        for part in self.parts.values():
            with suppress(subprocess.TimeoutExpired):
                part.process.wait(30)
            part.kill()
        if self.disk_is_own:
            unmount(self.home)


class Node(Service):
    """The service as an API and two workers, on PostgreSQL and Redis."""

    api_part = "api"
    words: ClassVar[dict[str, str]] = {"api": "api", "worker-1": "worker", "worker-2": "worker"}

    def __init__(self, folder: Path, pictures: Path) -> None:
        super().__init__(folder, pictures)
        self.postgres = Postgres(folder / "pg")
        self.redis = Redis(folder / "redis")
        self.wire = Wire(self.redis.port)
        broker = f"redis://127.0.0.1:{self.wire.port}/0"
        self.environment |= {"GKD_DATABASE_URL": self.postgres.url, "GKD_BROKER_URL": broker}

    @property
    def database_url(self) -> str:
        """Return PostgreSQL's URL."""
        return self.postgres.url

    def close(self) -> None:
        """Stop the servers as well."""
        self.postgres.thaw()
        super().close()
        for server in (self.wire, self.redis, self.postgres):
            server.close()


class Laptop(Service):
    """The service as `gkd serve`: one process, SQLite, a queue in memory."""

    api_part = "serve"
    words: ClassVar[dict[str, str]] = {"serve": "serve"}

    @property
    def database_url(self) -> str:
        """Return the URL of the file in the home folder."""
        return f"sqlite:///{self.home / 'gkd.db'}"


def mount(folder: Path) -> bool:
    """Mount a small disk on a folder; return False where that is not allowed."""
    size = ["-o", f"size={HOME_BYTES}"]
    tried = subprocess.run(["mount", "-t", "tmpfs", *size, "tmpfs", folder], check=False, capture_output=True)
    return tried.returncode == 0


def unmount(folder: Path) -> None:
    """Unmount the disk, even while processes use it."""
    subprocess.run(["umount", "--lazy", folder], check=False)


def pause(seconds: float, *, while_: Callable[[], bool] = lambda: True) -> None:
    """Wait so many seconds, or until a condition no longer holds."""
    until = time.monotonic() + seconds
    while while_() and time.monotonic() < until:
        time.sleep(0.02)
