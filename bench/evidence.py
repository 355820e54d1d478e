"""What distillation gains: a matrix of trainings with their controls, run through the service, and its table.

    python bench/evidence.py MATRIX.toml --data FOLDER --folder WORK [--lanes 2] [--minutes 120]
    python bench/evidence.py MATRIX.toml --folder WORK --write docs/evidence.md

Every cell of the matrix (pair, method, seed) is a job of its own; the control of a pair and seed is the same student
trained plainly, once for all methods. Each lane is a `gkd serve` with one thread; a cell that has ended is a file in
WORK/cells, named by the hash of what was asked for, so that a run that was killed goes on where it was: ended cells are
read, the others go on from their checkpoints. After `--minutes`, or when it is asked to end, the services are stopped,
which saves their jobs.

The table takes the final epoch, not the best. `--write` replaces what stands between the markers of the matrix.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from statistics import mean, stdev
from typing import Any

from client.client import Client, ClientError

STUDENT_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""The 97.5 % quantile of Student's t by degrees of freedom; for the interval of a mean over seeds."""
ROLES = {"train": "model", "distill": "student"}
CONTROL = "control"
LOOK_SECONDS = 3
"""Between two looks at a job."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One training of the matrix."""

    pair: str
    method: str
    seed: int
    spec: Mapping[str, Any]
    """Of the job; a teacher is named by the key of its cell."""

    @property
    def key(self) -> str:
        """Return the hash of what is asked for."""
        return hashlib.sha256(json.dumps(self.spec, sort_keys=True).encode()).hexdigest()[:16]


# ---- the matrix ------------------------------------------------------------------------------------------


def teachers_of(matrix: Mapping[str, Any]) -> dict[str, Cell]:
    """Return the training of every teacher, by its name."""
    return {
        name: Cell(
            name,
            "teacher",
            teacher.get("seed", 0),
            _training(matrix, teacher, "model", teacher.get("seed", 0)),
        )
        for name, teacher in matrix["teachers"].items()
    }


def cells_of(matrix: Mapping[str, Any], teachers: Mapping[str, Cell]) -> list[Cell]:
    """Return controls and distillations in the order in which they run: all methods of a seed before the next seed."""
    found = []
    for run in matrix["runs"]:
        pair = matrix["pairs"][run["pair"]]
        for seed in run["seeds"]:
            plain = _training(matrix, pair | {"model": pair["student"]}, "model", seed)
            found.append(Cell(run["pair"], CONTROL, seed, plain))
            found += [
                Cell(run["pair"], method, seed, _distillation(matrix, pair, method, seed, teachers))
                for method in run["methods"]
            ]
    return found


def _training(matrix: Mapping[str, Any], part: Mapping[str, Any], role: str, seed: int) -> dict[str, Any]:
    return {
        "kind": "train",
        "data": matrix["data"][part["data"]],
        role: part["model"],
        "train": {**matrix.get("train", {}), **part.get("train", {}), "seed": seed},
    }


def _distillation(
    matrix: Mapping[str, Any], pair: Mapping[str, Any], method: str, seed: int, teachers: Mapping[str, Cell]
) -> dict[str, Any]:
    plain = _training(matrix, pair | {"model": pair["student"]}, "student", seed)
    distill = {**matrix["methods"][method], "control": False}
    return {
        **plain,
        "kind": "distill",
        "teacher": {"weights": teachers[pair["teacher"]].key},
        "distill": distill,
    }


class Deadline:
    """When to stop: after some minutes, or at once when the process is asked to end."""

    def __init__(self, minutes: float) -> None:
        """Begin to count."""
        self._end = time.monotonic() + minutes * 60
        signal.signal(signal.SIGTERM, lambda *_: self.come())
        signal.signal(signal.SIGINT, lambda *_: self.come())

    def come(self) -> None:
        """Let it be over."""
        self._end = 0.0

    @property
    def over(self) -> bool:
        """Return whether no more time is left."""
        return time.monotonic() > self._end


# ---- running ---------------------------------------------------------------------------------------------


