"""What `make demo` runs: the whole service once, from drawn pictures to a student and the proof of its gain.

    python -m client.demo [--data FOLDER]

It uses the service as anybody else would: starts `gkd serve` on a free port, sends two specs, follows the jobs,
prints the report. Everything lies in `.demo/` until the next demo.
"""

from __future__ import annotations

import argparse
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

from rich.console import Console
from rich.text import Text

from client import demo_specs, show, terminal
from client.client import Client, ClientError
from client.follow import follow
from gkd_core.errors import GkdError
from gkd_core.interpreter import on_safe_path, python
from jobs.job import Job, State

HOME = Path(".demo")
START_SECONDS = 60.0
"""Until the server has to answer; the first start compiles Python files."""
STOP_SECONDS = 75.0
"""Until the server has to be gone: its engine gets 30 s to write a checkpoint, and 30 s after SIGTERM."""
LOG_LINES = 20


class DemoFailed(GkdError):
    """The demo cannot go on."""


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m client.demo", description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="a COCO or VOC folder of your own instead of drawn pictures"
    )
    data = parser.parse_args(arguments).data
    console = terminal.console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the server must not stay behind
    try:
        demo(data, console)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except (GkdError, ClientError) as error:
        console.print(
            Text(f"the demo failed: {error.message}\n{error.hint}".rstrip(), style="red"), soft_wrap=True
        )
        return 1
    return 0


def demo(data: Path | None, console: Console) -> None:
    """A teacher, a control and a student, through the service.

    Raises:
        DemoFailed: the server does not start, or a job fails.
        ClientError: the service refuses a spec, or goes away.
    """
    if data and not data.is_dir():
        raise DemoFailed(f"{data} is no folder", "Name the folder of a COCO or VOC data set.")
    home = HOME.absolute()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    folder = data.resolve() if data else _draw(home / "shapes", console)
    recipe = "own" if data else "shapes"
    with _server(home, folder, console) as client:
        teacher = client.submit(demo_specs.teacher(str(folder), recipe))
        student = client.submit(demo_specs.distillation(str(folder), recipe, teacher.id))
        console.print(
            Text(f"asked for two jobs: {teacher.id} and {student.id} ({student.reason})"), soft_wrap=True
        )
        for job in (teacher, student):
            _see_through(client, job, console)
        _conclude(client, student, home, console)


def _draw(folder: Path, console: Console) -> Path:
    """Draw the pictures, in a process of its own: this one stays without the engine's libraries."""
    console.print(f"drawing {demo_specs.DRAWING['train'] + demo_specs.DRAWING['val']} pictures in {folder}")
    code = "import sys; from pathlib import Path; from gkd_core.data.shapes import draw_shapes; "
    code += f"draw_shapes(Path(sys.argv[1]), **{demo_specs.DRAWING!r})"
    done = subprocess.run(
        python("-c", code, str(folder)), env=on_safe_path(os.environ), capture_output=True, text=True
    )
    if done.returncode:
        raise DemoFailed(f"the pictures could not be drawn: {_end(done.stderr)}")
    return folder


@contextmanager
def _server(home: Path, data: Path, console: Console) -> Iterator[Client]:
    """`gkd serve` for the time of the demo, and a client of it."""
    port, log = _free_port(), home / "serve.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            python("-m", "client.cli", "serve"),
            env=_environment(home, data, port),
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


def _environment(home: Path, data: Path, port: int) -> dict[str, str]:
    """What the server sees: none of the settings of this shell, but for the engine, which a test may replace."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GKD_")}
    engine = {name: os.environ[name] for name in ("GKD_ENGINE",) if name in os.environ}
    ours = {"GKD_HOME": str(home), "GKD_DATA_ROOTS": str(data), "GKD_PORT": str(port)}
    return on_safe_path({**kept, **engine, **ours})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_ready(client: Client, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not client.ready():
        if server.poll() is not None or time.monotonic() > deadline:
            raise DemoFailed(f"`gkd serve` did not start; its log {log} ends with:\n{_end(log.read_text())}")
        time.sleep(0.2)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _see_through(client: Client, job: Job, console: Console) -> None:
    """Follow a job to its end, which has to be a good one."""
    console.print(Text(f"\n{job.name}", style="bold"))
    follow(client.events(job.id), console)
    ended = client.job(job.id)
    if ended.state is State.SUCCEEDED:
        return
    log, _ = client.log(job.id, offset=-8_192)
    why = ended.failure.message if ended.failure else ended.reason
    hint = ended.failure.hint if ended.failure else ""
    raise DemoFailed(f"{job.name} is {ended.state}: {why}\nits log ends with:\n{_end(log)}", hint)


def _conclude(client: Client, student: Job, home: Path, console: Console) -> None:
    report = client.report(student.id)
    console.print()
    console.print(show.report(report))
    name = report.models["student"].file if "student" in report.models else None
    if name is None:
        raise DemoFailed("the report names no file of the student")
    target = home / "student.safetensors"
    digest = client.download(student.id, name, target)
    console.print(Text(f"the student: {target}\nSHA-256:     {digest}"), soft_wrap=True)


def _end(text: str) -> str:
    return "\n".join(text.splitlines()[-LOG_LINES:])


if __name__ == "__main__":
    sys.exit(main())
