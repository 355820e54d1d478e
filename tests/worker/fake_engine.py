"""An engine that trains nothing: the real process around it, real files and events, and faults on demand.

`FAKE_ENGINE` holds JSON: `epochs`, `seconds` (per epoch), and the faults, each by the epoch in which it strikes:
`die` (SIGKILL to itself), `fail` (a bug), `fail_for_room` (ENOSPC), `oom` (while accumulate is below `oom_until`, by
default 2), `tear` (half a line, then SIGKILL), `garble` (a line that is no event; `garble_report`: instead of the
report); `only_attempt` limits them to one attempt. `deaf` ignores every
request to stop, SIGTERM included; `child` leaves a process behind. Resuming works as in the real one: epochs done
stand in checkpoints/. With `as_asked` there are as many epochs as the spec of a training says.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gkd_core.config import AnyRun, DistillRun, TrainRun
from gkd_core.errors import StoppedError
from gkd_core.events import Checkpoint, Event, FileWritten, Latency, ModelReport, Progress, Report
from gkd_core.process.engine import serve_run
from gkd_core.run_dir import RunDir, write_atomically

PLAN = {"epochs": 3, "seconds": 0.1, **json.loads(os.environ.get("FAKE_ENGINE", "{}"))}


def strike(epoch: int, attempt: int, config: AnyRun, run_dir: Path) -> None:
    """Cause the faults of this epoch."""
    if PLAN.get("only_attempt", attempt) != attempt:
        return
    if PLAN.get("oom") == epoch and config.train.accumulate < PLAN.get("oom_until", 2):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if PLAN.get("fail_for_room") == epoch:
        raise OSError(errno.ENOSPC, "No space left on device")
    if PLAN.get("fail") == epoch:
        raise ZeroDivisionError(f"a bug of epoch {epoch}")
    if PLAN.get("garble") == epoch:
        write_garbage(run_dir)
    if PLAN.get("tear") == epoch:
        with (run_dir / "events.jsonl").open("ab") as file:
            file.write(b'{"kind":"progress","run":"mo')
    if epoch in (PLAN.get("tear"), PLAN.get("die")):
        os.kill(os.getpid(), signal.SIGKILL)


def write_garbage(run_dir: Path) -> None:
    with (run_dir / "events.jsonl").open("ab") as file:
        file.write(b'{"kind":"progress","run":"mo\n')


def train_by_attempt(attempt: int) -> Callable[..., Iterator[Event]]:
    """Return the `run` for `serve_run`."""

    def train(config: AnyRun, run_dir: Path, should_stop: Callable[[], bool]) -> Iterator[Event]:
        trains = isinstance(config, TrainRun | DistillRun)
        epochs = config.train.epochs if trains and PLAN.get("as_asked") else PLAN["epochs"]
        state = run_dir / "checkpoints" / "state.json"
        done = json.loads(state.read_text()) if state.exists() else 0
        print(f"attempt {attempt} starts at epoch {done}", flush=True)
        for epoch in range(done, epochs):
            strike(epoch, attempt, config, run_dir)
            until = time.monotonic() + PLAN["seconds"]
            while time.monotonic() < until:
                time.sleep(0.01)
                if should_stop() and not PLAN.get("deaf"):
                    raise StoppedError("asked to stop")
            write_atomically(state, str(epoch + 1).encode())
            yield progress(epoch + 1, epochs)
            if isinstance(config, TrainRun | DistillRun):
                yield checkpoint(run_dir, epoch + 1)
        if config.kind == "export":
            yield exported(run_dir)
        if PLAN.get("garble_report") and PLAN.get("only_attempt", attempt) == attempt:
            write_garbage(run_dir)
        else:
            yield report(run_dir, config)

    return train


def progress(epoch: int, epochs: int) -> Progress:
    return Progress(
        run="model", epoch=epoch, epochs=epochs, step=epoch, steps=epochs, fraction=epoch / epochs, saved=True
    )


def checkpoint(run_dir: Path, epoch: int) -> Checkpoint:
    weights = b"weights of epoch %d" % epoch
    write_atomically(run_dir / "model.safetensors", weights)
    digest = hashlib.sha256(weights).hexdigest()
    return Checkpoint(
        run="model",
        epoch=epoch,
        step=epoch,
        file="model.safetensors",
        size=len(weights),
        sha256=digest,
        metrics={"AP": epoch / 100},
        best=True,
    )


def exported(run_dir: Path) -> FileWritten:
    content = b"a network"
    write_atomically(run_dir / "model.onnx", content)
    digest = hashlib.sha256(content).hexdigest()
    return FileWritten(run="model", file="model.onnx", title="a network", size=len(content), sha256=digest)


def report(run_dir: Path, config: AnyRun) -> Report:
    event = Report(models=models(run_dir, config))
    write_atomically(run_dir / "report.json", event.model_dump_json().encode())
    return event


def models(run_dir: Path, config: AnyRun) -> dict[str, ModelReport]:
    model = ModelReport(
        architecture="fcos",
        backbone="resnet18",
        parameters=1,
        gflops=1.0,
        latency_ms=Latency(median=1.0, low=1.0, high=1.0, device="none"),
        metrics={"AP": 0.1},
        per_class={},
    )
    roles = {
        "train": ("model",),
        "distill": ("teacher", "control", "student"),
        "evaluate": ("model",),
        "prototypes": (),
        "export": ("model", "onnx"),
    }[config.kind]
    if isinstance(config, TrainRun | DistillRun):
        weights = (run_dir / "model.safetensors").read_bytes()
        digest = hashlib.sha256(weights).hexdigest()
        file = {"file": "model.safetensors", "sha256": digest, "size": len(weights)}
        model = model.model_copy(update=file)
    return dict.fromkeys(roles, model)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir")
    parser.add_argument("--attempt", type=int, required=True)
    arguments = parser.parse_args()
    if PLAN.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if PLAN.get("child"):
        subprocess.Popen(["sleep", "600"])
    run_dir = RunDir(arguments.run_dir)
    sys.exit(serve_run(run_dir, arguments.attempt, train_by_attempt(arguments.attempt)))