@contextmanager
def lane(folder: Path, roots: Sequence[Path]) -> Iterator[Client]:
    """Run a service of its own in a folder and yield a client; when the block ends, its jobs are saved."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    own = {
        "GKD_HOME": str(folder),
        "GKD_DATA_ROOTS": os.pathsep.join(map(str, roots)),
        "OMP_NUM_THREADS": "1",
    }
    with (folder / "service.log").open("ab") as log:
        command = [sys.executable, "-m", "client.cli", "serve", "--port", str(port)]
        process = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log)
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            _wait_until_ready(client)
            yield client
    finally:
        process.terminate()
        process.wait(120)


def _wait_until_ready(client: Client) -> None:
    for _ in range(240):
        try:
            if client.ready():
                return
        except ClientError:
            pass
        time.sleep(0.25)
    raise RuntimeError("the service does not get ready; service.log says why")


def carry_out(cell: Cell, client: Client, work: Path, deadline: Deadline) -> dict[str, Any] | None:
    """Run one cell to its end and keep what it found; None if the time was over before.

    Raises:
        RuntimeError: the job failed.
    """
    path = work / "cells" / f"{cell.key}.json"
    if path.exists():
        return dict(json.loads(path.read_bytes()))
    job = client.submit(_with_paths(cell.spec, work), idempotency_key=f"evidence-{cell.key}")
    while (job := client.job(job.id)).finished_at is None:
        if deadline.over:
            return None
        time.sleep(LOOK_SECONDS)
    if job.state != "succeeded":
        raise RuntimeError(f"{cell.pair} {cell.method} seed {cell.seed}: {job.state}: {job.reason}")
    found = _found(cell, client, job.id)
    role = ROLES[cell.spec["kind"]]
    client.download(job.id, f"{role}.safetensors", work / "models" / f"{cell.key}.safetensors")
    path.write_text(json.dumps(found, indent=1) + "\n")
    return found


def _with_paths(spec: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """Return a spec whose teacher is the file that its cell left."""
    if "teacher" not in spec:
        return dict(spec)
    return {
        **spec,
        "teacher": {"weights": str(work / "models" / f"{spec['teacher']['weights']}.safetensors")},
    }


def _found(cell: Cell, client: Client, job_id: str) -> dict[str, Any]:
    """Return what is kept of a job: its curve, its report's numbers, and how long it ran."""
    role = ROLES[cell.spec["kind"]]
    events = [event for event in client.events(job_id, follow=False) if event.kind == "evaluation"]
    curve = [
        {"epoch": event.body["epoch"], **{name: event.body["metrics"][name] for name in ("AP", "AP50")}}
        for event in events
        if event.body["run"] == role
    ]
    job, report = client.job(job_id), client.report(job_id)
    seconds = (
        (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else 0.0
    )
    return {
        "pair": cell.pair,
        "method": cell.method,
        "seed": cell.seed,
        "curve": curve,
        "minutes": round(seconds / 60, 2),
        "report": report.models[role].model_dump(mode="json"),
        "spec": cell.spec,
    }


def run(matrix: Mapping[str, Any], data: Path, work: Path, lanes: int, minutes: float) -> bool:
    """Run what is missing of a matrix; return whether all of it has ended."""
    deadline = Deadline(minutes)
    for name in ("cells", "models"):
        (work / name).mkdir(parents=True, exist_ok=True)
    teachers = teachers_of(matrix)
    stages: list[Sequence[Cell]] = [list(teachers.values()), cells_of(matrix, teachers)]
    return all(_stage(stage, data, work, lanes, deadline) for stage in stages)


def _stage(cells: Sequence[Cell], data: Path, work: Path, lanes: int, deadline: Deadline) -> bool:
    """Run cells in several lanes; return whether all have ended. A cell always returns to the lane that began it."""
    missing = [cell for cell in cells if not (work / "cells" / f"{cell.key}.json").exists()]
    queues: list[Queue[Cell]] = [Queue() for _ in range(lanes)]
    for number, cell in enumerate(missing):
        queues[_lane_of(cell, number, work, lanes)].put(cell)
    with ThreadPoolExecutor(lanes) as pool:
        jobs = [
            pool.submit(_drain, queue, number, data, work, deadline) for number, queue in enumerate(queues)
        ]
        return all(job.result() for job in jobs)


def _lane_of(cell: Cell, number: int, work: Path, lanes: int) -> int:
    """Return the lane in which a cell was begun; a new one's follows from its number."""
    path = work / "cells" / f"{cell.key}.lane"
    if not path.exists():
        path.write_text(str(number % lanes))
    return int(path.read_text()) % lanes


def _drain(queue: Queue[Cell], number: int, data: Path, work: Path, deadline: Deadline) -> bool:
    if queue.empty():
        return True
    with lane(work / f"lane-{number}", [data, work / "models"]) as client:
        while not deadline.over:
            try:
                cell = queue.get_nowait()
            except Empty:
                return True
            found = carry_out(cell, client, work, deadline)
            print(_line(cell, found), file=sys.stderr, flush=True)
            if found is None:
                return False
    return queue.empty()


def _line(cell: Cell, found: Mapping[str, Any] | None) -> str:
    said = "saved, goes on next time" if found is None else f"AP {found['curve'][-1]['AP']:.3f}"
    return f"{cell.pair} {cell.method} seed {cell.seed}: {said}"


# ---- the table -------------------------------------------------------------------------------------------


def table(matrix: Mapping[str, Any], work: Path) -> str:
    """Return the table of a matrix in Markdown: a row a method, with its gain over the control of the same seed."""
    cells = cells_of(matrix, teachers_of(matrix))
    found = {cell: json.loads(path.read_bytes()) for cell in cells if (path := _path(work, cell)).exists()}
    lines = [
        "| pair | method | seeds | AP | AP50 | gain in AP | 95 % interval | gain at half time | minutes |",
        f"|{'---|' * 9}",
    ]
    for pair, method in dict.fromkeys((cell.pair, cell.method) for cell in cells):
        lines.append(_row(pair, method, found))
    missing = sum(not _path(work, cell).exists() for cell in cells)
    return "\n".join(lines) + (f"\n\nUnfinished: {missing} of {len(cells)} trainings.\n" if missing else "\n")


def _path(work: Path, cell: Cell) -> Path:
    return work / "cells" / f"{cell.key}.json"


def _row(pair: str, method: str, found: Mapping[Cell, Mapping[str, Any]]) -> str:
    mine = {cell.seed: result for cell, result in found.items() if (cell.pair, cell.method) == (pair, method)}
    plain = {
        cell.seed: result for cell, result in found.items() if (cell.pair, cell.method) == (pair, CONTROL)
    }
    seeds = sorted(mine.keys() & plain.keys())
    if not seeds:
        return f"| {pair} | {method} | 0 | | | | | | |"
    last = [[mine[seed]["curve"][-1][name] for seed in seeds] for name in ("AP", "AP50")]
    gains = [mine[seed]["curve"][-1]["AP"] - plain[seed]["curve"][-1]["AP"] for seed in seeds]
    halves = [_half(mine[seed])["AP"] - _half(plain[seed])["AP"] for seed in seeds]
    spent = mean(mine[seed]["minutes"] for seed in seeds)
    gain = "" if method == CONTROL else f"{mean(gains):+.3f}"
    half = "" if method == CONTROL else f"{mean(halves):+.3f}"
    within = "" if method == CONTROL else interval(gains)
    values = [pair, method, len(seeds), *map(_spread, last), gain, within, half, f"{spent:.1f}"]
    return f"| {' | '.join(map(str, values))} |"


def _half(result: Mapping[str, Any]) -> Mapping[str, float]:
    """Return the evaluation that is nearest to half of the training."""
    curve: list[Mapping[str, float]] = result["curve"]
    return min(curve, key=lambda point: abs(point["epoch"] - curve[-1]["epoch"] / 2))


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def interval(gains: Sequence[float]) -> str:
    """Return the 95 % interval of a mean over seeds, by Student's t; empty for one seed, which has none."""
    if len(gains) < 2:
        return ""
    half = STUDENT_T[min(len(gains) - 1, 9)] * stdev(gains) / len(gains) ** 0.5
    return f"{mean(gains) - half:+.3f} to {mean(gains) + half:+.3f}"


def write(path: Path, name: str, text: str) -> None:
    """Put a table between the markers of its matrix, which must stand in the file.

    Raises:
        SystemExit: they do not.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    whole = path.read_text()
    if begin not in whole or end not in whole:
        sys.exit(f"{path} lacks the lines {begin} and {end}, between which the table belongs")
    before, rest = whole.split(begin, 1)
    path.write_text(f"{before}{begin}\n\n{text}\n{end}{rest.split(end, 1)[1]}")


def main() -> int:
    """Run a matrix or write its table; return 0 if all of it has ended."""
    options = _options()
    matrix = tomllib.loads(options.matrix.read_text())
    work = options.folder.absolute()
    if options.write is not None:
        write(options.write, options.matrix.stem, table(matrix, work))
        return 0
    if options.data is None:
        print("nothing to do: name the folder with the data sets of the matrix", file=sys.stderr)
        return 0
    done = run(matrix, options.data.absolute(), work, options.lanes, options.minutes)
    print(table(matrix, work))
    return 0 if done else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("matrix", type=Path)
    parser.add_argument("--data", type=Path, help="folder that the data sets of the matrix lie in")
    parser.add_argument("--folder", type=Path, required=True, help="where services and results are kept")
    parser.add_argument("--lanes", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so many minutes, saving all")
    parser.add_argument("--write", type=Path, help="write the table into this file and run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
