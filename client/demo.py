"""The program of `make demo`: a run of the whole service, from drawn pictures to a student and its measured gain.

    python -m client.demo [--data FOLDER] [--epochs N] [--minutes N]

It first measures a few steps, and chooses the number of epochs for the available time (`demo_budget.py`). Then
it uses the service like any client: starts `gkd serve` on a free port, submits two specs, follows the jobs,
prints the report. Its files are in `.demo/` until the next demo.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from client import demo_specs, show_report, show_text, terminal
from client.client import Client
from client.demo_budget import Pace, Plan, fit, fit_student, seconds, teacher_seconds
from client.errors import ClientError
from client.follow import follow
from client.run import resolve_here
from gkd_core.errors import GkdError
from gkd_core.process.interpreter import on_safe_path, python
from jobs.job import Job, State
from jobs.specs.spec_errors import read_spec

HOME = Path(".demo")
START_SECONDS = 60.0
"""Timeout of the server's start; the first start compiles Python files."""
STOP_SECONDS = 75.0
"""Timeout of the server's shutdown: its engine gets 30 s to write a checkpoint, and 30 s after SIGTERM."""
MINUTES = 5
"""Duration of the whole demo on drawn pictures, however slow the machine is."""
CLOSING_SECONDS = 15.0
"""Reserved for what follows the jobs, and for the unforeseen."""
LOG_LINES = 20


class DemoFailed(GkdError):
    """The demo has failed."""


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m client.demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder of your own pictures instead of drawn ones")
    parser.add_argument(
        "--epochs", type=_positive, help="of teacher, student and control; nothing is fitted then"
    )
    parser.add_argument(
        "--minutes", type=_positive, help=f"time that epochs are fitted to; {MINUTES} for drawn pictures"
    )
    given = parser.parse_args(arguments)
    wanted = Wanted(given.data, given.epochs, given.minutes)
    console = terminal.console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: the server must not stay behind
    try:
        demo(wanted, console)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except (GkdError, ClientError) as error:
        console.print(
            Text(f"the demo failed: {error.message}\n{error.hint}".rstrip(), style="red"), soft_wrap=True
        )
        return 1
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


class Wanted(NamedTuple):
    """The command line options."""

    data: Path | None
    """The user's pictures; None: drawn ones."""
    epochs: int | None
    """Of all trainings; None: the recipe's, or as many as fit."""
    minutes: int | None
    """Time that the epochs are fitted to; None: `MINUTES` for drawn pictures, no limit for a user's own."""

    @property
    def recipe(self) -> str:
        """Return the name of the recipe."""
        return "own" if self.data else "shapes"

    @property
    def seconds(self) -> float | None:
        """Return the time for everything; None: no limit."""
        minutes = self.minutes or (None if self.data else MINUTES)
        return None if minutes is None or self.epochs else 60.0 * minutes


def demo(wanted: Wanted, console: Console) -> None:
    """Train a teacher, a control and a student through the service.

    Raises:
        DemoFailed: the server does not start, or a job fails.
        ClientError: the service refuses a spec, or stops answering.
    """
    began = time.monotonic()
    if wanted.data and not wanted.data.is_dir():
        raise DemoFailed(f"{wanted.data} is no folder", "Name the folder of a data set.")
    home = HOME.absolute()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    folder = str(wanted.data.resolve() if wanted.data else _draw(home / "shapes", console))
    whole = Plan(wanted.epochs, wanted.epochs) if wanted.epochs else demo_specs.usual(wanted.recipe)
    pace = None if wanted.epochs else measure(folder, wanted.recipe, console)
    end = None if wanted.seconds is None else began + wanted.seconds - CLOSING_SECONDS
    plan = whole if end is None or pace is None else fit(pace, whole, end - time.monotonic())
    if pace:
        _print_plan(plan, whole, pace, console)
    with _server(home, Path(folder), console, threads=pace.threads if pace else None) as client:
        started = time.monotonic()
        teacher = client.submit(demo_specs.teacher(folder, wanted.recipe, plan.teacher))
        _follow_to_success(client, teacher, console)
        if pace and end is not None:
            epochs = _fit_again(pace, plan, started, end)
            plan = plan._replace(student=_report_change(epochs, plan.student, console))
        student = client.submit(demo_specs.distillation(folder, wanted.recipe, teacher.id, plan.student))
        _follow_to_success(client, student, console)
        _conclude(client, student, home, console)
    console.print(f"all of it took {show_text.duration(time.monotonic() - began)}")


# ---- time budget ---------------------------------------------------------------------------------------------


