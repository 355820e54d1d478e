"""The state of a run that trains, and what its events say of it; `gkd_core.train` is its flow from start to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gkd_core.config import (
    DetectorConfig,
    DistillRun,
    TeacherConfig,
    TrainRun,
    zoom_of,
)
from gkd_core.detectors.checkpoint import sha256_of
from gkd_core.detectors.detector import Detector
from gkd_core.distill.distiller import Distiller
from gkd_core.distill.inheritance import inherit
from gkd_core.distill.teacher import OpenedModel, Teacher
from gkd_core.events import Checkpoint, Progress
from gkd_core.runs.session import Session
from gkd_core.training.position import Account
from gkd_core.training.trainer import Training

Run = TrainRun | DistillRun


class TrainSession(Session):
    """A run that trains: student and control one after the other, or one model."""

    def __init__(
        self,
        config: Run,
        run_dir: Path,
        should_stop: Callable[[], bool],
        given_teacher: OpenedModel | None = None,
    ) -> None:
        recipe = config.train
        self.zoom = zoom_of(config.teacher, recipe) if isinstance(config, DistillRun) else 1
        super().__init__(
            config,
            run_dir,
            should_stop,
            image_size=recipe.image_size,
            batch_size=recipe.batch_size,
            workers=recipe.workers,
            cache_mb=recipe.cache_mb,
            largest=self.zoom * recipe.image_size,
        )
        self.config = config
        self.states = run_dir / "checkpoints"
        self.states.mkdir(parents=True, exist_ok=True)
        self.given_teacher = given_teacher
        self.teacher: Teacher | None = None
        self.accounts: dict[str, Account] = {}
        self.later = 0.0
        """Estimated cost of the trainings after the current one, relative to the whole of the current one."""

    def joined_with_teacher(self, student: Detector) -> Distiller:
        """Build the distiller of a student and this run's teacher."""
        assert isinstance(self.config, DistillRun)
        assert self.teacher is not None
        teacher, zoom = self.teacher, self.zoom
        return Distiller(student, teacher.detector, self.config.distill, teacher.columns, zoom=zoom)

    def size_for(self, role: str) -> int:
        """Return the longer side, in pixels, of the pictures that a model of this run is scored on."""
        return self.image_size * (self.zoom if role == "teacher" else 1)

    def inherit(self, detector: Detector) -> list[str]:
        """Fill what the student inherits from this run's teacher, in student and control alike; return remarks."""
        if not isinstance(self.config, DistillRun) or not self.config.student.inherit:
            return []
        assert self.teacher is not None
        parts = self.config.student.inherit
        return inherit(detector, self.teacher.detector, parts, self.teacher.columns)

    def trainings(self) -> list[tuple[str, DetectorConfig]]:
        """Return the trainings of this run, in order: the product first, then its control."""
        if isinstance(self.config, TrainRun):
            return [("model", self.config.model)]
        names = ["student", "control"] if self.config.distill.control else ["student"]
        return [(name, self.config.student) for name in names]

    def checkpoint_event(self, training: Training, file: str) -> Checkpoint:
        """Return the event of a published file as it is."""
        path, scored = self.folder / file, training.published[file]
        size, sha256 = self.world.from_first(lambda: (path.stat().st_size, sha256_of(path)))
        return Checkpoint(
            run=training.name,
            epoch=scored.epoch,
            step=scored.epoch * training.steps_per_epoch,
            file=file,
            size=size,
            sha256=sha256,
            metrics=scored.metrics,
            best=file == training.files[0],
        )

    def fraction(self, training: Training) -> float:
        """Return the share of the whole job that is done."""
        names = [name for name, _ in self.trainings()]
        return (names.index(training.name) + self.own_share(training)) / len(names)

    @staticmethod
    def own_share(training: Training) -> float:
        """Return the share of a training that is done."""
        return 1.0 if training.done else training.step / training.steps

    def cost_of_the_rest(self, training: Training) -> float:
        """Estimate the cost of the trainings after this one, relative to the whole of this one.

        The control takes the student's steps without the teacher. Until its own speed is measured, the cost of a
        forward pass is taken as the number of weights; a backward pass costs twice that.
        """
        last = training.name == self.trainings()[-1][0]
        if last or training.distiller is None or self.teacher is None:
            return 0.0
        epochs = range(self.config.train.epochs)
        taught = sum(map(training.distiller.is_on, epochs)) / len(epochs)
        student, teacher = map(_weights, (training.detector, self.teacher.detector))
        return 3 * student / (3 * student + taught * teacher)

    def progress(self, training: Training, *, saved: bool = False) -> Progress:
        """Return the progress event of a training at its current step."""
        fraction = self.fraction(training)
        losses, speed, left = self.progress_meter.snapshot(self.own_share(training), self.later)
        return Progress(
            run=training.name,
            epoch=training.epoch,
            epochs=self.config.train.epochs,
            step=training.step,
            steps=training.steps,
            fraction=fraction,
            losses=losses,
            lr=training.optimizer.param_groups[0]["lr"],
            images_per_second=speed,
            seconds_left=left,
            saved=saved,
        )

    def published(self) -> list[tuple[str, TeacherConfig]]:
        """Return role and file of each model that the report compares."""
        names = [name for name, _ in self.trainings()]
        models = [(name, TeacherConfig(weights=str(self.folder / f"{name}.safetensors"))) for name in names]
        if isinstance(self.config, DistillRun):
            models.insert(0, ("teacher", self.config.teacher))
        return models


def _weights(detector: Detector) -> int:
    return sum(weight.numel() for weight in detector.parameters())
