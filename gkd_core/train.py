"""The main flow of a run: takes a config, yields a stream of events. Read `train` from top to bottom.

As a process: `python -m gkd_core.train RUN_DIR --attempt N` (see `gkd_core.run_dir` for its files).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from gkd_core.compute.amp import gpu_arithmetic
from gkd_core.config import (
    AnyRun,
    DetectorConfig,
    DistillRun,
    EvaluateRun,
    ExportRun,
    PrototypesRun,
    TrainRun,
)
from gkd_core.data.loading import TrainLoader, steps_per_epoch
from gkd_core.data.tiny_objects import vanishing
from gkd_core.detectors.checkpoint import publish_model
from gkd_core.detectors.model_card import ModelCard
from gkd_core.distill.distiller import Distiller
from gkd_core.distill.freshness import first_interval
from gkd_core.distill.instances import choose_instances
from gkd_core.distill.teacher import OpenedModel, Teacher, open_model
from gkd_core.errors import Problem, SpecError, StoppedError
from gkd_core.evaluation.coco import score
from gkd_core.events import Checkpoint, Event, Progress, Report, Warning
from gkd_core.process import launch
from gkd_core.run_dir import RunDir
from gkd_core.runs.evaluate import evaluate
from gkd_core.runs.export import export
from gkd_core.runs.figures import draw_training
from gkd_core.runs.prototype_renewal import refresh_prototypes, renew_prototypes
from gkd_core.runs.prototypes import select_prototypes
from gkd_core.runs.report import Entry, early_stop, make_report, training_notes
from gkd_core.runs.session import fields_under, find_device
from gkd_core.runs.train_session import Run, TrainSession
from gkd_core.training.batch_share import require_equal_shares
from gkd_core.training.position import Scored
from gkd_core.training.trainer import Training

WEAK_TEACHER = 0.05
"""Teachers with an AP below this get a warning: they are hardly worth imitating."""


def carry_out(config: AnyRun, run_dir: Path, should_stop: Callable[[], bool]) -> Iterator[Event]:
    """Carry out a run of any kind. The last progress event before its report says that all is done."""
    latest: Progress | None = None
    for event in _flow(config, run_dir, should_stop):
        if isinstance(event, Report) and (done := _all_done(config, latest)):
            yield done
        latest = event if isinstance(event, Progress) else latest
        yield event


def _all_done(config: AnyRun, latest: Progress | None) -> Progress | None:
    """Return the final progress event of a run, unless it was sent already.

    None if an attempt trained nothing: then an earlier one has sent it.
    """
    if latest is not None:
        finished = {"fraction": 1.0, "seconds_left": 0.0, "saved": False}
        return latest.model_copy(update=finished) if latest.fraction < 1 else None
    if isinstance(config, TrainRun | DistillRun):
        return None
    run = "student" if isinstance(config, PrototypesRun) else "model"
    nothing = {"epoch": 0, "epochs": 0, "step": 0, "steps": 0}
    return Progress(run=run, activity=config.kind, **nothing, fraction=1.0, seconds_left=0.0)


def _flow(config: AnyRun, run_dir: Path, should_stop: Callable[[], bool]) -> Iterator[Event]:
    match config:
        case TrainRun() | DistillRun():
            return train(config, run_dir, should_stop)
        case EvaluateRun():
            return evaluate(config, run_dir, should_stop)
        case PrototypesRun():
            return select_prototypes(config, run_dir, should_stop)
        case ExportRun():
            return export(config, run_dir, should_stop)


def train(
    config: Run,
    run_dir: Path,
    should_stop: Callable[[], bool] = lambda: False,
    teacher: OpenedModel | None = None,
) -> Iterator[Event]:
    """Carry out a run, or resume one that was interrupted.

    Args:
        config: what to do; its paths are absolute.
        run_dir: where checkpoints, models and the report are written; files of an earlier attempt are used.
        should_stop: called at every step; once it returns true, a checkpoint is written and `StoppedError` raised.
        teacher: a teacher in memory, on the device of the run; None: the config says which file it is.

    Yields:
        Events, in the order in which things happen.

    Raises:
        GkdError: its class says how the failure is handled.
    """
    with gpu_arithmetic(config.train, find_device(config.device)):
        job = _Job(config, run_dir, should_stop, teacher)
        try:
            yield from job.check_data()
            yield from job.meet_teacher()
            for name, detector in job.trainings():
                yield from job.run(name, detector)
            yield from job.report()
        except StoppedError:
            job.world.leave()  # after the first of several processes has saved
            raise


class _Job(TrainSession):
    """The steps of a run that trains, in the order in which `train` takes them."""

    # ---- before training ---------------------------------------------------------------------------------

    def check_data(self) -> Iterator[Event]:
        """Check the data as every run does, for this image size too, and whether `best_by` can rank epochs on it."""
        yield from super().check_data()
        for problem in vanishing(self.data.train, self.config.train):
            yield Warning(message=problem.message, hint=problem.hint)
        best_by = self.config.train.best_by
        if score(self.data.val.images, self.classes, {}).metrics[best_by] < 0:  # with no detections: 0
            message = (
                f"no epoch can be the best by {best_by}: the validation split has no object that it counts"
            )
            raise SpecError([Problem(loc=("train", "best_by"), message=message, hint="AP always counts.")])

    def meet_teacher(self) -> Iterator[Event]:
        """Load the teacher and, the first time, report its scores on the validation split."""
        if not isinstance(self.config, DistillRun):
            return
        with fields_under("teacher"):
            self.teacher = (
                Teacher.of(self.given_teacher, self.classes)
                if self.given_teacher
                else Teacher.load(self.config.teacher, self.classes, self.device)
            )
        if any(self.states.iterdir()):
            return
        start = Progress(run="teacher", epoch=0, epochs=0, step=0, steps=0, fraction=0)
        found = yield from self.evaluate(
            self.teacher.detector, start, self.teacher.labels, image_size=self.size_for("teacher")
        )
        if found.metrics["AP"] < WEAK_TEACHER:
            yield Warning(
                message=f"the teacher reaches AP {found.metrics['AP']:.3f} on the validation split",
                hint="A student hardly learns from a teacher that does not know the data; train it first.",
            )

    # ---- one training ------------------------------------------------------------------------------------

    def run(self, name: str, detector: DetectorConfig) -> Iterator[Event]:
        """Train one detector from its current state to the end."""
        recipe = self.config.train
        require_equal_shares(len(self.data.train.images), recipe, self.world.size)
        steps = steps_per_epoch(len(self.data.train.images), recipe)
        make = self.joined_with_teacher if name == "student" else None
        with fields_under("model" if name == "model" else "student"):
            training = Training(
                name, recipe, detector, self.classes, steps, self.device, make, self.world, self.inherit
            )
        torn: list[str] = []
        training.seed()
        resumed = training.restore(self.states, torn.append)
        yield from (Warning(message=message) for message in torn + (training.remarks if not resumed else []))
        self.progress_meter.start(self.own_share(training))
        self.later = self.cost_of_the_rest(training)
        while not training.done:
            if training.distiller is not None and self.renewal_due(training, training.distiller):
                yield from self.renew_prototypes(training, training.distiller)
            yield from self.train_epoch(training)
            if self.evaluation_due(training.epoch):
                yield from self.evaluate_and_publish(training, detector)
            training.done = training.finished
            training.save(self.states)
            yield self.progress(training, saved=True)
            if training.done and training.epoch < recipe.epochs:
                yield Warning(message=early_stop(name, training.account, recipe))
        self.accounts[name] = training.account
        if resumed:  # events that a killed attempt did not send, or sent for files that were replaced
            yield from (self.checkpoint_event(training, file) for file in training.published)

    def train_epoch(self, training: Training) -> Iterator[Event]:
        """Train the rest of the current epoch."""
        share = {"rank": self.world.rank, "world": self.world.size}
        zoom = training.zoom(training.epoch)
        loader = TrainLoader(self.data.train.images, self.config.train, cache=self.cache, zoom=zoom, **share)
        batches = loader.epoch(training.epoch, first_step=training.step_in_epoch)
        for batch in batches:
            if training.distiller is not None and self.refresh_due(training, training.distiller):
                yield from self.refresh_prototypes(training, training.distiller)
            losses = training.train_step(batch)
            self.progress_meter.count(losses, len(batch) * self.world.size)
            if self.should_stop():
                training.save(self.states)
                raise StoppedError("asked to stop; a checkpoint is written")
            if self.progress_meter.save_due():
                training.save(self.states)
                yield self.progress(training, saved=True)
            elif self.progress_meter.progress_due():
                yield self.progress(training)
        if self.evaluation_due(training.epoch + 1):
            training.save(self.states)  # evaluation takes long and may be interrupted
        training.end_epoch()

    def evaluation_due(self, epoch: int) -> bool:
        """Return whether to evaluate after an epoch: every `evaluate_every` epochs, and at the end."""
        recipe = self.config.train
        return epoch % recipe.evaluate_every == 0 or epoch == recipe.epochs

    def evaluate_and_publish(self, training: Training, detector: DetectorConfig) -> Iterator[Event]:
        """Score the averaged weights; publish them when they are the best so far, and at the end."""
        found = yield from self.evaluate(training.evaluated, self.progress(training))
        best_file, last_file = training.files
        if training.is_best(found.metrics):
            yield self.publish(training, best_file, detector, found.metrics)
        if training.finished:
            yield self.publish(training, last_file, detector, found.metrics)

    def publish(
        self, training: Training, file: str, detector: DetectorConfig, metrics: dict[str, float]
    ) -> Checkpoint:
        """Write the averaged weights as a model file, with their scores."""
        card = ModelCard.of(detector, self.classes, self.config.train.image_size, self.data.white)
        if self.world.first:
            publish_model(self.folder / file, training.evaluated.state_dict(), card)
        training.published[file] = Scored(training.epoch, metrics)
        return self.checkpoint_event(training, file)

    # ---- prototypes --------------------------------------------------------------------------------------

    def renewal_due(self, training: Training, distiller: Distiller) -> bool:
        """Return whether to select prototypes: before the first epoch that distils, then every `prototypes.every`."""
        last = training.prototypes_epoch
        if not distiller.is_on(training.epoch):
            return False
        return last < 0 or training.epoch - last >= distiller.config.prototypes.every

    def renew_prototypes(self, training: Training, distiller: Distiller) -> Iterator[Event]:
        """Run PGM: pool the instances of the training split in both feature spaces and select new prototypes."""
        recipe, wanted = self.config.train, distiller.config.prototypes
        images, classes = self.data.train.images, len(self.classes)
        choice = choose_instances(images, classes, recipe.image_size, wanted, recipe.seed)
        yield (
            yield from renew_prototypes(
                self,
                distiller,
                choice,
                self.progress(training),
                precision=recipe.precision,
                seed=recipe.seed,
            )
        )
        training.prototypes_epoch = training.epoch
        pictures = len({image_id for level in distiller.chosen for image_id in level[:, 0].tolist()})
        if training.refresh is None:
            training.refresh = first_interval(training.step, pictures, recipe.batch_size, wanted)
        else:
            training.refresh = training.refresh._replace(last=training.step)

    def refresh_due(self, training: Training, distiller: Distiller) -> bool:
        """Return whether to refresh the student's features of the prototypes before the next step."""
        if training.refresh is None or not distiller.is_on(training.epoch):
            return False
        return training.refresh.is_due(training.step)

    def refresh_prototypes(self, training: Training, distiller: Distiller) -> Iterator[Event]:
        """Refresh the student's features of the prototypes, and decide when to do so next."""
        assert training.refresh is not None
        precision = self.config.train.precision
        try:
            cosine = yield from refresh_prototypes(
                self, distiller, self.progress(training), precision=precision
            )
        except StoppedError:
            training.save(self.states)  # nothing was replaced yet
            raise
        training.refresh = training.refresh.after(training.step, cosine, distiller.config.prototypes)

    # ---- reporting ---------------------------------------------------------------------------------------

    def report(self) -> Iterator[Event]:
        """Evaluate the published files side by side and write the report."""
        entries = {}
        for role, model in self.published():
            given = self.given_teacher if role == "teacher" else None
            detector, card = given or open_model(model, self.device)
            epochs = self.config.train.epochs
            end = Progress(run=role, epoch=epochs, epochs=epochs, step=0, steps=0, fraction=1)
            labels = self.teacher.labels if self.teacher and role == "teacher" else None
            size = self.size_for(role)
            found = yield from self.measure(detector, end, labels, image_size=size)
            has_test = "test" in self.data.splits
            test = (yield from self.measure(detector, end, labels, "test", size)) if has_test else None
            path = Path(model.weights) if role != "teacher" else None
            entries[role] = Entry(detector, card, found, path, test, image_size=size)
        first, self.world = self.world.first, self.world.leave()
        if not first:
            return
        entries = {role: entry.assessed(self.classes) for role, entry in entries.items()}
        scores = {role: entry.score for role, entry in entries.items()}
        drawn = yield from draw_training(self, scores, self.config.train.best_by, end)
        notes = training_notes(self.accounts, self.config.train)
        yield make_report(
            self.config, entries, self.data, self.folder, self.device, notes, drawn, self.stop_if_asked
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the engine process; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m gkd_core.train", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="a prepared run directory")
    parser.add_argument("--attempt", type=int, default=1, help="the attempt that owns the directory")
    options = parser.parse_args(arguments)
    return launch.serve(RunDir(options.run_dir), options.attempt, carry_out)


if __name__ == "__main__":
    sys.exit(main())