def measure(folder: str, recipe: str, console: Console) -> Pace:
    """Time a few steps on this machine, in a process of its own, with several numbers of threads.

    Raises:
        DemoFailed: the data cannot be trained on, or the steps fail.
    """
    console.print("measuring a few steps")
    configs = [_resolved(spec(folder, recipe)) for spec in (demo_specs.teacher, demo_specs.control)]
    done = subprocess.run(
        python("-m", "gkd_core.runs.pace", "--threads", *map(str, threads_to_try())),
        env=on_safe_path({"OMP_WAIT_POLICY": "PASSIVE", **os.environ}),  # as engines are started
        input=json.dumps(configs),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise DemoFailed(f"no step could be taken: {_last_lines(done.stderr)}")
    return Pace.of(json.loads(done.stdout.splitlines()[-1]))


def threads_to_try() -> list[int]:
    """Return the thread counts to try, largest first: all cores, 2 and 1; only OMP_NUM_THREADS if it is set."""
    if (said := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() and int(said):
        return [int(said)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return sorted({1, 2, cores} & set(range(cores + 1)), reverse=True)


def _resolved(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the engine's config of a spec, as `gkd run` makes it."""
    config = resolve_here(read_spec(spec)).config
    return config.model_dump(mode="json", by_alias=True)


def _print_plan(plan: Plan, whole: Plan, pace: Pace, console: Console) -> None:
    """Print how many epochs there will be, and how long they take."""
    threads = f"{pace.threads} thread{'s' if pace.threads > 1 else ''}"
    speed = f"with {threads}, the fastest, a step takes {pace.teacher_step:.2f} s (teacher)"
    fitted = f", of {whole.teacher} and {whole.student}, to be done in time" if plan != whole else ""
    epochs = f"{plan.teacher} epochs of the teacher, {plan.student} of student and control{fitted}"
    console.print(
        f"{speed} and {pace.student_step:.2f} s (student): {epochs}; about {show_text.duration(seconds(pace, plan))}. "
        "EPOCHS=10 or MINUTES=10 after `make demo` chooses otherwise.",
        soft_wrap=True,
    )


def _fit_again(pace: Pace, plan: Plan, started: float, end: float) -> int:
    """Return the epochs of the student, now that the actual duration of the teacher is known."""
    slower = (time.monotonic() - started) / teacher_seconds(pace, plan.teacher)
    return fit_student(pace.times(slower), plan.student, end - time.monotonic())


def _report_change(epochs: int, planned: int, console: Console) -> int:
    if epochs != planned:
        console.print(
            f"the teacher took longer than forecast: {epochs} epochs of the student instead of {planned}"
        )
    return epochs


def _draw(folder: Path, console: Console) -> Path:
    """Draw the pictures in a process of its own, so that this one does not import the engine's libraries."""
    console.print(f"drawing {demo_specs.DRAWING['train'] + demo_specs.DRAWING['val']} pictures in {folder}")
    code = "import sys; from pathlib import Path; from gkd_core.data.shapes import draw_shapes; "
    code += f"draw_shapes(Path(sys.argv[1]), **{demo_specs.DRAWING!r})"
    done = subprocess.run(
        python("-c", code, str(folder)), env=on_safe_path(os.environ), capture_output=True, text=True
    )
    if done.returncode:
        raise DemoFailed(f"the pictures could not be drawn: {_last_lines(done.stderr)}")
    return folder


@contextmanager
def _server(home: Path, data: Path, console: Console, *, threads: int | None = None) -> Iterator[Client]:
    """Run `gkd serve` during the demo, and yield a client of it; its engines use this many threads."""
    port, log = _free_port(), home / "serve.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            python("-m", "client.cli", "serve"),
            env=_environment(home, data, port, threads),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            _await_ready(client, server, log)
            console.print(f"`gkd serve` answers at {client.url}; its log is {log}", soft_wrap=True)
            yield client
    finally:
        _stop(server)


def _environment(home: Path, data: Path, port: int, threads: int | None = None) -> dict[str, str]:
    """Return the server's environment: no GKD settings of this shell but the engine, which a test may replace."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GKD_")}
    engine = {name: os.environ[name] for name in ("GKD_ENGINE",) if name in os.environ}
    ours = {"GKD_HOME": str(home), "GKD_DATA_ROOTS": str(data), "GKD_PORT": str(port)}
    fastest = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    return on_safe_path({**kept, **engine, **fastest, **ours})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_ready(client: Client, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not client.ready():
        if server.poll() is not None or time.monotonic() > deadline:
            raise DemoFailed(
                f"`gkd serve` did not start; its log {log} ends with:\n{_last_lines(log.read_text())}"
            )
        time.sleep(0.2)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _follow_to_success(client: Client, job: Job, console: Console) -> None:
    """Follow a job to its end, and raise an error unless it succeeds."""
    console.print(Text(f"\n{job.name}", style="bold"))
    follow(client.events(job.id), console)
    ended = client.job(job.id)
    if ended.state is State.SUCCEEDED:
        return
    log, _ = client.log(job.id, offset=-8_192)
    why = ended.failure.message if ended.failure else ended.reason
    hint = ended.failure.hint if ended.failure else ""
    raise DemoFailed(f"{job.name} is {ended.state}: {why}\nits log ends with:\n{_last_lines(log)}", hint)


def _conclude(client: Client, student: Job, home: Path, console: Console) -> None:
    report = client.report(student.id)
    console.print()
    console.print(show_report.report(report))
    name = report.models["student"].file if "student" in report.models else None
    if name is None:
        raise DemoFailed("the report names no file of the student")
    target = home / "student.safetensors"
    digest = client.download(student.id, name, target)
    console.print(Text(f"the student: {target}\nSHA-256:     {digest}"), soft_wrap=True)


def _last_lines(text: str) -> str:
    return "\n".join(text.splitlines()[-LOG_LINES:])


if __name__ == "__main__":
    sys.exit(main())
