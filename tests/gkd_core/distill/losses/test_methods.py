"""What every listed loss promises, whatever its formula; the formulas' own numbers stand in the file of each."""

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from gkd_core.config import AnyLoss, Architecture, DetectorConfig, DistillConfig
from gkd_core.detectors.build import build_detector
from gkd_core.detectors.detector import as_module
from gkd_core.distill.distiller import Distiller
from gkd_core.distill.losses import METHODS, LossContext, MethodLoss
from gkd_core.distill.prototypes import Prototypes

FOLDER = Path(__file__).parents[4] / "gkd_core" / "distill" / "losses"
DOCS = FOLDER.parents[2] / "docs" / "losses.md"
PICTURES = [
    torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0)),
    torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1)),
]
TARGETS = [
    {"boxes": torch.tensor([[5.0, 5, 50, 50], [20, 20, 70, 90]]), "labels": torch.tensor([1, 2])},
    {"boxes": torch.tensor([[5.0, 5, 60, 40]]), "labels": torch.tensor([2])},
]
EMPTY = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}] * 2

TEACHER_IS_STUDENT: dict[str, str] = {
    "yolo_attention": "its adapter is drawn at random",
    "ibfi": "its adapter is drawn at random",
    "fgfi": "its adapter is drawn at random",
    "maskd": "its adapter is drawn at random",
    "mgd": "its convolutions are drawn at random",
    "mse": "its adapter is drawn at random",
}
"""Losses that are not 0 between a detector and its copy, and why."""
MIXES_PICTURES: dict[str, str] = {
    "gid": "distances are compared between all objects of a batch",
    "mgd": "the second picture of a batch draws another mask than the first",
}
"""Losses of a batch that are not the mean of those of its pictures, and why."""


def detector(architecture: str, seed: int, channels: int = 16) -> Any:
    torch.manual_seed(seed)
    tiny = {"backbone_width": 0.125, "fpn": {"channels": channels}, "head": {"depth": 1}}
    config = DetectorConfig.model_validate({"architecture": architecture, **tiny})
    return build_detector(config, 2, 96)


def a_distiller(student: Any, teacher: Any, name: str) -> Distiller:
    torch.manual_seed(2)
    distiller = Distiller(student, teacher, DistillConfig(), torch.tensor([1, 2]), losses=[METHODS[name]()])
    channels = teacher.backbone.out_channels, student.backbone.out_channels
    distiller.prototypes = [
        Prototypes(torch.randn(4, channels[0]), torch.randn(4, channels[1]), torch.tensor([0, 2, 4]))
        for _ in distiller.strides
    ]
    return distiller.train()


def families(name: str) -> tuple[str, ...]:
    known: tuple[Any, ...] = get_args(Architecture)
    return tuple(family for family in known if METHODS[name]().config.misfit(family) is None)


def distilled(distiller: Distiller, pictures: Any = PICTURES, targets: Any = TARGETS) -> Tensor:
    """Return the sum of what a step distils."""
    torch.manual_seed(3)
    losses = distiller(pictures, targets)
    return sum(loss for name, loss in losses.items() if name.startswith("distill_"))


EVERY = pytest.mark.parametrize("name", METHODS)
EVERY_PAIR = pytest.mark.parametrize(
    ("name", "architecture"), [(name, family) for name in METHODS for family in families(name)]
)


def test_every_config_has_its_loss_and_its_file() -> None:
    configs = {each.model_fields["name"].default for each in get_args(get_args(AnyLoss)[0]) or [AnyLoss]}
    assert configs == METHODS.keys()
    for name, loss in METHODS.items():
        assert loss.config_class.model_fields["name"].default == name
        assert (FOLDER / f"{name}.py").exists()
        assert f"| `{name}` |" in DOCS.read_text()


@EVERY_PAIR
def test_it_is_finite_and_teaches_the_backbone_of_the_student_alone(name: str, architecture: str) -> None:
    student, teacher = detector(architecture, 0, 16), detector(architecture, 1, 24)
    distiller = a_distiller(student, teacher, name)
    loss = distilled(distiller)
    assert 0 < loss < float("inf")
    before = {key: value.clone() for key, value in as_module(teacher).state_dict().items()}
    loss.backward()
    assert (
        sum(float(each.grad.abs().sum()) for each in student.backbone.parameters() if each.grad is not None)
        > 0
    )
    assert all(each.grad is None for each in as_module(teacher).parameters())
    assert all(torch.equal(value, before[key]) for key, value in as_module(teacher).state_dict().items())
    gradients = [each.grad for each in distiller.loss_modules.parameters() if each.grad is not None]
    assert all(each.isfinite().all() for each in gradients)


@EVERY
def test_a_copy_of_the_teacher_has_nothing_to_learn(name: str) -> None:
    architecture = families(name)[0]
    teacher = detector(architecture, 1)
    teacher.eval()
    distiller = a_distiller(copy.deepcopy(teacher), teacher, name)
    as_module(distiller.student).train = lambda mode=True: distiller.student  # type: ignore[method-assign]
    for module in as_module(distiller.student).modules():
        module.training &= not isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    loss = float(distilled(distiller).detach())
    assert (loss > 1e-4) == (name in TEACHER_IS_STUDENT), TEACHER_IS_STUDENT.get(name)


@EVERY
def test_pictures_without_objects_are_no_fault(name: str) -> None:
    for architecture in families(name)[:2]:
        distiller = a_distiller(detector(architecture, 0), detector(architecture, 1), name)
        loss = distilled(distiller, targets=EMPTY)
        assert 0 <= loss < float("inf")
        if loss.requires_grad:
            loss.backward()
            gradients = [each.grad for each in distiller.parameters() if each.grad is not None]
            assert all(each.isfinite().all() for each in gradients)


