"""Patch pairs: patches of a picture are related as the teacher relates them."""

import pytest
import torch

from gkd_core.distill.losses.patch_pairs import pair_distance, patch_shares, patches


def test_a_number_worked_out_by_hand() -> None:
    teacher, student = torch.tensor([[[1.0, 0], [2, 0]]]), torch.tensor([[[1.0, 0], [0, 1]]])
    assert pair_distance(student, teacher).item() == pytest.approx(
        0.5
    )  # cosine 1 and 0: 2 of 4 entries differ by 1


def test_channels_may_differ_and_scale_does_not_matter() -> None:
    student = torch.randn(1, 5, 3)
    wider = torch.cat([student, torch.zeros(1, 5, 4)], 2) * 7
    assert pair_distance(student, wider).item() == pytest.approx(0, abs=1e-10)


def test_patches_divide_the_picture_and_not_its_padding() -> None:
    shares = patch_shares([16, 32], stride=8, cells=4, patches=2)
    assert torch.equal(shares[0], torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]]))
    assert torch.equal(shares[1], torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]))


def test_patches_smaller_than_a_cell_share_it() -> None:
    shares = patch_shares(
        [10], stride=8, cells=2, patches=4
    )  # of 2.5 pixels, the last has 0.5 in the first cell
    assert torch.allclose(shares[0], torch.tensor([[1.0, 0], [1, 0], [1, 0], [0.2, 0.8]]))


def test_a_patch_is_the_mean_of_its_cells() -> None:
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    shares = patch_shares([32], stride=8, cells=4, patches=2)
    assert torch.equal(patches(maps, shares, shares).flatten(), torch.tensor([2.5, 4.5, 10.5, 12.5]))


def test_a_map_of_zeros_has_a_finite_gradient() -> None:
    student = torch.zeros(1, 4, 3, requires_grad=True)
    pair_distance(student, torch.randn(1, 4, 3)).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
