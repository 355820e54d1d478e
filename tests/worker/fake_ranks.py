"""A fake engine of two processes, started as the real one is; they synchronise through files, without torch.

`FAKE_RANKS` holds JSON: `epochs`, `seconds` (per epoch), and the rank that has a fault in the first epoch:
`fail` (an exception), `die` (SIGKILL to itself). Each process writes its id to `rank-<n>.pid` first.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gkd_core.config import AnyRun
from gkd_core.errors import StoppedError
from gkd_core.events import Event, Progress
from gkd_core.process.launch import serve
from gkd_core.run_dir import RunDir

PLAN = {"epochs": 3, "seconds": 0.1, **json.loads(os.environ.get("FAKE_RANKS", "{}"))}
RANK = int(os.environ.get("RANK", "0"))


def run(_config: AnyRun, run_dir: Path, should_stop: Callable[[], bool]) -> Iterator[Event]:
    (run_dir / f"rank-{RANK}.pid").write_text(str(os.getpid()))
    while not all((run_dir / f"rank-{rank}.pid").exists() for rank in (0, 1)):
        time.sleep(0.01)
    for epoch in range(PLAN["epochs"]):
        strike()
        time.sleep(PLAN["seconds"])
        if RANK == 0 and should_stop():
            (run_dir / "stopped").touch()
        if (run_dir / "stopped").exists():
            raise StoppedError("asked to stop")
        if (run_dir / "failure.json").exists():  # as a real one would
            raise RuntimeError("Connection closed by peer")
        yield Progress(run="model", epoch=epoch, epochs=PLAN["epochs"], step=0, steps=0, fraction=0)


def strike() -> None:
    if PLAN.get("fail") == RANK:
        raise ZeroDivisionError(f"a bug in process {RANK + 1}")
    if PLAN.get("die") == RANK:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(serve(RunDir(sys.argv[1]), int(sys.argv[3]), run, command=(__file__,)))