@EVERY
def test_a_batch_costs_the_mean_of_its_pictures(name: str) -> None:
    """So that two processes train as one, and neither other pictures nor padding change what a picture adds."""
    architecture = families(name)[-1]
    distiller = a_distiller(detector(architecture, 0), detector(architecture, 1), name)
    context, _ = distiller.look(PICTURES, TARGETS, 1.0)
    whole = found_in(distiller, context)
    alone = [found_in(distiller, only(context, each)) for each in range(2)]
    close = bool(torch.isclose(whole, torch.stack(alone).mean(), rtol=1e-4))
    assert close == (name not in MIXES_PICTURES), MIXES_PICTURES.get(name)


def found_in(distiller: Distiller, context: LossContext) -> Tensor:
    """Return the loss, and leave its modules as they were: a loss that draws would draw anew the next time."""
    state = copy.deepcopy(distiller.loss_modules.state_dict())
    found = torch.stack(list(distiller.losses[0](context).values())).sum().detach()
    distiller.loss_modules.load_state_dict(state)
    return found


@EVERY
def test_it_fades_with_the_training_only_if_asked_for(name: str) -> None:
    architecture = families(name)[-1]
    distiller = a_distiller(detector(architecture, 0), detector(architecture, 1), name)
    context, _ = distiller.look(PICTURES, TARGETS, 0.25)
    steady = found_in(distiller, context)
    distiller.losses = (METHODS[name](weight=distiller.losses[0].config.weight, attenuated=True),)
    assert torch.isclose(found_in(distiller, context), steady / 4)


@EVERY
def test_cells_of_padding_count_nowhere(name: str) -> None:
    distiller = a_distiller(detector(families(name)[-1], 0), detector(families(name)[-1], 1), name)
    context, _ = distiller.look(PICTURES, TARGETS, 1.0)
    before = found_in(distiller, context)
    noise = torch.Generator().manual_seed(4)
    for maps in (context.student_maps, context.teacher_maps):
        for level, visible in enumerate(context.visible):
            other = torch.randn(maps[level].shape, generator=noise) * 100
            maps[level] = torch.where(visible > 0, maps[level], other)
    assert any((visible == 0).any() for visible in context.visible)
    for cached in ("adapted", "pooled", "heads"):
        vars(context).pop(cached, None)
    if not hasattr(context.student, "roi_heads"):
        shout_in_padding(context.heads, noise)
    assert torch.isclose(found_in(distiller, context), before, rtol=1e-4)


def shout_in_padding(heads: Any, noise: torch.Generator) -> None:
    """Replace what both heads say at places of padding, all of it computed before."""
    for name in ("student_scores", "teacher_scores", "student_boxes", "teacher_boxes"):
        values = getattr(heads, name)
        other = torch.randn(values.shape, generator=noise) * 100
        vars(heads)[name] = torch.where(heads.visible[..., None] > 0, values, other)


@EVERY
def test_half_precision_around_it_changes_little(name: str) -> None:
    distiller = a_distiller(detector(families(name)[0], 0), detector(families(name)[0], 1), name)
    state = copy.deepcopy(distiller.loss_modules.state_dict())
    full = distilled(distiller)
    distiller.loss_modules.load_state_dict(state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = distilled(distiller)
    assert half.dtype == torch.float32
    assert float(half.detach()) == pytest.approx(float(full.detach()), rel=0.15, abs=1e-3)


@EVERY
def test_its_trainable_parts_go_on_from_their_state(name: str) -> None:
    pair = detector(families(name)[0], 0), detector(families(name)[0], 1)
    first = a_distiller(*pair, name)
    distilled(first)
    second = a_distiller(copy.deepcopy(pair[0]), pair[1], name)
    with torch.no_grad():
        for each in second.loss_modules.parameters():
            each.add_(1.0)
    second.load_state_dict(first.state_dict())
    assert torch.equal(distilled(first), distilled(second))


def only(context: LossContext, picture: int) -> LossContext:
    """Return the context of one picture of a batch, padded as it was there."""
    kept = slice(picture, picture + 1)
    values = {name: getattr(context, name) for name in context.__dataclass_fields__}
    for name in ("targets", "student_maps", "teacher_maps", "teacher_pyramid", "sizes"):
        values[name] = values[name][kept] if name in ("targets", "sizes") else [m[kept] for m in values[name]]
    if isinstance(context.student_scores, dict):
        values["student_scores"] = {key: value[kept] for key, value in context.student_scores.items()}
        return remembered(LossContext(**values), context.student.head, ("matched", "anchors"), kept)
    alone = LossContext(**values)
    scores = [context.rois.of_pictures(each)[picture] for each in context.student_scores]
    alone.student_scores = tuple(scores)
    vars(alone.rois)["sampled"] = (
        context.rois.sampled[0][kept],
        context.rois.of_pictures(context.rois.labels)[picture],
    )
    return alone


def remembered(alone: LossContext, head: Any, names: tuple[str, ...], kept: slice) -> LossContext:
    """Return the context after it has looked at what the head remembers of its picture."""
    before = {name: getattr(head, name) for name in names}
    for name in names:
        setattr(head, name, before[name][kept])
    for name in ("matched", "teacher_scores", "student_boxes", "teacher_boxes"):
        getattr(alone.heads, name)
    alone.positives  # noqa: B018
    for name in names:
        setattr(head, name, before[name])
    return alone


def test_a_method_is_a_value_with_settings() -> None:
    loss: MethodLoss[Any] = METHODS["pkd"](weight=2, levels=3)
    assert (loss.name, loss.config.weight, loss.active) == ("pkd", 2, True)
    assert not METHODS["pkd"](weight=0).active
