"""MGD: the teacher's map generated from the student's, of which random cells are left out."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from gkd_core.compute.world import World
from gkd_core.distill.losses.method import Pair
from gkd_core.distill.losses.mgd import Generation, Masks, MgdLoss, squared_errors

CPU = World(torch.device("cpu"))
TWO = [torch.ones(2, 1, 40, 40), torch.ones(2, 1, 20, 20)]


def test_a_number_worked_out_by_hand() -> None:
    teacher, generated = torch.zeros(2, 1, 1, 3), torch.tensor([[[[1.0, 1, 2]]], [[[2.0, 1, 1]]]])
    found = squared_errors(generated, teacher, torch.ones(2, 1, 1, 3))
    assert found.mean() == 6  # 12 of two pictures
    assert 2e-5 * found.mean() == pytest.approx(1.2e-4)


def test_the_weights_are_those_published_for_256_channels_and_800_pixels() -> None:
    cells = [(800 // stride) * (1344 // stride) for stride in (4, 8, 16, 32)]
    assert MgdLoss.config_class.one_stage == pytest.approx(2e-5 * 256 * (sum(cells[1:]) + 350), rel=0.01)
    assert MgdLoss.config_class.two_stage == pytest.approx(5e-7 * 256 * (sum(cells) + 273), rel=0.01)


def test_a_mask_leaves_out_as_many_cells_as_it_should_in_every_picture_alike() -> None:
    masks = Masks().draw(0.65, TWO, CPU)
    assert [mask.shape for mask in masks] == [level.shape for level in TWO]
    assert masks[0].mean((1, 2, 3)).tolist() == pytest.approx([0.35, 0.35], abs=0.04)
    assert not torch.equal(masks[0][0], masks[0][1])


def test_the_global_random_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    Masks().draw(0.5, TWO, CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_masks_differ_from_step_to_step_and_go_on_from_the_state() -> None:
    first, second = Masks(), Masks()
    one = first.draw(0.5, TWO, CPU)[0]
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    two = first.draw(0.5, TWO, CPU)[0]
    assert not torch.equal(one, two)
    assert torch.equal(second.draw(0.5, TWO, CPU)[0], two)


def test_no_two_processes_ever_draw_alike() -> None:
    pair = Masks(), Masks()
    drawn = [
        masks.draw(0.5, TWO, replace(CPU, rank=rank, size=2))[0]
        for rank, masks in enumerate(pair)
        for _ in range(2)
    ]
    assert not any(torch.equal(one, other) for i, one in enumerate(drawn) for other in drawn[:i])


def test_a_cell_that_is_left_out_is_generated_from_its_neighbours() -> None:
    generation = Generation(Pair(1, 1, 1))
    for convolution in (generation.first, generation.second):
        nn.init.ones_(convolution.weight)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    maps, mask = torch.ones(1, 1, 1, 3), torch.tensor([[[[1.0, 0, 1]]]])
    assert generation(maps, mask, torch.ones(1, 1, 1, 3)).flatten().tolist() == [3, 4, 3]
    assert generation(maps, mask, mask).flatten().tolist() == [1, 2, 1]
