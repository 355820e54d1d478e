"""Any teacher for any student: the values of every distilling loss for every pair, as a table.

The table is printed (`pytest -s`), and written to the file that GKD_PAIRS_TABLE names.
"""

import copy
import functools
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gkd_core.config import DetectorConfig, DistillConfig
from gkd_core.detectors.build import build_detector
from gkd_core.distill.distiller import Distiller
from gkd_core.distill.prototypes import Prototypes

SIZE = 96
PICTURES = [torch.rand(3, 96, 64, generator=torch.Generator().manual_seed(n)) for n in (0, 1)]
TARGETS = [
    {"boxes": torch.tensor([[10.0, 10, 60, 90], [20, 40, 44, 62]]), "labels": torch.tensor([1, 2])},
    {"boxes": torch.tensor([[5.0, 5, 50, 40]]), "labels": torch.tensor([3])},
]
CLASSES = ("cat", "dog", "owl")
FAMILIES = ("retinanet", "faster_rcnn", "fcos")
LOSSES = ("global", "foreground", "background", "response")
SAME = {family: (family, "resnet18") for family in FAMILIES}
PAIRS = [
    *product(SAME.values(), SAME.values()),
    (("fcos", "resnet50"), ("fcos", "resnet18")),
    (("retinanet", "resnet18"), ("fcos", "mobilenet_v3_small")),
    (("faster_rcnn", "resnet34"), ("faster_rcnn", "efficientnet_b0")),
]
"""Architecture and backbone of the teacher, then of the student."""
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "reference": {"conventions": "reference"},
    "positives": {"instances": "positives"},
    "paper": {"instances": "positives", "global": {"form": "projection"}},
    "all alike": {part: {"robust": False} for part in ("global", "local", "response")},
}


@pytest.fixture(scope="module")
def table() -> Iterator[list[list[str]]]:
    rows: list[list[str]] = []
    yield rows
    text = "\n".join(f"| {' | '.join(row)} |" for row in [*header(), *rows])
    print(f"\n{text}")
    if file := os.environ.get("GKD_PAIRS_TABLE"):
        Path(file).write_text(text + "\n")


def header() -> list[list[str]]:
    named = ["teacher", "student", *(f"{loss}, gradient" for loss in LOSSES)]
    return [named, ["---"] * len(named)]


@functools.cache
def built(architecture: str, backbone: str, channels: int, seed: int) -> Any:
    """Return a small detector whose batch norms have seen pictures."""
    torch.manual_seed(seed)
    width = 0.25 if backbone.startswith("resnet") else 1
    parts = {"fpn": {"channels": channels}, "head": {"depth": 1}, "backbone_width": width}
    config = {"architecture": architecture, "backbone": backbone, **parts}
    detector = build_detector(DetectorConfig.model_validate(config), len(CLASSES), SIZE)
    detector.train()(PICTURES, TARGETS)
    return detector


def joined(student: Any, teacher: Any, columns: Tensor, **changes: Any) -> Distiller:
    """Return a distiller with five prototypes drawn at random, none of the class in the middle."""
    distiller = Distiller(student, teacher, DistillConfig.model_validate(changes), columns)
    generator = torch.Generator().manual_seed(0)

    def draw(detector: Any) -> Tensor:
        return torch.randn(5, detector.backbone.out_channels, generator=generator)

    starts = torch.tensor([0, 3, 3, 5])
    distiller.prototypes = [Prototypes(draw(teacher), draw(student), starts) for _ in distiller.strides]
    return distiller.train()


def distilling(distiller: Distiller) -> dict[str, Tensor]:
    torch.manual_seed(0)  # Faster R-CNN samples its proposals at random
    losses = distiller(PICTURES, TARGETS, 1.0)
    return {name[8:]: loss for name, loss in losses.items() if name.startswith("distill_")}


def gradient(loss: Tensor, detector: Any) -> float:
    """Return the norm of the gradient at the first layer of the backbone."""
    first = next(detector.backbone.body.parameters())
    (found,) = torch.autograd.grad(loss, first, retain_graph=True)
    return float(found.norm())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("of_teacher", "of_student"), PAIRS, ids="-".join)
def test_every_loss_of_every_pair_reaches_the_students_backbone_and_spares_the_teacher(
    of_teacher: tuple[str, str], of_student: tuple[str, str], variant: str, table: list[list[str]]
) -> None:
    teacher = copy.deepcopy(built(*of_teacher, 24, 0))
    student = copy.deepcopy(built(*of_student, 16, 1))
    before = copy.deepcopy(teacher.state_dict())
    distiller = joined(student, teacher, torch.tensor([2, 3, 1]), **VARIANTS[variant])
    losses = distilling(distiller)

    assert list(losses) == list(LOSSES[: 4 if of_teacher[0] == of_student[0] else 3])
    cells = {}
    for name, loss in losses.items():
        reached = gradient(loss, student)
        assert torch.isfinite(loss), name
        assert loss > 1e-6, name
        assert 1e-9 < reached < float("inf"), name
        cells[name] = f"{float(loss.detach()):.2g}, {reached:.2g}"
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    if variant == "default":
        table.append(
            [" on ".join(of_teacher), " on ".join(of_student), *(cells.get(n, "left out") for n in LOSSES)]
        )


def as_its_own_student(teacher: Any, columns: Tensor, variant: str) -> Distiller:
    """Return a distiller whose student is a copy of the teacher, behind identity adapters.

    Its batch norms use the teacher's statistics.
    """
    distiller = joined(copy.deepcopy(teacher), teacher, columns, **VARIANTS[variant])
    distiller.prototypes = [level._replace(student=level.teacher) for level in distiller.prototypes]
    for adapter in distiller.adapters:
        nn.init.dirac_(adapter.weight)
        nn.init.zeros_(adapter.bias)
    for module in distiller.student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return distiller


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_that_is_its_own_student_has_nothing_to_teach(family: str, variant: str) -> None:
    teacher = copy.deepcopy(built(family, "resnet18", 16, 0))
    losses = distilling(as_its_own_student(teacher, torch.tensor([1, 2, 3]), variant))
    assert list(losses) == list(LOSSES)
    for name, loss in losses.items():
        assert abs(float(loss.detach())) < 1e-6, name


# ---- what teacher and student do not share -----------------------------------------------------------------


def test_each_sees_the_pictures_normalised_in_its_own_way() -> None:
    teacher = copy.deepcopy(built("retinanet", "resnet18", 24, 0))
    for name, values in (("mean", [0.1, 0.2, 0.3]), ("std", [1.0, 2.0, 4.0])):
        setattr(teacher.transform, name, torch.tensor(values)[:, None, None])
    student = copy.deepcopy(built("fcos", "resnet18", 16, 1))
    seen: dict[str, Tensor] = {}
    for name, detector in (("teacher", teacher), ("student", student)):
        detector.backbone.register_forward_pre_hook(
            lambda _module, inputs, name=name: seen.__setitem__(name, inputs[0])
        )
    distilling(joined(student, teacher, torch.tensor([1, 2, 3])))
    for name, mean, std in (
        ("teacher", [0.1, 0.2, 0.3], [1.0, 2.0, 4.0]),
        ("student", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ):
        expected = torch.stack(
            [(p - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None] for p in PICTURES]
        )
        assert torch.allclose(seen[name], expected, atol=1e-6), name
