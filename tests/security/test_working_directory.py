"""Files in the working directory, where data lies by default, are not run by any of our processes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from client import demo
from client.client import Client
from gkd_core.config import DataConfig, TrainRun
from gkd_core.process.interpreter import on_safe_path, python
from gkd_core.run_dir import COMPLETE, FAILED, RunDir
from jobs.artifacts import open_artifacts
from jobs.job import MOVES
from jobs.registry.check_runner import Checks
from jobs.registry.dataset_cache import DatasetCache
from jobs.resources import Layout, NewResource, ResourceKind
from jobs.settings import Settings
from jobs.store.store import Store
from worker.engine import Engine

ROOT = Path(__file__).parents[2]
GKD = str(Path(sys.executable).with_name("gkd"))
FAKE_ENGINE = f"{sys.executable} {ROOT / 'tests' / 'worker' / 'fake_engine.py'}"
PACKAGES = ("api", "client", "gkd_core", "jobs", "worker")
HOOKS = ("sitecustomize", "usercustomize", "celeryconfig")

Ran = Callable[[], list[str]]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw: Callable[..., Path]) -> Ran:
    """Return a function that names the modules of the working directory that were run.

    The directory has one of every name that could be imported.
    """
    folder, mark = tmp_path / "here", tmp_path / "ran"
    draw(folder / "discs")
    code = f"import sys; open({str(mark)!r}, 'a').write(__name__ + '\\n'); raise ImportError('planted')"
    for name in {*sys.stdlib_module_names, *packages_distributions(), *PACKAGES, *HOOKS}:
        if name in ("PIL", "jobs", "torch", "gkd_core"):
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(code)
        elif name.isidentifier():
            (folder / f"{name}.py").write_text(code)
    monkeypatch.chdir(folder)
    return lambda: mark.read_text().split() if mark.exists() else []


@pytest.fixture
def empty_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a search path as `$PYTHONPATH:/opt/more` makes it where the variable was not set."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep + str(ROOT))


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_the_plants_do_run_when_the_path_is_not_safe(ran: Ran) -> None:
    subprocess.run([sys.executable, "-c", "import PIL"], stderr=subprocess.DEVNULL)
    assert "PIL" in ran()


@pytest.mark.usefixtures("empty_entry")
def test_a_check_of_what_was_registered_runs_nothing(ran: Ran, sqlite_url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", database_url=sqlite_url, free_bytes=0)
    with closing(Store(sqlite_url)) as store:
        dataset_cache = DatasetCache.of(settings, open_artifacts(settings.artifacts_url))
        new = NewResource(ResourceKind.DATASET, "mine", str(Path.cwd() / "discs"), Layout())
        resource = store.resources.add_resource(new, tenant="lab")[0]
        assert Checks(store, dataset_cache, settings).check_next()
        assert (ran(), store.resources.get_resource(resource.kind, resource.id).state) == ([], "ready")


@pytest.mark.usefixtures("empty_entry")
@pytest.mark.parametrize("named", [None, f"nice -n 1 {sys.executable} -m gkd_core.train"])
def test_an_engine_runs_nothing(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    if named:
        monkeypatch.setenv("GKD_ENGINE", named)
    run_dir = RunDir(tmp_path / "run")
    run_dir.prepare(TrainRun(data=DataConfig(path="/nowhere"), device="cpu"), attempt=1)
    with Engine.start(run_dir, 1, device="cpu") as engine:
        code = _end_of(engine)
    failure = run_dir.read_failure()
    assert (ran(), code) == ([], FAILED), run_dir.log.read_text()
    assert failure is not None
    assert failure.failure_class == "data"


def test_an_engine_of_two_processes_that_trains_to_its_end_runs_nothing(ran: Ran, tmp_path: Path) -> None:
    """Run all late imports: of reading, training, scoring, drawing."""
    model = {"backbone": "resnet18", "norm": "group"}
    train = {"epochs": 1, "batch_size": 2, "image_size": 64, "workers": 0}
    config = TrainRun.model_validate(
        {"data": {"path": "discs"}, "model": model, "train": train, "device": "cpu", "processes": 2}
    )
    run_dir = RunDir(tmp_path / "run")
    run_dir.prepare(config, attempt=1)
    with Engine.start(run_dir, 1, device="cpu") as engine:
        code = _end_of(engine)
    assert (ran(), code) == ([], COMPLETE), run_dir.log.read_text()


def _end_of(engine: Engine, seconds: float = 200) -> int:
    deadline = time.monotonic() + seconds
    while (code := engine.poll()) is None:
        assert time.monotonic() < deadline, "the engine should have ended by now"
        time.sleep(0.1)
    return code


@pytest.mark.parametrize(
    "command", [("conformance", "discs"), ("predict", "none", "discs", "--out", "drawn")]
)
def test_commands_that_start_python_run_nothing(ran: Ran, command: tuple[str, ...]) -> None:
    ended = subprocess.run([GKD, *command], capture_output=True, text=True, timeout=200)
    assert (ran(), "Traceback" in ended.stderr) == ([], False), ended.stderr


def test_the_demo_draws_and_serves_without_running_anything(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    monkeypatch.setitem(demo.demo_specs.DRAWING, "train", 2)
    monkeypatch.setitem(demo.demo_specs.DRAWING, "val", 1)
    home = tmp_path / "home"
    home.mkdir()
    demo._draw(home / "shapes", console)
    with demo._server(home, home / "shapes", console):
        pass
    assert ran() == []


def test_a_service_that_carries_out_a_job_runs_nothing(ran: Ran, tmp_path: Path) -> None:
    with _started(tmp_path, "serve") as client:
        assert _end_of_a_job(client) == "succeeded"
        assert ran() == []
    assert ran() == []


def test_api_and_worker_on_a_real_queue_run_nothing(
    ran: Ran, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GKD_BROKER_URL", redis_url)
    with _started(tmp_path, "api") as client, _process(tmp_path, "worker"):
        assert _end_of_a_job(client) == "succeeded"
        assert ran() == []
    assert ran() == []


def _end_of_a_job(client: Client) -> str:
    job = client.submit({"kind": "train", "data": "discs", "train": {"epochs": 1}})
    deadline = time.monotonic() + 100
    while MOVES[(job := client.job(job.id)).state] and time.monotonic() < deadline:
        time.sleep(0.2)
    return str(job.state)


@contextmanager
def _started(tmp_path: Path, command: str) -> Iterator[Client]:
    port = demo._free_port()
    with (
        _process(tmp_path, command, "--port", str(port)) as process,
        Client(f"http://127.0.0.1:{port}") as client,
    ):
        demo._await_ready(client, process, tmp_path / f"{command}.log")
        yield client


@contextmanager
def _process(tmp_path: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    own = {"GKD_HOME": str(tmp_path / "home"), "GKD_ENGINE": FAKE_ENGINE, "GKD_GPUS": "0"}
    with (tmp_path / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen([GKD, *command], env=os.environ | own, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


# ---- so that it stays so ---------------------------------------------------------------------------------

STARTING = {
    "client/cli_engine.py": "commands that start python",
    "client/demo.py": "the demo draws and serves",
    "gkd_core/process/launch.py": "an engine of two processes",
    "jobs/uploads/limited_process.py": "a check of what was registered",
    "worker/engine.py": "an engine runs nothing",
}
"""The functions that start processes, and the test above of each."""


def _sources() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            yield file.relative_to(ROOT).as_posix(), file.read_text()


def test_every_file_that_starts_processes_is_known_here() -> None:
    starts = re.compile(
        r"subprocess\.(run|Popen|call|check)|start_processes\(|\bos\.(exec|spawn|posix_spawn|system|popen|fork)"
        r"|\bmultiprocessing\.(Process|Pool|get_context)|ProcessPoolExecutor"
    )
    assert {name for name, text in _sources() if starts.search(text)} == set(STARTING)


def test_python_is_started_in_one_way() -> None:
    assert [name for name, text in _sources() if "sys.executable" in text] == [
        "gkd_core/process/interpreter.py"
    ]


def test_a_path_that_names_the_working_directory_by_accident_is_cleaned() -> None:
    given = {"PYTHONPATH": ":/a::/b:", "PATH": "/bin:", "HOME": "", "LD_LIBRARY_PATH": ":"}
    safe = {"PYTHONPATH": "/a:/b", "PATH": "/bin", "HOME": "", "LD_LIBRARY_PATH": "", "PYTHONSAFEPATH": "1"}
    assert on_safe_path(given) == safe


def test_what_a_safe_python_starts_is_safe_too(ran: Ran) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import PIL'], check=True)"
    subprocess.run(python("-c", code), env=on_safe_path(dict(os.environ)), check=True)
    assert ran() == []


def test_the_report_of_planted_names_is_wide(ran: Ran) -> None:
    planted: set[str] = {path.stem for path in Path().iterdir()}
    wanted: Any = {"PIL", "jobs", "numpy", "torch", "sitecustomize", "celery", "json"}
    assert wanted <= planted, json.dumps(sorted(wanted - planted))
