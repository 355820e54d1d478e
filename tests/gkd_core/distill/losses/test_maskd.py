"""MasKD: learnt tokens cut the map into regions, each of which counts alike."""

import pytest
import torch

from gkd_core.distill.losses.maskd import masks_of, overlap, region_quality, regions_alike


def test_a_number_worked_out_by_hand() -> None:
    mask = torch.tensor([[[[0.5, 1.0]]]])
    found = regions_alike(torch.tensor([[[[2.0, 1.0]]]]), torch.zeros(1, 1, 1, 2), mask)
    assert found.tolist() == pytest.approx([4 / 3])


def test_contracting_the_masks_is_exact() -> None:
    student, teacher, masks = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4), torch.rand(2, 6, 3, 4)
    squared = (student - teacher).square().unsqueeze(1)  # (B, 1, C, H, W)
    each = (masks.square().unsqueeze(2) * squared).sum((3, 4)) / masks.sum((2, 3)).unsqueeze(2)
    torch.testing.assert_close(regions_alike(student, teacher, masks), each.mean((1, 2)))


def test_what_the_student_costs_does_not_close_the_masks() -> None:
    student = torch.randn(1, 2, 2, 2, requires_grad=True)
    tokens = torch.randn(3, 2, requires_grad=True)
    teacher, visible = torch.randn(1, 2, 2, 2), torch.ones(1, 1, 2, 2)
    regions_alike(student, teacher, masks_of(tokens, teacher, visible)).sum().backward()
    assert tokens.grad is None
    assert student.grad is not None


def test_regions_are_good_where_their_mean_tells_their_cells_and_they_do_not_overlap() -> None:
    teacher = torch.tensor([[[[1.0, 1, -3, -3]]]])
    apart = torch.tensor([[[[1.0, 1, 0, 0]], [[0.0, 0, 1, 1]]]]).view(1, 2, 1, 4)
    visible = torch.ones(1, 1, 1, 4)
    assert region_quality(apart, teacher, visible) == 0
    assert region_quality(torch.ones(1, 2, 1, 4), teacher, visible) > 1  # all cells in both


def test_overlap_is_the_dice_coefficient() -> None:
    masks = torch.tensor([[[1.0, 1, 0], [0, 1, 1]]])
    assert overlap(masks).tolist() == [0.5]
    assert overlap(masks[:, :1]).tolist() == [0]


def test_tokens_learn_regions() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(3, 2)[torch.tensor([0, 0, 1, 1, 2, 2])].T.view(1, 2, 2, 3).contiguous()
    tokens, visible = torch.randn(3, 2, requires_grad=True), torch.ones(1, 1, 2, 3)
    optimiser = torch.optim.Adam([tokens], 0.1)
    quality = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = region_quality(masks_of(tokens, teacher, visible), teacher, visible).sum()
        loss.backward()
        optimiser.step()
        quality.append(loss.item())
    assert quality[-1] < 0.6 * quality[0], quality
