"""Kind `evaluate`: a model is scored on one split; nothing is trained, nothing is saved to resume from.

Read `evaluate` from top to bottom. A run that was interrupted starts again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gkd_core.compute.amp import gpu_arithmetic
from gkd_core.config import EvaluateRun, SplitName
from gkd_core.distill.teacher import labels_of
from gkd_core.errors import Problem, SpecError
from gkd_core.evaluation.coco import Score
from gkd_core.events import Event, Progress, Report, Warning
from gkd_core.runs.report import NAMES, Entry, headline, report_models, write_report
from gkd_core.runs.session import Session, find_device, open_part

RUN = "model"
"""The only role in such a run."""


def evaluate(config: EvaluateRun, run_dir: Path, should_stop: Callable[[], bool]) -> Iterator[Event]:
    """Score a model, and write the report.

    Raises:
        GkdError: its class says how the failure is handled.
    """
    with gpu_arithmetic(config.evaluate, find_device(config.device)):
        job = _Evaluation(config, run_dir, should_stop)
        yield from job.check_data()
        yield from job.compare_classes()
        found = yield from job.evaluate(job.detector, START, job.labels, config.evaluate.split)
        yield job.report(found)


START = Progress(run=RUN, activity="evaluate", epoch=0, epochs=0, step=0, steps=0, fraction=0)


class _Evaluation(Session):
    """An evaluation run."""

    passes_are_all = True
    decodes = ("val",)

    def __init__(self, config: EvaluateRun, run_dir: Path, should_stop: Callable[[], bool]) -> None:
        self.config = config
        self.detector, self.card = open_part(config.model, RUN, find_device(config.device))
        wanted = config.evaluate
        super().__init__(
            config,
            run_dir,
            should_stop,
            image_size=wanted.image_size or self.card.image_size,
            batch_size=wanted.batch_size,
            workers=wanted.workers,
            scores=wanted.split,
        )
        self.split: SplitName = wanted.split
        self.white = self.card.white

    def compare_classes(self) -> Iterator[Event]:
        """Match the model's classes with those of the data by name, and warn of those that it lacks."""
        self.labels = labels_of(self.card.classes, self.classes)
        self.missing = [name for name in self.classes if name not in self.card.classes]
        if len(self.missing) == len(self.classes):
            raise _no_known_class_error(self.card.classes, self.classes)
        if self.missing:
            hint = "Take a model that knows them, or leave them out with data.only."
            yield Warning(message=_missing_classes_text(self.missing), hint=hint)
        self.progress_meter.start(0.0)

    def report(self, found: Score) -> Report:
        """Write the report: the one model, and notes about its scores."""
        images = self.data.splits[self.split].images
        entries = {RUN: Entry(self.detector, self.card, found, None).assessed(self.classes)}
        models = report_models(entries, images, self.image_size, self.device)
        shown = headline(self.config.data, needs=(self.split,))
        report = Report(
            time=time.time(),
            models=models,
            headline=shown,
            notes=self._notes(),
            pictures={self.split: len(images)},
            split=self.split,
        )
        return write_report(report, self.folder)

    def _notes(self) -> tuple[str, ...]:
        pictures = len(self.data.splits[self.split].images)
        figures = (
            f"AP figures are on the {pictures} pictures of {NAMES[self.split]}, their longer side resized to "
            f"{self.image_size} pixels (in the model's training: {self.card.image_size}); latency is of single "
            "pictures of that size, on a machine that may have had other work."
        )
        return (figures, f"{_missing_classes_text(self.missing)}.") if self.missing else (figures,)


def _missing_classes_text(missing: Sequence[str]) -> str:
    return f"the model does not know {', '.join(missing)}, whose AP counts as 0"


def _no_known_class_error(known: Sequence[str], wanted: Sequence[str]) -> SpecError:
    message = f"the model knows none of the classes {', '.join(wanted)}; it knows {', '.join(known)}"
    hint = "Classes are matched by name; data.rename gives them other names."
    return SpecError([Problem(loc=(RUN, "weights"), message=message, hint=hint)])
