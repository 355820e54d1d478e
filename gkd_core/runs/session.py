"""What every kind of run shares: the data, the device, passes over images, scoring, and stop requests.

The kinds themselves are `train.py` (train and distil), `evaluate.py`, `prototypes.py` and `export.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from gkd_core.compute.world import World
from gkd_core.config import SPLITS, AnyRun, SplitName, TeacherConfig, Workers
from gkd_core.data.loading import CACHE_MB, PictureCache, eval_batches
from gkd_core.data.reading import load, needed
from gkd_core.data.records import DataSet
from gkd_core.detectors.detector import Detector
from gkd_core.detectors.model_card import ModelCard
from gkd_core.distill.teacher import open_model
from gkd_core.errors import DataError, Problem, SpecError, StoppedError
from gkd_core.evaluation.coco import Score, detect_batches, score
from gkd_core.evaluation.voc import Detections
from gkd_core.events import Evaluation, Event, Progress, Warning
from gkd_core.run_dir import write_atomically
from gkd_core.training.progress_meter import ProgressMeter

DECODED = "decoded.json"
"""File of the run directory: records that every image was decoded, and which of them cannot be."""


class Session:
    """A running job of any kind."""

    passes_are_all: ClassVar[bool] = False
    """Whether a pass over the images is the whole job; in training the progress does not move during a pass."""

    decodes: ClassVar[tuple[SplitName, ...]] = SPLITS
    """The splits whose images are used; the annotations of the others are read too, for the classes."""

    white: int | None = None
    """Value of white in images of 16 or 32 bits, if a model that was trained on such images records it."""

    def __init__(
        self,
        config: AnyRun,
        folder: Path,
        should_stop: Callable[[], bool],
        *,
        image_size: int,
        batch_size: int,
        workers: Workers,
        cache_mb: int = CACHE_MB,
        scores: SplitName | None = None,
        largest: int | None = None,
    ) -> None:
        """Choose the device; nothing is read yet.

        Args:
            config: what to do.
            folder: the run directory, where files are written.
            should_stop: called often; see `stop_if_asked`.
            image_size: longer side of the resized pictures, in pixels.
            batch_size: images at a time, where no gradient is needed.
            workers: threads that load pictures.
            cache_mb: memory for decoded pictures, in MiB.
            largest: the same for the model that sees the largest ones; None: all see the same.
            scores: the one split that the kind of run needs; None: those of a training.
        """
        self.folder = folder
        self.world = World.join(getattr(config, "processes", 1), find_device(config.device))
        self.should_stop: Callable[[], bool] = lambda: self.world.from_first(should_stop)
        self.image_size = image_size
        self.batch_size = batch_size
        self.workers: Workers = workers
        self.device = self.world.device
        self.progress_meter = ProgressMeter()
        self.cache = PictureCache(largest or image_size, cache_mb // self.world.size)
        self._data = config.data
        self._needs: tuple[SplitName, ...] = (scores,) if scores else needed(config.data)
        self._decodes = (scores,) if scores else self.decodes

    def check_data(self) -> Iterator[Event]:
        """Read the annotations and decode every image once, so that broken files are known before the work."""
        self.data = self.world.from_first(self._read_data)
        for problem in self.data.warnings:
            yield Warning(message=problem.message, hint=problem.hint)
        self.classes = self.data.classes
        for name in self._needs:
            if all(image.crowd.all() for image in self.data.splits[name].images):
                message = f"every box of the {name} split is a crowd region or difficult"
                hint = "There is nothing to learn or to find; use another split."
                raise DataError([Problem(loc=("data", name, "annotations"), message=message, hint=hint)])

    def _read_data(self) -> DataSet:
        """Read the data set without broken images; those that an earlier attempt found are not searched again."""
        path, wanted = self.folder / DECODED, self._data.model_dump(mode="json")
        if path.exists() and (found := json.loads(path.read_bytes()))["data"] == wanted:
            return load(
                self._data,
                needs=self._needs,
                broken={Path(name) for name in found["broken"]},
                white=self.white,
            )
        data = load(self._data, needs=self._needs, decode=self._decodes, white=self.white)
        broken = [str(name) for split in data.splits.values() for name in split.left_out]
        write_atomically(path, json.dumps({"data": wanted, "broken": broken}).encode())
        return data

    def evaluate(
        self,
        detector: Detector,
        base: Progress,
        labels: np.ndarray | None = None,
        split: SplitName = "val",
        image_size: int | None = None,
    ) -> Generator[Event, None, Score]:
        """Score a detector on a split and report it; `base` is the progress that is reported meanwhile."""
        began = time.monotonic()
        result = yield from self.measure(detector, base, labels, split, image_size)
        yield Evaluation(
            run=base.run,
            epoch=base.epoch,
            metrics=result.metrics,
            per_class=result.per_class,
            seconds=time.monotonic() - began,
        )
        return result

    def measure(
        self,
        detector: Detector,
        base: Progress,
        labels: np.ndarray | None = None,
        split: SplitName = "val",
        image_size: int | None = None,
    ) -> Generator[Event, None, Score]:
        """Score a detector on a split; `labels` as in `detect_batches`."""
        detections = yield from self.detect(detector, base, labels, split, image_size)
        return score(self.data.splits[split].images, self.classes, detections)

    def detect(
        self,
        detector: Detector,
        base: Progress,
        labels: np.ndarray | None = None,
        split: SplitName = "val",
        image_size: int | None = None,
    ) -> Generator[Event, None, Detections]:
        """Run a detector over a split; several processes share the work."""
        detections: Detections = {}
        of_split = self.data.splits[split].images
        share = self.world.deal(len(of_split), self.batch_size)
        images = [of_split[position] for position in share.positions]
        size = image_size or self.image_size
        batches = eval_batches(images, size, self.batch_size, self.workers, self.cache)
        for found in detect_batches(detector, batches, self.device, labels):
            detections.update(found)
            self.stop_if_asked()
            if self.progress_meter.progress_due():
                yield self.meanwhile(base, "evaluate", len(detections) / len(images))
        for _ in range(share.idle):
            self.stop_if_asked()
        found = dict(pair for part in self.world.gathered(detections) for pair in part.items())
        return {image.image_id: found[image.image_id] for image in of_split}

    def meanwhile(self, base: Progress, activity: str, share: float) -> Progress:
        """Return the progress to report during a pass over images of which a share, 0 to 1, is done."""
        news: dict[str, object] = {"activity": activity}
        if self.passes_are_all:
            news |= {"fraction": share, "seconds_left": self.progress_meter.snapshot(share)[2]}
        return base.model_copy(update=news)

    def stop_if_asked(self) -> None:
        """Raise if the run was asked to stop, in work that needs no saving.

        Raises:
            StoppedError: the run was asked to stop.
        """
        if self.should_stop():
            raise StoppedError("asked to stop")


def open_part(
    model: TeacherConfig, part: str, device: torch.device | str = "cpu"
) -> tuple[Detector, ModelCard]:
    """Load the trained model that a part of the config names, in evaluation mode.

    Args:
        model: which one.
        part: "model", "teacher" or "student"; errors name their fields under it.
        device: where it goes.

    Raises:
        SpecError: it cannot be read, or is not what the config declares.
    """
    with fields_under(part):
        return open_model(model, device)


@contextmanager
def fields_under(part: str) -> Iterator[None]:
    """Prefix the fields of errors about a detector with the part of the config that describes it.

    Args:
        part: "model", "teacher" or "student".

    Raises:
        SpecError: the block raised one; fields of other sections, such as `train`, keep their names.
    """
    try:
        yield
    except SpecError as error:
        raise SpecError([_under(part, problem) for problem in error.problems]) from None


def _under(part: str, problem: Problem) -> Problem:
    of_a_detector = len(problem.loc) == 1 or problem.loc[0] in ("model", "teacher", "student")
    return problem.model_copy(update={"loc": (part, problem.loc[-1])}) if of_a_detector else problem


def find_device(wanted: str) -> torch.device:
    """Return the device of a run.

    Raises:
        SpecError: a GPU is asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        message = "a GPU is asked for, but torch sees none on this machine"
        raise SpecError([Problem(loc=("device",), message=message, hint="Ask for resources.gpus 0.")])
    return torch.device("cuda" if torch.cuda.is_available() and wanted != "cpu" else "cpu")
