"""Plain feature imitation."""

import torch

from gkd_core.distill.losses import MseLoss


def test_it_is_the_mean_squared_difference_of_visible_cells() -> None:
    student, teacher = torch.tensor([[[[1.0, 5.0, 9.0]]]]), torch.tensor([[[[2.0, 3.0, 0.0]]]])
    visible = torch.tensor([[[[1.0, 1.0, 0.0]]]])
    assert MseLoss().compare(student, teacher, visible).tolist() == [2.5]  # (1 + 4) / 2
