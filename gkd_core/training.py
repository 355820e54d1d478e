"""One detector in training: everything that changes from step to step, and how it is saved and restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gkd_core.checkpoint import load_state, save_state
from gkd_core.config import DetectorConfig, TrainConfig
from gkd_core.data.loading import Sample
from gkd_core.detectors import Detector, build_detector
from gkd_core.distiller import Distiller
from gkd_core.errors import DivergedError
from gkd_core.optimize import averaged, build_optimizer, learning_rate, set_learning_rate
from gkd_core.prototypes import Prototypes
from gkd_core.weights import load_weights

MakeDistiller = Callable[[Detector], Distiller]


class Scored(NamedTuple):
    """An evaluation of weights that were published."""

    epoch: int
    metrics: dict[str, float]


class Training:
    """A detector, what moves its weights, and where it stands.

    Two trainings with the same config start from the same bits and see the same pictures in the same order,
    with or without a distiller.
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
    ) -> None:
        """Build everything in its first state.

        Args:
            name: "model", "student" or "control".
            config: the recipe.
            detector: what is trained; its `weights`, when given, are loaded.
            classes: the C names in label order, without background.
            steps_per_epoch: optimiser steps in an epoch.
            device: where to train.
            make_distiller: turns the detector into a distiller; None trains it plainly.
        """
        self.name = name
        self.config = config
        self.device = device
        self.steps_per_epoch = steps_per_epoch
        torch.manual_seed(config.seed)
        self.detector = build_detector(detector, len(classes), config.image_size)
        self.detector.to(device, memory_format=torch.channels_last)  # a tenth faster, also on a CPU
        self.remarks = load_weights(self.detector, detector.weights, classes) if detector.weights else []
        self.average = averaged(self.detector, config.ema) if config.ema is not None else None
        self.distiller = make_distiller(self.detector).to(device) if make_distiller else None
        trained = self.distiller or self.detector
        self.optimizer = build_optimizer(trained.parameters(), config.optimizer)
        self.epoch = 0
        self.step_in_epoch = 0
        self.prototypes_epoch = -1
        self.published: dict[str, Scored] = {}
        self.done = False
        torch.manual_seed(config.seed)  # adapters drew numbers too; from here on both kinds draw alike

    # ---- where it stands ---------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps_per_epoch * self.config.epochs

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.epoch * self.steps_per_epoch + self.step_in_epoch

    @property
    def attenuation(self) -> float:
        """Factor of global and local losses in this epoch (METHOD: 1 - epoch / epochs)."""
        constant = self.distiller is not None and self.distiller.config.attenuation == "constant"
        return 1.0 if constant else 1 - self.epoch / self.config.epochs

    @property
    def files(self) -> tuple[str, str]:
        """Names of the best and of the last model."""
        return f"{self.name}.safetensors", f"{self.name}-last.safetensors"

    @property
    def evaluated(self) -> Detector:
        """The detector that is evaluated and published: the averaged one where there is one."""
        return self.average.module if self.average is not None else self.detector

    # ---- moving ------------------------------------------------------------------------------------------

    def train_step(self, batch: Sequence[Sample]) -> dict[str, Tensor]:
        """One optimiser step over `accumulate` micro-batches.

        Returns:
            The named losses, detached, mean over micro-batches.

        Raises:
            DivergedError: a loss is NaN or infinite; weights are as before the step.
        """
        rate = learning_rate(
            self.step, self.steps, self.steps_per_epoch, self.config.optimizer.lr, self.config.schedule
        )
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        size = -(-len(batch) // self.config.accumulate)
        parts = [batch[start : start + size] for start in range(0, len(batch), size)]
        losses: dict[str, Tensor] = {}
        for part in parts:
            for name, value in self._backward(part, len(part) / len(batch)).items():
                losses[name] = losses.get(name, 0) + value
        norm = nn.utils.clip_grad_norm_(self._trained.parameters(), self.config.optimizer.clip_norm)
        if not torch.isfinite(norm):
            raise self._diverged({"gradient": norm, **losses})
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.detector)
        self.step_in_epoch += 1
        return losses

    def _backward(self, part: Sequence[Sample], share: float) -> dict[str, Tensor]:
        """Add the gradients of a micro-batch, which is `share` of the batch."""
        self.detector.train()
        pictures = [sample.image.to(self.device).float() / 255 for sample in part]
        targets = [{name: s.target[name].to(self.device) for name in ("boxes", "labels")} for s in part]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            if self.distiller is not None:
                losses = self.distiller(pictures, targets, self.attenuation)
            else:
                losses = self.detector(pictures, targets)
        weighted = {name: loss * share for name, loss in losses.items()}
        total = torch.stack(list(weighted.values())).sum()
        if not torch.isfinite(total):
            raise self._diverged(losses)
        total.backward()
        return {name: loss.detach() for name, loss in weighted.items()}

    def _diverged(self, losses: dict[str, Tensor]) -> DivergedError:
        values = ", ".join(
            f"{name} {float(loss.detach()):g}" for name, loss in losses.items() if not torch.isfinite(loss)
        )
        return DivergedError(
            f"step {self.step + 1} of {self.steps} ({self.name}, epoch {self.epoch + 1}): {values}",
            "Lower train.optimizer.lr, or lengthen train.schedule.warmup_epochs.",
        )

    @property
    def _trained(self) -> nn.Module:
        return self.distiller or self.detector

    def end_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epoch += 1
        self.step_in_epoch = 0

    # ---- saving and restoring ----------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write everything that resuming needs."""
        save_state(folder, self.name, self.step, self._state())

    def restore(self, folder: Path, warn: Callable[[str], None]) -> bool:
        """Go back to where a killed run stood; False when it left nothing."""
        state = load_state(folder, self.name, warn)
        if state is None:
            return False
        self._trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.distiller is not None:
            self.distiller.prototypes = [
                Prototypes(**{name: tensor.to(self.device) for name, tensor in level.items()})
                for level in state["prototypes"]
            ]
        self.prototypes_epoch = state["prototypes_epoch"]
        self.epoch, self.step_in_epoch = state["epoch"], state["step_in_epoch"]
        self.published = {file: Scored(**scored) for file, scored in state["published"].items()}
        self.done = state["done"]
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        return True

    def _state(self) -> dict[str, Any]:
        prototypes = self.distiller.prototypes if self.distiller is not None else []
        return {
            "trained": self._trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "prototypes": [level._asdict() for level in prototypes],
            "prototypes_epoch": self.prototypes_epoch,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "published": {file: scored._asdict() for file, scored in self.published.items()},
            "done": self.done,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
