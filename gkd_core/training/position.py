"""Where a training stands: epochs and steps done, the best scores so far, and whether it is finished."""

from __future__ import annotations

from typing import NamedTuple

from gkd_core.config import TrainConfig


class Scored(NamedTuple):
    """The scores of published weights."""

    epoch: int
    metrics: dict[str, float]


class Account(NamedTuple):
    """Summary of a training, for the notes of the report."""

    epochs: int
    """Epochs done."""
    best_epoch: int
    """Epoch whose weights are published as the best."""
    accumulated: list[int]
    """Micro-batches per step; more than one number if training was resumed with smaller ones after running out of
    memory."""


class Position:
    """The position of a training in its recipe, and the scores of what it has published."""

    def __init__(self, name: str, config: TrainConfig, steps_per_epoch: int) -> None:
        """Start before the first step; arguments as in `Training`."""
        self.name = name
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.accumulated = [config.accumulate]
        self.epoch = 0
        self.step_in_epoch = 0
        self.published: dict[str, Scored] = {}
        self.done = False

    @property
    def steps(self) -> int:
        """Return the optimiser steps of the whole run."""
        return self.steps_per_epoch * self.config.epochs

    @property
    def step(self) -> int:
        """Return the optimiser steps done."""
        return self.epoch * self.steps_per_epoch + self.step_in_epoch

    @property
    def finished(self) -> bool:
        """Return whether all epochs are done, or `patience` evaluations in a row brought no improvement."""
        patience = self.config.patience
        impatient = patience is not None and self._evaluations_without_gain >= patience
        return impatient or self.epoch == self.config.epochs

    @property
    def _evaluations_without_gain(self) -> int:
        every, best = self.config.evaluate_every, self.published.get(self.files[0])
        return self.epoch // every - best.epoch // every if best is not None else 0

    def is_best(self, metrics: dict[str, float]) -> bool:
        """Return whether an evaluation beats all before it, or is the first. -1 (unknown) beats nothing."""
        best = self.published.get(self.files[0])
        return best is None or metrics[self.config.best_by] > best.metrics[self.config.best_by]

    @property
    def account(self) -> Account:
        """Return a summary of the training so far; needs at least one evaluation."""
        return Account(self.epoch, self.published[self.files[0]].epoch, self.accumulated)

    @property
    def files(self) -> tuple[str, str]:
        """Return the names of the best and of the last model."""
        return f"{self.name}.safetensors", f"{self.name}-last.safetensors"

    def end_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epoch += 1
        self.step_in_epoch = 0
