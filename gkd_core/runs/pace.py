"""Measures how fast this machine trains: a few steps of some runs, with several numbers of threads. For `make demo`.

`python -m gkd_core.runs.pace --threads 1 2 < RUNS`. RUNS is a JSON list of run configs of kind `train`; the first is
tried with every number of threads, the others with the one that was best for it. Prints one `Pace` as JSON, writes no
file.
"""

from __future__ import annotations

import time

BEGAN = time.monotonic()  # before torch: the time of its import is part of a run's time

import argparse  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from itertools import count, takewhile  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

from gkd_core.config import TrainRun, run_config  # noqa: E402
from gkd_core.data.loading import Sample, TrainLoader, eval_batches, steps_per_epoch  # noqa: E402
from gkd_core.data.reading import load  # noqa: E402
from gkd_core.data.records import DataSet  # noqa: E402
from gkd_core.detectors.build import detect  # noqa: E402
from gkd_core.training.trainer import Training  # noqa: E402

TIMED = 2
"""Steps that are timed at least, after one that is not: the first creates buffers that later ones reuse."""
SECONDS = 2.0
"""How long steps are timed in one setting, unless `TIMED` of them take longer."""
ALL_SECONDS = 12.0
"""Seconds after which no other number of threads is tried, and one timed step must do."""


def measure(runs: Sequence[TrainRun], threads: Sequence[int]) -> dict[str, Any]:
    """Time training steps and predictions.

    Returns:
        `threads`, the number that was best; `start`, seconds until a process can train; `pictures` of both splits;
        and for each of `runs` seconds a `step`, seconds a `picture` (prediction without training), and `steps` an
        epoch.
    """
    start = time.monotonic() - BEGAN
    data = load(runs[0].data)
    best, number = min(
        (_time_step(runs[0], data, number), number) for number in _while_there_is_time(threads)
    )
    torch.set_num_threads(number)
    steps = [best, *(_time_step(run, data, number) for run in runs[1:])]
    return {
        "threads": number,
        "start": start,
        "pictures": [len(data.train.images), len(data.val.images)],
        "runs": [
            {"step": step, "picture": _time_prediction(run, data), "steps": _steps(run, data)}
            for run, step in zip(runs, steps, strict=True)
        ],
    }


def _while_there_is_time(threads: Sequence[int]) -> Iterator[int]:
    """Yield numbers of threads until half of the time is over; the first in any case."""
    yield threads[0]
    yield from takewhile(lambda _: time.monotonic() - BEGAN < ALL_SECONDS / 2, threads[1:])


def _steps(run: TrainRun, data: DataSet) -> int:
    return steps_per_epoch(len(data.train.images), run.train)


def _time_step(run: TrainRun, data: DataSet, threads: int) -> float:
    """Return the seconds of a step with `threads` threads, loading included."""
    torch.set_num_threads(threads)
    training = _training(run, data)
    batches = _batches(run, data)
    training.train_step(next(batches))
    seconds: list[float] = []
    while not seconds or (
        time.monotonic() - BEGAN < ALL_SECONDS and (len(seconds) < TIMED or sum(seconds) < SECONDS)
    ):
        began = time.monotonic()
        training.train_step(next(batches))
        seconds.append(time.monotonic() - began)
    return median(seconds)


def _training(run: TrainRun, data: DataSet) -> Training:
    return Training("model", run.train, run.model, data.classes, _steps(run, data), torch.device("cpu"))


def _batches(run: TrainRun, data: DataSet) -> Iterator[list[Sample]]:
    loader = TrainLoader(data.train.images, run.train)
    for epoch in count():
        yield from loader.epoch(epoch)


def _time_prediction(run: TrainRun, data: DataSet) -> float:
    """Return the seconds of a prediction on one image."""
    detector = _training(run, data).detector.eval()
    batch = next(eval_batches(data.val.images, run.train.image_size, run.train.batch_size))
    began = time.monotonic()
    detect(detector, [sample.image.float() / 255 for sample in batch])
    return (time.monotonic() - began) / len(batch)


def main() -> None:
    """Read runs, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m gkd_core.runs.pace", description=__doc__)
    parser.add_argument("--threads", nargs="+", type=int, required=True, help="numbers of threads to try")
    options = parser.parse_args()
    runs = [run_config.validate_python(each) for each in json.load(sys.stdin)]
    print(json.dumps(measure([run for run in runs if isinstance(run, TrainRun)], options.threads)))


if __name__ == "__main__":
    main()
