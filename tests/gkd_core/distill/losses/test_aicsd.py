"""AICSD: the relations between classes are those of the teacher."""

import pytest
import torch
from torch import nn

from gkd_core.config import DistillConfig
from gkd_core.config.distill import settled_losses
from gkd_core.config.losses import settled
from gkd_core.distill.losses import AicsdLoss
from gkd_core.distill.losses.aicsd import class_cosines, class_means, class_relations, relation_distance
from gkd_core.distill.prototypes import Prototypes
from gkd_core.errors import Problem, SpecError

ALL = torch.ones(1, 1, 2)
TEACHER = torch.tensor([[[0.25, 0.75], [0.5, 0.5], [0.75, 0.25]]]).log()
STUDENT = torch.tensor([[[0.5, 0.5], [0.5, 0.5], [0.75, 0.25]]]).log()


def test_a_number_worked_out_by_hand() -> None:
    """KL of (1/4, 3/4) and (1/2, 1/2) is .130812, of (1/4, 3/4) and (3/4, 1/4) .549306."""
    row = class_relations(TEACHER, ALL)[0, 0]
    assert torch.allclose(row, torch.tensor([0, 0.231662, 0.972796]), atol=1e-5)
    assert relation_distance(STUDENT, TEACHER, ALL).item() == pytest.approx(0.104092, abs=1e-5)


def test_padding_is_no_cell() -> None:
    padded = torch.cat([STUDENT, torch.full((1, 3, 1), 50.0)], 2), torch.cat([TEACHER, TEACHER[..., :1]], 2)
    visible = torch.tensor([[[1.0, 1, 0]]])
    assert torch.allclose(relation_distance(*padded, visible), relation_distance(STUDENT, TEACHER, ALL))


@pytest.mark.parametrize("classes", [1, 3])
def test_equal_class_maps_have_a_finite_gradient(classes: int) -> None:
    student = torch.zeros(1, classes, 2, requires_grad=True)
    relation_distance(student, torch.randn(1, classes, 2), ALL).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_prototypes_give_maps_without_a_head() -> None:
    prototypes = Prototypes(torch.eye(2).repeat(2, 1)[:3], torch.zeros(3, 2), torch.tensor([0, 1, 1, 3]))
    means = class_means(prototypes.teacher, prototypes)
    assert torch.equal(means, torch.tensor([[1.0, 0], [0, 0], [0.5, 0.5]]))  # the second class has none
    maps = torch.tensor([[[[5.0, 0]], [[0, 3]]]])
    found = class_cosines(maps, means)
    assert torch.allclose(found, torch.tensor([[[1.0, 0], [0, 0], [0.5**0.5, 0.5**0.5]]]))


def test_two_stage_students_are_told_to_use_prototypes() -> None:
    listed = DistillConfig.model_validate({"losses": [{"name": "aicsd"}]})
    with pytest.raises(SpecError, match="prototypes"):
        settled_losses(listed.losses, "faster_rcnn", None)
    (fits,) = settled_losses(listed.losses, "fcos", None)
    assert fits == settled(listed.losses[0], "fcos")


def test_only_scores_ask_for_equal_heads() -> None:
    problem = Problem(loc=("distill",), message="other heads")
    listed = DistillConfig.model_validate({"losses": [{"name": "aicsd", "maps": "prototypes"}]})
    assert settled_losses(listed.losses, "faster_rcnn", problem)
    with pytest.raises(SpecError, match="other heads"):
        settled_losses(DistillConfig.model_validate({"losses": [{"name": "aicsd"}]}).losses, "fcos", problem)


def test_it_trains_nothing_of_its_own() -> None:
    assert not isinstance(AicsdLoss().modules(None), nn.Module)  # type: ignore[arg-type]
