"""The run directory: the interface between the engine process and the process that started it. No torch here.

    config.json    in    what to do, a `RunConfig`
    control.json   in    which attempt owns the directory, and what it should do: run, or stop
    lock           both  held by the engine process while it runs, so that two never write at once
    events.jsonl   out   one event per line, appended
    log.txt        out   text, appended
    failure.json   out   why the run failed, a `Failure`; absent otherwise
    fetched/       in    files of other jobs that the config names, if they are not on this machine
    checkpoints/   own   what resuming needs; for the engine alone
    decoded.json   own   records that the pictures were decoded once, and which of them are broken
    *.safetensors  out   published models
    report.json    out   the report
    *.png          out   figures: curves, galleries, pictures with boxes
    model.onnx     out   an exported network
    *-prototypes.json  out   the prototypes in use, by level, and the outliers: class, picture and box

Exit codes of the engine process: 0 the run is complete, 1 it failed (`failure.json`), 75 it was asked to
stop and did, after a checkpoint where there was something to save.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from gkd_core.config import AnyRun, run_config
from gkd_core.errors import Failure
from gkd_core.events import Event

COMPLETE, FAILED, STOPPED = 0, 1, 75

PARENT = "GKD_PARENT"
"""Environment variable of the engine process: the id of the process with which it must end; unset: none."""

LAUNCHED = "TORCHELASTIC_RUN_ID"
"""Environment variable of an engine process that is one of several, started by torchrun or `process/launch.py`."""


class Control(BaseModel):
    """What the owner of a run directory asks of the engine. An engine of an earlier attempt must stop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: int
    wanted: Literal["run", "stop"] = "run"


def write_atomically(path: Path, data: bytes) -> None:
    """Write so that a crash leaves the old file or the new one: temporary name, sync, rename, sync the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    publish_file(temporary, path)


def publish_file(temporary: Path, path: Path) -> None:
    """Rename a finished, synced file to its real name and sync the folder."""
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _link(source: Path, target: Path) -> None:
    """Hard-link a file; copy it where the file system allows no links.

    Files of a run are never changed in place, only replaced.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, temporary)
    publish_file(temporary, target)


class RunDir:
    """Paths and small files of one run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.control = self.path / "control.json"
        self.lock = self.path / "lock"
        self.events = self.path / "events.jsonl"
        self.log = self.path / "log.txt"
        self.failure = self.path / "failure.json"
        self.checkpoints = self.path / "checkpoints"
        self.fetched = self.path / "fetched"

    def prepare(self, config: AnyRun, attempt: int) -> None:
        """Prepare the directory for an attempt: the files of an earlier one stay, except its failure."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config, config.model_dump_json(indent=2, by_alias=True).encode())
        self.failure.unlink(missing_ok=True)
        self.ask(Control(attempt=attempt))

    def ask(self, control: Control) -> None:
        """Write what the engine should do from now on."""
        write_atomically(self.control, control.model_dump_json().encode())

    def wanted(self, attempt: int) -> bool:
        """Return whether the engine of this attempt should go on.

        What the owner of an earlier attempt wrote after it lost the job is ignored.
        """
        control = Control.model_validate_json(self.control.read_bytes())
        return control.attempt < attempt or (control.attempt == attempt and control.wanted == "run")

    def take_states(self, other: RunDir) -> int:
        """Continue from another run of the same config: copy its states, its events, and the files they name.

        Nothing is copied if this run has states of its own, or that one has none. States are copied last, so that a
        crash in between leaves none, and the next call copies everything again.

        Returns:
            Bytes at the start of the events file that come from the other run.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        states = sorted(other.checkpoints.glob("[!.]*"))
        told = other.whole_events()
        if states and not any(self.checkpoints.iterdir()):
            for file in (*other.path.glob("*.safetensors"), *other.path.glob("*-prototypes.json")):
                _link(file, self.path / file.name)
            write_atomically(self.events, told)
            for state in states:
                _link(state, self.checkpoints / state.name)
        return len(told) if states and self.whole_events().startswith(told) else 0

    def append_event(self, event: Event) -> None:
        """Append an event before the engine does, on a line of its own."""
        torn = self.size_of_events() > len(self.whole_events())
        stamped = event.model_copy(update={"time": time.time()})
        with self.events.open("ab") as file:
            file.write(b"\n" * torn + stamped.model_dump_json().encode() + b"\n")

    def whole_events(self) -> bytes:
        """Return the events so far, without an incomplete last line."""
        content = self.events.read_bytes() if self.events.exists() else b""
        return content[: content.rfind(b"\n") + 1]

    def has_states(self) -> bool:
        """Return whether anything exists that `drop_states` would remove."""
        return any(any(folder.glob("*")) for folder in (self.checkpoints, self.fetched))

    def has_begun(self) -> bool:
        """Return whether there is a state to resume from."""
        return any(self.checkpoints.glob("[!.]*"))

    def drop_states(self) -> None:
        """Remove what resuming needs: this run will not be resumed. Idempotent, and safe from several processes."""
        for state in [*self.checkpoints.glob("*"), *self.fetched.glob("*")]:
            state.unlink(missing_ok=True)

    def read_config(self) -> AnyRun:
        """Read the config that this run was given."""
        return run_config.validate_json(self.config.read_bytes())

    def size_of_events(self) -> int:
        """Return the bytes of events that were written so far."""
        return self.events.stat().st_size if self.events.exists() else 0

    def write_failure(self, failure: Failure) -> None:
        """Write why the run failed."""
        write_atomically(self.failure, failure.model_dump_json().encode())

    def read_failure(self) -> Failure | None:
        """Return why the run failed; None when the engine wrote no failure (it was killed)."""
        try:
            return Failure.model_validate_json(self.failure.read_bytes())
        except FileNotFoundError:
            return None

    def read_report(self) -> dict[str, object] | None:
        """Return the report, once there is one."""
        try:
            report: dict[str, object] = json.loads((self.path / "report.json").read_bytes())
        except FileNotFoundError:
            return None
        return report
