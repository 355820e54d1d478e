"""Training of one detector: the step, all state that changes from step to step, saving and restoring it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gkd_core.compute.amp import (
    autocast,
    compile_backbone,
    gradient_scaler,
    memory_format,
)
from gkd_core.compute.transfers import pictures_on, to_device, zoomed_on
from gkd_core.compute.world import World, synchronise_norms
from gkd_core.config import DetectorConfig, TrainConfig
from gkd_core.data.loading import Sample
from gkd_core.detectors.build import build_detector
from gkd_core.detectors.checkpoint import load_state, save_state
from gkd_core.detectors.detector import Detector, Targets, as_detector, as_module
from gkd_core.detectors.weights import load_weights
from gkd_core.distill.bank import Bank
from gkd_core.distill.distiller import Distiller
from gkd_core.distill.freshness import RefreshInterval
from gkd_core.distill.losses.attenuation import attenuation
from gkd_core.distill.prototypes import Prototypes
from gkd_core.errors import DivergedError, Problem, SpecError
from gkd_core.training.batch_share import BatchShare
from gkd_core.training.optimize import averaged, build_optimizer, learning_rate, set_learning_rate
from gkd_core.training.position import Position, Scored

MakeDistiller = Callable[[Detector], Distiller]
Inherit = Callable[[Detector], list[str]]
"""Fills parts of a fresh detector from its teacher; returns remarks."""


class Training(Position):
    """A detector in training, with its optimiser, distiller and position in the data.

    Two trainings with the same config start from the same bits and get the same images in the same order, with or
    without a distiller. The constructor leaves the global random generator unchanged; `seed` seeds it alike for both.
    """

    def __init__(
        self,
        name: str,
        config: TrainConfig,
        detector: DetectorConfig,
        classes: tuple[str, ...],
        steps_per_epoch: int,
        device: torch.device,
        make_distiller: MakeDistiller | None = None,
        world: World | None = None,
        inherit: Inherit | None = None,
    ) -> None:
        """Build detector, optimiser and distiller in their initial state.

        Args:
            name: "model", "student" or "control".
            config: the recipe.
            detector: what is trained; its `weights`, when given, are loaded.
            classes: the C names in label order, without background.
            steps_per_epoch: optimiser steps in an epoch.
            device: where to train.
            make_distiller: builds a distiller for the detector; None, or one without a loss: plain training.
            world: the processes that train it together; None: this one alone.
            inherit: fills parts of the detector from its teacher, after `weights`; None: there are none to fill.
        """
        super().__init__(name, config, steps_per_epoch)
        self.world = world or World(device)
        self.device = device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            self.seed()
            self.detector = build_detector(detector, len(classes), config.image_size)
            self.detector.to(device, memory_format=memory_format(config))
            self.remarks = load_weights(self.detector, detector.weights, classes) if detector.weights else []
            self.remarks += inherit(self.detector) if inherit else []
            self.detector = synchronise_norms(self.detector, self.world)
            self.distiller = self._make_distiller(make_distiller) if make_distiller else None
        self._share_batches()
        self.average = averaged(as_module(self.detector), config.ema) if config.ema is not None else None
        self.optimizer = build_optimizer(self._trained.parameters(), config.optimizer)
        self.scaler = gradient_scaler(device, config.precision)
        if config.compile:
            self._compile()
        self.prototypes_epoch = -1
        self.refresh: RefreshInterval | None = None

    def seed(self) -> None:
        """Seed the global random generator, which dropout and stochastic depth use, from the recipe.

        Called before the first step, so that trainings with and without adapters, whose initialisation is random too,
        draw alike.
        """
        torch.manual_seed(self.config.seed)

    def _make_distiller(self, make_distiller: MakeDistiller) -> Distiller | None:
        """Return the distiller; None if it has no loss, so that the teacher need not run."""
        distiller = make_distiller(self.detector).to(self.device)
        self.remarks += distiller.remarks
        return distiller if distiller.has_losses else None

    def _share_batches(self) -> None:
        """Start from the same weights in all processes, and make each one's part of a batch fit the others'."""
        teacher = None
        if self.distiller is not None:
            self.distiller.world, teacher = self.world, self.distiller.teacher
        self.batch_share = BatchShare(self.world, self.detector, teacher, self.config.seed)
        self.world.start_alike(self._trained)

    def _compile(self) -> None:
        compile_backbone(self.detector.backbone, memory_format(self.config))
        if self.distiller is not None:  # a teacher is loaded in this memory format, whatever the recipe
            compile_backbone(self.distiller.teacher.backbone, torch.channels_last)

    # ---- what depends on the position ----------------------------------------------------------------------

    @property
    def attenuation(self) -> float:
        """Return the factor of global and local losses in this epoch."""
        form = self.distiller.config.attenuation if self.distiller is not None else "constant"
        return attenuation(form, self.epoch, self.config.epochs)

    @property
    def evaluated(self) -> Detector:
        """Return the detector to evaluate and publish: the averaged one if there is one."""
        return as_detector(self.average.module) if self.average is not None else self.detector

    # ---- steps -------------------------------------------------------------------------------------------

    def train_step(self, batch: Sequence[Sample]) -> dict[str, Tensor]:
        """Run one optimiser step over `accumulate` micro-batches.

        Args:
            batch: this process's pictures.

        Returns:
            The named losses, detached, mean over micro-batches and processes.

        Raises:
            DivergedError: a loss is NaN or infinite; weights are as before the step.
        """
        rate = learning_rate(
            self.step, self.steps, self.steps_per_epoch, self.config.optimizer.lr, self.config.schedule
        )
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        size = -(-len(batch) // self.config.accumulate)
        losses: dict[str, Tensor] = {}
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            for name, value in self._backward(part, start, len(part) / len(batch)).items():
                losses[name] = losses.get(name, 0) + value
        losses = self.world.average_gradients(self._trained.parameters(), losses)
        self._follow_gradients(losses)
        self.step_in_epoch += 1
        return losses

    def _backward(self, part: Sequence[Sample], start: int, share: float) -> dict[str, Tensor]:
        """Add the gradients of a micro-batch, which begins at `start` and is `share` of the batch."""
        pictures, targets = self._on_device(part)
        with (
            autocast(self.device, self.config.precision),
            self.batch_share.of_step(self.step, start, pictures),
        ):
            losses = self.batch_share.scaled(self._losses(pictures, targets, self._zoomed(part)))
        weighted = {name: loss * share for name, loss in losses.items()}
        total = torch.stack(list(weighted.values())).sum()
        if not torch.isfinite(total):
            raise self._diverged(losses)
        self.scaler.scale(total).backward()
        if self.distiller is not None:
            self.distiller.update_bank([sample.target for sample in part], self.epoch)
        return {name: loss.detach() for name, loss in weighted.items()}

    def _on_device(self, part: Sequence[Sample]) -> tuple[list[Tensor], Targets]:
        """Return images in 0..1 and targets of a micro-batch on the device."""
        pictures = pictures_on(self.device, [sample.image for sample in part])
        boxes = to_device([sample.target["boxes"] for sample in part], self.device)
        labels = to_device([sample.target["labels"] for sample in part], self.device)
        targets = [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]
        return pictures, targets

    def zoom(self, epoch: int) -> int:
        """Return how many times as large pictures an epoch needs, for the teacher; 1 where it sees the student's."""
        distils = self.distiller is not None and self.distiller.is_on(epoch)
        return self.distiller.zoom if self.distiller is not None and distils else 1

    def _zoomed(self, part: Sequence[Sample]) -> list[Tensor] | None:
        """Return what the teacher sees of a micro-batch; None where that is what the student sees."""
        return zoomed_on(self.device, part) if self.zoom(self.epoch) > 1 else None

    def _losses(
        self, pictures: list[Tensor], targets: Targets, zoomed: list[Tensor] | None
    ) -> dict[str, Tensor]:
        """Compute the named losses of a micro-batch.

        Raises:
            SpecError: batch norm has only one value per channel.
        """
        self.detector.train()
        try:
            if self.distiller is not None and self.distiller.is_on(self.epoch):
                distilled: dict[str, Tensor] = self.distiller(pictures, targets, self.attenuation, zoomed)
                return distilled
            losses: dict[str, Tensor] = self.detector(pictures, targets)
            return losses
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):  # torch's message
                raise
            raise _too_small_for_batch_norm(pictures) from error

    def _follow_gradients(self, losses: dict[str, Tensor]) -> None:
        """Run one step of the optimiser and of the weight average.

        With float16, a step whose gradients overflow is skipped, and the loss scale is reduced.

        Raises:
            DivergedError: gradients are NaN or infinite, and not because of the loss scale.
        """
        self.scaler.unscale_(self.optimizer)
        norm = self._clip_gradients()
        if torch.isfinite(norm):
            self.optimizer.step()
            if self.average is not None:
                self.average.update_parameters(as_module(self.detector))
        elif self.scaler.get_scale() <= 1:  # without float16 it is 1
            raise self._diverged({"gradient": norm, **losses})
        self.scaler.update()

    def _clip_gradients(self) -> Tensor:
        """Scale gradients down to `clip_norm`; return their norm before.

        Those of adapters and of other trainable parts of losses are clipped separately: their large gradients would
        scale down the student's.
        """
        clip = self.config.optimizer.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.detector.parameters(), clip)
        if self.distiller is None:
            return norm
        return norm + nn.utils.clip_grad_norm_(self.distiller.auxiliary_parameters(), clip)

    def _diverged(self, losses: dict[str, Tensor]) -> DivergedError:
        values = ", ".join(
            f"{name} {float(loss.detach()):g}" for name, loss in losses.items() if not torch.isfinite(loss)
        )
        hint = "Lower train.optimizer.lr, or lengthen train.schedule.warmup_epochs."
        if self.config.precision == "float16":
            hint += " float16 ends at 65504: train.precision bfloat16 and float32 do not."
        where = f"step {self.step + 1} of {self.steps} ({self.name}, epoch {self.epoch + 1})"
        return DivergedError(f"{where}: {values}", hint)

    @property
    def _trained(self) -> nn.Module:
        return self.distiller or as_module(self.detector)

    # ---- saving and restoring ----------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write everything that resuming needs; all processes have it, the first one writes."""
        if self.world.first:
            save_state(folder, self.name, self.step, self._state())

    def restore(self, folder: Path, warn: Callable[[str], None]) -> bool:
        """Restore the newest state of a killed run; return False when there is none."""
        state = load_state(folder, self.name, warn)
        if state is None:
            return False
        self._trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.distiller is not None:
            self.distiller.prototypes = [
                Prototypes(**{name: tensor.to(self.device) for name, tensor in level.items()})
                for level in state["prototypes"]
            ]
            self.distiller.chosen = state.get("prototypes_chosen", [])
            bank = state["bank"]
            self.distiller.bank = Bank.of_state(bank, self.device) if bank else None
        self.prototypes_epoch = state["prototypes_epoch"]
        refresh = state.get("refresh")  # missing in states of old versions
        self.refresh = RefreshInterval(**refresh) if refresh else None
        self.epoch, self.step_in_epoch = state["epoch"], state["step_in_epoch"]
        self.published = {file: Scored(**scored) for file, scored in state["published"].items()}
        self.done = state["done"]
        before = state["accumulated"]
        goes_on_alike = self.done or before[-1] == self.config.accumulate
        self.accumulated = before if goes_on_alike else before + self.accumulated
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        return True

    def _state(self) -> dict[str, Any]:
        prototypes = self.distiller.prototypes if self.distiller is not None else []
        bank = self.distiller.bank if self.distiller is not None else None
        chosen = self.distiller.chosen if self.distiller is not None else []
        return {
            "trained": self._trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "prototypes": [level._asdict() for level in prototypes],
            "bank": bank.state() if bank is not None else None,
            "prototypes_epoch": self.prototypes_epoch,
            "prototypes_chosen": chosen,
            "refresh": self.refresh._asdict() if self.refresh is not None else None,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "published": {file: scored._asdict() for file, scored in self.published.items()},
            "done": self.done,
            "accumulated": self.accumulated,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }


def _too_small_for_batch_norm(pictures: list[Tensor]) -> SpecError:
    height, width = pictures[0].shape[-2:]
    message = (
        f"a micro-batch of one picture of {width} x {height} pixels ends as a single cell, "
        "and batch norm cannot learn a spread from one value"
    )
    hint = (
        "Let two pictures come together (raise train.batch_size or lower train.accumulate), raise train.image_size or "
        "the lower end of train.augment.scale, or set norm to group."
    )
    return SpecError([Problem(loc=("train", "accumulate"), message=message, hint=hint)])
