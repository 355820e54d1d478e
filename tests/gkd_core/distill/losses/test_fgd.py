"""FGD: objects and background apart under the teacher's attention, and their context."""

import math

import pytest
import torch

from gkd_core.distill.grids import Grids, Slots
from gkd_core.distill.losses import FgdLoss
from gkd_core.distill.losses.fgd import ContextBlock, FgdBlocks, attention_part, box_shares, focal_parts
from gkd_core.distill.losses.method import Pair

TEACHER = torch.tensor([[[[0.0, 0.5 * math.log(3)]]]])
STUDENT = torch.zeros(1, 1, 1, 2)
ALL = torch.ones(1, 1, 1, 2)


def test_numbers_worked_out_by_hand() -> None:
    second = torch.tensor([[[[0.0, 1.0]]]])
    inside, outside = focal_parts(STUDENT, TEACHER, second, ALL, 0.5)
    attention = attention_part(STUDENT, TEACHER, ALL, 0.5)
    relation = FgdBlocks(Pair(1, 1, 1)).relation(STUDENT, TEACHER, ALL)
    parts = torch.stack([inside, outside, attention, relation])[:, 0].detach()
    assert parts.tolist() == pytest.approx([0.452606, 0, 1.0, 0.301737], abs=1e-6)
    assert parts @ torch.tensor([1e-3, 5e-4, 5e-4, 5e-6]) == pytest.approx(0.000954115, abs=1e-9)


def test_the_weights_are_those_published_for_256_channels() -> None:
    config = FgdLoss().config
    parts = [config.foreground / 256, config.background / 256, config.attention, config.relation / 256]
    assert [config.one_stage * part for part in parts] == pytest.approx([1e-3, 5e-4, 5e-4, 5e-6])


def test_an_object_weighs_the_same_whatever_its_size_and_the_smaller_one_stays_on_top() -> None:
    boxes = torch.tensor([[0.0, 0, 32, 32], [8, 8, 24, 16]])
    grids = Grids.of([8.0], [(6, 6)], boxes.device)
    shares = box_shares(boxes, None, grids, Slots.of(torch.tensor([0, 0]), 1, 2)).view(6, 6)
    assert shares[1, 1:3].tolist() == [0.5, 0.5]
    assert shares[0, 0] == pytest.approx(1 / 16)
    assert shares[4:].sum() == 0
    assert int((shares > 0).sum()) == 16


def test_an_object_that_the_models_see_differently_is_foreground_that_counts_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 16, 16]])
    grids = Grids.of([8.0], [(4, 4)], boxes.device)
    shares = box_shares(boxes, torch.zeros(1, 1), grids, Slots.of(torch.tensor([0]), 1, 1))
    assert int((shares > 0).sum()) == 4
    assert shares.max() < 1e-6


def test_context_is_taken_from_visible_cells_alone() -> None:
    torch.manual_seed(0)
    block, visible = ContextBlock(4), torch.tensor([[[[1.0, 1, 0]]]])
    torch.nn.init.normal_(block.get_parameter("transform.3.weight"))
    maps = torch.randn(1, 4, 1, 3)
    other = torch.where(visible > 0, maps, 100.0)
    assert torch.equal(block(maps, visible)[..., :2], block(other, visible)[..., :2])
    assert not torch.allclose(block(maps, visible), maps)
