"""Kind `prototypes`: PGM alone, which selects the prototypes of a teacher and a trained student.

Read `select_prototypes` from top to bottom. Nothing is saved to resume from; a run that was interrupted starts again.

`student-prototypes.json` records which object each prototype is, as in a distill job. The vectors themselves are in
`student-prototypes.safetensors`: for each level, named by its stride, `8.teacher` (P, C_t), `8.student` (P, C_s) and
`8.class_start` (classes + 1,), the prototypes of class c being rows class_start[c] up to class_start[c + 1].
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from gkd_core.compute.amp import gpu_arithmetic
from gkd_core.config import (
    DistillConfig,
    PrototypeChoice,
    PrototypesConfig,
    PrototypesRun,
    ResponseConfig,
)
from gkd_core.detectors.checkpoint import publish_tensors, sha256_of
from gkd_core.distill.distiller import Distiller
from gkd_core.distill.instances import choose_instances
from gkd_core.distill.teacher import Teacher
from gkd_core.events import Event, FileWritten, Progress, PrototypesSelected, Report
from gkd_core.runs.figures import draw, prototype_figures
from gkd_core.runs.prototype_renewal import renew_prototypes
from gkd_core.runs.report import write_report
from gkd_core.runs.session import Session, fields_under, find_device, open_part

RUN = "student"
"""Role that the prototypes belong to, as in a distill job."""
START = Progress(run=RUN, activity="prototypes", epoch=0, epochs=0, step=0, steps=0, fraction=0)


def select_prototypes(
    config: PrototypesRun, run_dir: Path, should_stop: Callable[[], bool]
) -> Iterator[Event]:
    """Select prototypes on the training split, write them, and report.

    Raises:
        GkdError: its class says how the failure is handled.
    """
    with gpu_arithmetic(config.prototypes, find_device(config.device)):
        job = _Selection(config, run_dir, should_stop)
        yield from job.check_data()
        selected = yield from job.choose()
        yield selected
        yield from job.files()
        drawn = yield from draw(job, prototype_figures(job, RUN), START.model_copy(update={"fraction": 1.0}))
        yield job.report(selected, drawn)


class _Selection(Session):
    """A prototypes run."""

    passes_are_all = True
    decodes = ("train",)

    def __init__(self, config: PrototypesRun, run_dir: Path, should_stop: Callable[[], bool]) -> None:
        self.config = config
        self.student, card = open_part(config.student, RUN, find_device(config.device))
        wanted = config.prototypes
        size = wanted.image_size or card.image_size
        super().__init__(
            config, run_dir, should_stop, image_size=size, batch_size=wanted.batch_size, workers="auto"
        )
        self.white = card.white

    def choose(self) -> Generator[Event, None, PrototypesSelected]:
        """Run PGM as in a distill job whose student is already trained."""
        with fields_under("teacher"):
            teacher = Teacher.load(self.config.teacher, self.classes, self.device)
        wanted = self.config.prototypes
        prototypes = PrototypesConfig(
            **{name: getattr(wanted, name) for name in PrototypeChoice.model_fields}
        )
        plan = DistillConfig(prototypes=prototypes, response=ResponseConfig(weight=0))
        self.distiller = Distiller(self.student, teacher.detector, plan, teacher.columns).to(self.device)
        images = self.data.train.images
        self.progress_meter.start(0.0)
        choice = choose_instances(images, len(self.classes), self.image_size, wanted, wanted.seed)
        renewal = renew_prototypes(
            self, self.distiller, choice, START, statistics="running", seed=wanted.seed
        )
        return (yield from renewal)

    def files(self) -> Iterator[Event]:
        """Report the figures and JSON for people, and write the vectors for programs."""
        yield self._file_event(f"{RUN}-prototypes.json", "which objects the prototypes are")
        path = self.folder / f"{RUN}-prototypes.safetensors"
        tensors = {
            f"{stride}.{name}": tensor
            for stride, prototypes in zip(self.distiller.strides, self.distiller.prototypes, strict=True)
            for name, tensor in prototypes._asdict().items()
        }
        publish_tensors(path, tensors, {"classes": json.dumps(self.classes, ensure_ascii=False)})
        yield self._file_event(path.name, "the prototypes' features in teacher and student, level by level")

    def _file_event(self, file: str, title: str) -> FileWritten:
        path = self.folder / file
        return FileWritten(run=RUN, file=file, title=title, size=path.stat().st_size, sha256=sha256_of(path))

    def report(self, selected: PrototypesSelected, figures: tuple[str, ...]) -> Report:
        """Write the report: no model is measured, the results are in its notes."""
        report = Report(time=time.time(), models={}, notes=_notes(selected), figures=figures)
        return write_report(report, self.folder)


def _notes(selected: PrototypesSelected) -> tuple[str, ...]:
    chosen = ", ".join(
        f"{name} {count} of {selected.instances[name]}" for name, count in selected.prototypes.items()
    )
    errors = ", ".join(f"{stride}: {error:.3g}" for stride, error in selected.reconstruction_error.items())
    return (
        f"Prototypes out of the objects of each class: {chosen}.",
        f"Joint reconstruction error per object, by level (its stride in pixels): {errors}.",
    )
