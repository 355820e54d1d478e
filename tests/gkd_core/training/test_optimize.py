"""Learning rate and averaged weights."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from gkd_core.config import OptimizerConfig, ScheduleConfig
from gkd_core.training.optimize import averaged, build_optimizer, learning_rate


def test_the_rate_warms_up_to_the_peak_and_falls_to_its_final_share() -> None:
    schedule = ScheduleConfig(warmup_epochs=2, final=0.1)
    rates = [learning_rate(step, 100, 10, 1.0, schedule) for step in range(100)]
    assert rates[0] < rates[10] < rates[19] < 1.0
    assert rates[20] == pytest.approx(1.0)
    assert all(earlier > later for earlier, later in pairwise(rates[20:]))
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_steps_fall_by_the_factor_after_their_shares_of_the_epochs() -> None:
    schedule = ScheduleConfig(form="step", warmup_epochs=1)
    rates = [learning_rate(step, 24 * 10, 10, 1.0, schedule) for step in range(24 * 10)]
    assert rates[0] < rates[5] < rates[9] < 1.0
    assert set(rates[10:160]) == {1.0}
    assert rates[160:220] == pytest.approx([0.1] * 60)  # after 16 epochs of 24
    assert rates[220:] == pytest.approx([0.01] * 20)  # and after 22


def test_steps_are_where_and_as_high_as_asked() -> None:
    schedule = ScheduleConfig(form="step", warmup_epochs=0, steps=(0.5,), factor=0.5)
    assert [learning_rate(step, 4, 2, 0.8, schedule) for step in range(4)] == [0.8, 0.8, 0.4, 0.4]
    never = ScheduleConfig(form="step", warmup_epochs=0, steps=())
    assert {learning_rate(step, 4, 2, 0.8, never) for step in range(4)} == {0.8}


def test_a_run_of_one_step_has_a_rate() -> None:
    assert learning_rate(0, 1, 1, 0.5, ScheduleConfig()) == pytest.approx(0.5)


def test_norms_and_biases_are_not_decayed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    decayed, free = build_optimizer(model.parameters(), OptimizerConfig()).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(8, 3, 3, 3)]
    assert len(free["params"]) == 3
    assert free["weight_decay"] == 0


def test_frozen_weights_are_left_out() -> None:
    model = nn.Conv2d(3, 8, 3)
    model.weight.requires_grad_(False)
    groups = build_optimizer(model.parameters(), OptimizerConfig(name="sgd")).param_groups
    assert sum(len(group["params"]) for group in groups) == 1


def test_a_young_average_forgets_its_start_and_an_old_one_follows_slowly() -> None:
    model = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = averaged(model, decay=0.9)
    average.update_parameters(model)
    nn.init.ones_(model.weight)
    average.update_parameters(model)
    assert float(average.module.weight.detach()) == pytest.approx(1 - 2 / 11)
    for _ in range(200):
        average.update_parameters(model)
    nn.init.zeros_(model.weight)
    average.update_parameters(model)
    assert float(average.module.weight.detach()) == pytest.approx(0.9, abs=1e-3)


def test_statistics_and_counters_are_averaged_too() -> None:
    model = nn.BatchNorm2d(2)
    average = averaged(model, decay=0.5)
    for _ in range(3):
        model(torch.randn(4, 2, 3, 3) + 5)
        average.update_parameters(model)
    assert torch.all(average.module.running_mean > 0.3)
    assert int(average.module.num_batches_tracked) == 3
