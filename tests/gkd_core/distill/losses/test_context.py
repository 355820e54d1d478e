"""The protocol of losses: a fourth is one value, unused inputs are not computed, and mistakes are named."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gkd_core.config import DetectorConfig, DistillConfig
from gkd_core.detectors.build import build_detector
from gkd_core.distill import features
from gkd_core.distill.distiller import Distiller
from gkd_core.distill.losses import (
    DkdLoss,
    GlobalLoss,
    LocalLoss,
    Loss,
    LossContext,
    MseLoss,
    ResponseLoss,
    of_config,
)
from gkd_core.distill.prototypes import Prototypes
from gkd_core.errors import SpecError

FAMILIES = ("retinanet", "faster_rcnn", "fcos")
PICTURES = [torch.rand(3, 64, 64), torch.rand(3, 64, 48)]
TARGETS = [
    {"boxes": torch.tensor([[5.0, 5, 40, 40], [20, 20, 60, 60]]), "labels": torch.tensor([1, 2])},
    {"boxes": torch.tensor([[5.0, 5, 40, 30]]), "labels": torch.tensor([2])},
]


def detector(architecture: str, seed: int) -> Any:
    torch.manual_seed(seed)
    tiny = {"backbone_width": 0.125, "fpn": {"channels": 16}, "head": {"depth": 1}}
    return build_detector(DetectorConfig.model_validate({"architecture": architecture, **tiny}), 2, 64)


def a_distiller(architecture: str, losses: list[Loss] | None = None, **config: Any) -> Distiller:
    pair = detector(architecture, 0), detector(architecture, 1)
    plan = DistillConfig.model_validate(config)
    return Distiller(*pair, plan, torch.tensor([1, 2]), losses=losses).train()


def with_prototypes(distiller: Distiller) -> Distiller:
    torch.manual_seed(2)
    rows = [(torch.randn(4, 16), torch.randn(4, 16), torch.tensor([0, 2, 4])) for _ in distiller.strides]
    distiller.prototypes = [Prototypes(*level) for level in rows]
    return distiller


class PearsonLoss:
    """Cao et al. 2022 (PKD): maps agree up to the mean and the scale of each channel."""

    def __call__(self, context: LossContext) -> dict[str, Tensor]:
        pairs = zip(context.adapted, context.teacher_maps, strict=True)
        losses = [
            functional.mse_loss(self.standardised(student), self.standardised(teacher)) / 2
            for student, teacher in pairs
        ]
        return {"distill_pearson": context.attenuation * torch.stack(losses).sum()}

    @staticmethod
    def standardised(maps: Tensor) -> Tensor:
        rows = maps.transpose(0, 1).flatten(1)
        return (rows - rows.mean(1, keepdim=True)) / (rows.std(1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_fourth_loss_takes_part(architecture: str) -> None:
    distiller = with_prototypes(a_distiller(architecture, [GlobalLoss(0.5), PearsonLoss(), ResponseLoss()]))
    losses = distiller(PICTURES, TARGETS)
    sum(losses.values()).backward()
    named = [name for name in losses if name.startswith("distill_")]
    assert named == ["distill_global", "distill_pearson", "distill_response"]
    assert losses["distill_pearson"] > 0
    assert all(adapter.weight.grad.abs().sum() > 0 for adapter in distiller.adapters)


def test_a_fourth_loss_changes_no_other() -> None:
    three = with_prototypes(a_distiller("fcos"))
    four = with_prototypes(a_distiller("fcos", [*of_config(DistillConfig()), PearsonLoss()]))
    plain, more = three(PICTURES, TARGETS), four(PICTURES, TARGETS)
    assert {name: float(loss.detach()) for name, loss in plain.items()} == {
        name: float(loss.detach()) for name, loss in more.items() if name != "distill_pearson"
    }


def test_without_a_loss_that_asks_no_box_is_pooled_and_no_prototype_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(features, "pool_boxes_on_levels", lambda *_: pytest.fail("pooled"))
    assert "distill_pearson" in a_distiller("fcos", [PearsonLoss()])(PICTURES, TARGETS)


def test_boxes_are_pooled_once_for_all_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, calls = features.pool_boxes_on_levels, []
    monkeypatch.setattr(features, "pool_boxes_on_levels", lambda *a: calls.append(1) or pool(*a))
    with_prototypes(a_distiller("fcos"))(PICTURES, TARGETS)
    assert len(calls) == 1


def test_losses_of_a_config_are_those_that_one_can_name() -> None:
    assert of_config(DistillConfig()) == (GlobalLoss(), LocalLoss(), ResponseLoss())


def test_two_losses_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two losses are called distill_pearson"):
        a_distiller("fcos", [PearsonLoss(), PearsonLoss()])(PICTURES, TARGETS)


def test_a_loss_that_no_distiller_settled_says_so() -> None:
    with pytest.raises(ValueError, match="auto"):
        ResponseLoss()(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "field", "hint"),
    [
        (lambda: GlobalLoss(-1), "distill.global.weight", ""),
        (lambda: GlobalLoss(form="cosin"), "distill.global.form", "Did you mean `cosine`?"),  # type: ignore[arg-type]
        (lambda: LocalLoss(background=float("nan")), "distill.local.background", ""),
        (lambda: ResponseLoss(temperature=0), "distill.response.temperature", ""),
    ],
)
def test_a_wrong_value_names_its_field(make: Any, field: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        make()
    (problem,) = caught.value.problems
    assert ".".join(problem.loc) == field
    assert hint in problem.hint


def test_one_stage_heads_of_other_levels_are_not_compared() -> None:
    student, teacher = detector("fcos", 0), detector("fcos", 1)
    student.strides, student.anchor_generator = (8, 16, 32, 64), student.anchor_generator
    distiller = Distiller(student, teacher, DistillConfig(), torch.tensor([1, 2]))
    assert not any(isinstance(loss, ResponseLoss) for loss in distiller.losses)
    assert "strides" in distiller.remarks[0]


def test_a_weight_of_zero_takes_no_part() -> None:
    distiller = a_distiller("fcos", [GlobalLoss(0), LocalLoss(foreground=0, background=0), ResponseLoss(0)])
    assert not distiller.has_losses


def test_of_several_listed_losses_the_one_that_does_not_fit_is_named() -> None:
    with pytest.raises(SpecError, match="dkd: it fits faster_rcnn students") as caught:
        a_distiller("fcos", [GlobalLoss(0.5), MseLoss(), DkdLoss()])
    (problem,) = caught.value.problems
    assert problem.loc == ("distill", "losses", 1)  # of those that a spec lists
