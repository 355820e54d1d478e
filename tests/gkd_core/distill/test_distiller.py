"""The Distiller: the inputs of its losses, and zero where there is nothing to learn. Pairs: `test_pairs.py`."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gkd_core.config import RESPONSE_WEIGHT, DetectorConfig, DistillConfig, finest_anchor
from gkd_core.detectors.build import build_detector, pyramid
from gkd_core.distill.distiller import Distiller
from gkd_core.distill.features import pool_boxes
from gkd_core.distill.instances import Pooled
from gkd_core.distill.losses import ResponseLoss, positions
from gkd_core.distill.positives import outputs_of, scores_of_places
from gkd_core.distill.prototypes import Prototypes
from gkd_core.errors import SpecError

FAMILIES = ("retinanet", "faster_rcnn", "fcos")
PICTURES = [torch.rand(3, 128, 96), torch.rand(3, 96, 128)]
TARGETS = [
    {"boxes": torch.tensor([[10.0, 10, 60, 70], [30, 40, 90, 90]]), "labels": torch.tensor([1, 2])},
    {"boxes": torch.tensor([[5.0, 5, 50, 40]]), "labels": torch.tensor([2])},
]
EMPTY = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}] * 2
IN_ORDER = torch.tensor([1, 2])


def detector(architecture: str, channels: int, seed: int) -> Any:
    torch.manual_seed(seed)
    config = {"architecture": architecture, "fpn": {"channels": channels}, "head": {"depth": 1}}
    built = build_detector(DetectorConfig.model_validate(config), 2, 128)
    built.train()(
        PICTURES, TARGETS
    )  # statistics of the batch norms, so that evaluation mode gives sane features
    return built


def with_random_prototypes(distiller: Distiller, seed: int = 0) -> Distiller:
    torch.manual_seed(seed)
    channels = [model.backbone.out_channels for model in (distiller.teacher, distiller.student)]
    starts = torch.tensor([0, 3, 5])
    distiller.prototypes = [
        Prototypes(torch.randn(5, channels[0]), torch.randn(5, channels[1]), starts)
        for _ in distiller.strides
    ]
    return distiller.train()


def distilling(losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: loss for name, loss in losses.items() if name.startswith("distill_")}


@pytest.mark.parametrize("architecture", FAMILIES)
def test_pictures_without_objects_teach_only_background(architecture: str) -> None:
    pair = (detector(architecture, 16, 0), detector(architecture, 16, 1))
    distiller = with_random_prototypes(Distiller(*pair, DistillConfig(), IN_ORDER))
    losses = distilling(distiller(PICTURES, EMPTY, 1.0))
    assert losses.pop("distill_background") > 0
    assert all(float(loss.detach()) == 0 for loss in losses.values())


def test_attenuation_touches_global_and_local_losses_alone() -> None:
    distiller = with_random_prototypes(
        Distiller(detector("fcos", 16, 0), detector("fcos", 16, 1), DistillConfig(), IN_ORDER)
    )
    full, none = (distilling(distiller(PICTURES, TARGETS, factor)) for factor in (1.0, 0.0))
    assert [name for name, loss in none.items() if loss == 0] == [
        "distill_global",
        "distill_foreground",
        "distill_background",
    ]
    assert none["distill_response"] == full["distill_response"] > 0


def test_scores_are_matched_by_class_and_not_by_position() -> None:
    teacher = detector("fcos", 16, 0)
    swapped = copy.deepcopy(teacher)
    scores = swapped.head.classification_head.cls_logits
    with torch.no_grad():
        scores.weight[[1, 2]] = scores.weight[[2, 1]]
        scores.bias[[1, 2]] = scores.bias[[2, 1]]
    losses = []
    for model, columns in ((teacher, IN_ORDER), (swapped, IN_ORDER.flip(0))):
        distiller = with_random_prototypes(
            Distiller(detector("fcos", 16, 1), model, DistillConfig(), columns)
        )
        losses.append(float(distiller(PICTURES, TARGETS, 1.0)["distill_response"].detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_weight_of_zero_leaves_its_loss_out() -> None:
    config = DistillConfig.model_validate({"global": {"weight": 0}, "local": {"weight": 0}})
    distiller = with_random_prototypes(
        Distiller(detector("fcos", 16, 0), detector("fcos", 16, 1), config, IN_ORDER)
    )
    assert list(distilling(distiller(PICTURES, TARGETS, 1.0))) == ["distill_response"]


def test_of_the_local_loss_each_part_can_be_left_out() -> None:
    config = DistillConfig.model_validate({"global": {"weight": 0}, "local": {"foreground": 0}})
    distiller = with_random_prototypes(
        Distiller(detector("fcos", 16, 0), detector("fcos", 16, 1), config, IN_ORDER)
    )
    assert list(distilling(distiller(PICTURES, TARGETS, 1.0))) == ["distill_background", "distill_response"]


def test_the_local_loss_does_not_depend_on_the_size_of_the_teachers_features() -> None:
    teacher = detector("fcos", 16, 0)
    louder = copy.deepcopy(teacher)
    with torch.no_grad():
        for block in louder.backbone.fpn.layer_blocks:
            block[1].weight.mul_(10)
            block[1].bias.mul_(10)
        for level in (louder.backbone.fpn.extra_blocks.p6, louder.backbone.fpn.extra_blocks.p7):
            level.bias.mul_(10)
    zeros = []
    config = DistillConfig.model_validate({"local": {"weight": 1, "background": 4}})
    for model in (teacher, louder):
        distiller = with_random_prototypes(Distiller(detector("fcos", 16, 1), model, config, IN_ORDER))
        for adapter in distiller.adapters:
            nn.init.zeros_(adapter.weight)
            nn.init.zeros_(adapter.bias)
        losses = distiller(PICTURES, EMPTY, 1.0)
        zeros.append(float(losses["distill_background"].detach()))
    assert zeros[0] == pytest.approx(zeros[1], rel=1e-4)
    assert zeros[0] == pytest.approx(0.5 * 4 * 5, rel=1e-4)  # half, times its weight, on five levels


def test_adapters_train_and_the_teacher_is_no_part_of_the_state() -> None:
    distiller = Distiller(detector("fcos", 16, 0), detector("fcos", 24, 1), DistillConfig(), IN_ORDER)
    names = list(distiller.state_dict())
    assert {name.split(".")[0] for name in names} == {"student", "adapters"}
    assert distiller.adapters[0].weight.shape == (24, 16, 3, 3)


def test_a_distiller_that_is_moved_takes_teacher_and_prototypes_along() -> None:
    distiller = with_random_prototypes(
        Distiller(detector("retinanet", 16, 0), detector("retinanet", 24, 1), DistillConfig(), IN_ORDER)
    )
    moved = distiller.to("meta")
    on = [*moved.teacher.state_dict().values(), *(tensor for level in moved.prototypes for tensor in level)]
    assert {tensor.device.type for tensor in on} == {"meta"}
    assert not any(name.startswith("_teacher") or name.startswith("teacher.") for name in moved.state_dict())
    assert not any(parameter.requires_grad for parameter in moved.teacher.parameters())


def test_a_step_before_prototypes_were_chosen_says_what_to_call() -> None:
    distiller = Distiller(
        detector("retinanet", 16, 0), detector("retinanet", 16, 1), DistillConfig(), IN_ORDER
    )
    with pytest.raises(
        RuntimeError, match=r"no prototypes yet.*update_prototypes.*instance_pool.*choose_prototypes"
    ):
        distiller(PICTURES, TARGETS, 1.0)


def test_levels_are_matched_by_stride() -> None:
    config = DistillConfig.model_validate({"response": {"weight": 0}})
    distiller = Distiller(detector("fcos", 16, 0), detector("faster_rcnn", 16, 1), config, IN_ORDER)
    assert distiller.strides == (8, 16, 32, 64)
    assert distiller.student_levels == [0, 1, 2, 3]
    assert distiller.teacher_levels == [1, 2, 3, 4]


def test_of_two_maps_of_a_stride_the_first_is_matched_with_the_first() -> None:
    pair = (detector("faster_rcnn", 16, 0), detector("faster_rcnn", 16, 1))
    for either, strides in zip(pair, ((32, 32, 64), (16, 32, 32, 64)), strict=True):
        either.strides = strides  # torchvision's MobileNet has the first
    distiller = Distiller(*pair, DistillConfig(), IN_ORDER)
    assert distiller.strides == (32, 64)
    assert distiller.student_levels == [0, 2]
    assert distiller.teacher_levels == [1, 3]


ASKED = DistillConfig.model_validate({"response": {"weight": 1.0}})


def test_scores_of_unlike_heads_are_refused_with_the_field_when_asked_for() -> None:
    with pytest.raises(
        SpecError, match=r"distill\.response\.weight: .* retinanet student and a fcos teacher"
    ):
        Distiller(detector("retinanet", 16, 0), detector("fcos", 16, 1), ASKED, IN_ORDER)


def test_left_to_itself_the_response_loss_of_unlike_heads_stays_out_and_says_so() -> None:
    pair = (detector("retinanet", 16, 0), detector("fcos", 16, 1))
    distiller = with_random_prototypes(Distiller(*pair, DistillConfig(), IN_ORDER))
    assert "distill_response" not in distiller(PICTURES, TARGETS, 1.0)
    (remark,) = distiller.remarks
    assert "retinanet student and a fcos teacher" in remark


def test_left_to_itself_the_response_loss_of_like_heads_has_its_weight() -> None:
    distiller = Distiller(detector("fcos", 16, 0), detector("fcos", 24, 1), DistillConfig(), IN_ORDER)
    assert [each for each in distiller.losses if isinstance(each, ResponseLoss)] == [
        ResponseLoss(RESPONSE_WEIGHT)
    ]
    assert not distiller.remarks


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_response_row_weighs_what_its_own_instance_does(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    distiller = with_random_prototypes(
        Distiller(detector(architecture, 16, 0), detector(architecture, 16, 1), DistillConfig(), IN_ORDER)
    )
    rows: list[torch.Tensor] = []
    for name in ("response_sigmoid", "response_softmax"):
        monkeypatch.setattr(
            f"gkd_core.distill.losses.response.{name}",
            lambda s, t, weights, _: rows.append(weights) or s.sum() * 0,
        )
    monkeypatch.setattr(  # the instance of index i weighs i, plus ten times the level
        "gkd_core.distill.losses.context.robustness",
        lambda places, labels, prototypes: (
            torch.arange(len(labels)) + 10.0 * torch.arange(len(places.student))[:, None]
        ),
    )
    distiller(PICTURES, TARGETS, 1.0)
    assert rows[0].tolist() == expected_rows(distiller.student)


def expected_rows(student: Any) -> list[float]:
    """Return by a plain loop, for each row of the compared scores, its instance plus ten times its level."""
    found = []
    if hasattr(student, "roi_heads"):
        _, matched, labels = student.roi_heads.sampled
        boxes = torch.cat([target["boxes"] for target in TARGETS])
        for picture in range(2):
            for index, label in zip(matched[picture].tolist(), labels[picture].tolist(), strict=True):
                owner = index + (2 if picture else 0)
                side = float((boxes[owner, 2:] - boxes[owner, :2]).prod().sqrt())
                level = sum(side >= 2 * 14 * stride for stride in student.strides[:-1])
                found += [owner + 10.0 * level] if label > 0 else []
        return found
    per_cell = student.anchor_generator.num_anchors_per_location()[0]
    cells = [(128 // stride) ** 2 for stride in student.strides]
    levels = [level for level, count in enumerate(cells) for _ in range(count * per_cell)]
    for picture in range(2):
        for anchor, index in enumerate(student.head.matched[picture].tolist()):
            found += [index + (2 if picture else 0) + 10.0 * levels[anchor]] if index >= 0 else []
    return found


@pytest.mark.parametrize("architecture", FAMILIES)
def test_in_bfloat16_boxes_and_scores_stay_exact(architecture: str) -> None:
    distiller = with_random_prototypes(
        Distiller(detector(architecture, 16, 0), detector(architecture, 16, 1), DistillConfig(), IN_ORDER)
    )
    with torch.autocast("cpu", torch.bfloat16):
        losses = distiller(PICTURES, TARGETS, 1.0)
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
    if architecture == "faster_rcnn":
        assert all(boxes.dtype == torch.float32 for boxes in distiller.student.roi_heads.sampled[0])
        truth = TARGETS[0]["boxes"]
        assert all(
            any(torch.equal(box, row) for row in distiller.student.roi_heads.sampled[0][0]) for box in truth
        )


def retinanets(*sizes: int) -> list[Any]:
    config = DetectorConfig.model_validate({"architecture": "retinanet", "fpn": {"channels": 16}})
    return [build_detector(config, 2, size) for size in sizes]


def test_anchors_of_unlike_size_are_not_compared() -> None:
    small, large = retinanets(128, 800)
    with pytest.raises(SpecError, match=r"train\.image_size: the finest anchors .* 32 and 16 pixels"):
        Distiller(small, large, ASKED, IN_ORDER)
    distiller = Distiller(small, large, DistillConfig(), IN_ORDER)
    assert not any(isinstance(each, ResponseLoss) for each in distiller.losses)
    assert "finest anchors" in distiller.remarks[0]


@pytest.mark.parametrize("size", [128, 416, 640, 1024])
def test_anchors_are_known_without_building_the_detector(size: int) -> None:
    (built,) = retinanets(size)
    assert built.anchor_generator.sizes[0][0] == finest_anchor("gkd", size)


def test_prototypes_come_from_the_statistics_of_training_and_leave_the_student_untouched() -> None:
    student = build_detector(DetectorConfig(fpn={"channels": 16}, head={"depth": 1}), 2, 128)
    before = copy.deepcopy(student.state_dict())
    distiller = Distiller(student, detector("fcos", 16, 0), DistillConfig(), IN_ORDER)
    pool = distiller.instance_pool()
    assert {type(module) for module in pool.student.modules() if module.training} == {nn.BatchNorm2d}
    pyramid(pool.student, PICTURES)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert not any(
        module.training for module in distiller.instance_pool(statistics="running").student.modules()
    )


def test_pooling_for_prototypes_draws_no_random_number() -> None:
    config = {
        "backbone": "efficientnet_b0",
        "backbone_width": 0.25,
        "fpn": {"channels": 16},
        "head": {"depth": 1},
    }
    student = build_detector(DetectorConfig.model_validate(config), 2, 128)
    distiller = Distiller(student, detector("fcos", 16, 0), DistillConfig(), IN_ORDER)
    before = torch.get_rng_state()
    pyramid(distiller.instance_pool().student, PICTURES)
    assert torch.equal(torch.get_rng_state(), before)


# ---- scores that mean another thing ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torchvisions_fcos() -> Any:
    torch.manual_seed(0)
    return build_detector(
        DetectorConfig(architecture="fcos", backbone="resnet50", layout="torchvision"), 2, 128
    )


def test_centre_ness_belongs_to_the_score_of_torchvisions_fcos(
    torchvisions_fcos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[torch.Tensor] = []
    monkeypatch.setattr(
        "gkd_core.distill.losses.response.response_sigmoid",
        lambda s, t, *_: compared.append(t) or s.sum() * 0,
    )
    student = detector("fcos", 16, 1)
    distiller = with_random_prototypes(Distiller(student, torchvisions_fcos, DistillConfig(), IN_ORDER))
    distiller(PICTURES, TARGETS, 1.0)
    with torch.no_grad():
        said = torchvisions_fcos.head(pyramid(torchvisions_fcos, PICTURES)[0])
    at = torch.stack(student.head.matched) >= 0
    expected = (said["cls_logits"].sigmoid() * said["bbox_ctrness"].sigmoid()).sqrt()[at][:, 1:]
    assert torch.allclose(compared[0].sigmoid(), expected, atol=1e-6)


def test_two_heads_with_centre_ness_are_compared_by_class_alone(
    torchvisions_fcos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def remember(outputs: dict[str, torch.Tensor], ranked: bool) -> torch.Tensor:
        asked.append(ranked)
        return scores_of_places(outputs, ranked)

    monkeypatch.setattr("gkd_core.distill.losses.response.scores_of_places", remember)
    pair = (copy.deepcopy(torchvisions_fcos), torchvisions_fcos)
    with_random_prototypes(Distiller(*pair, DistillConfig(), IN_ORDER))(PICTURES, TARGETS, 1.0)
    assert asked == [False, False]
    both = {"cls_logits": torch.randn(1, 4, 3), "bbox_ctrness": torch.randn(1, 4, 1)}
    assert scores_of_places(both, ranked=False) is both["cls_logits"]


def test_scores_near_one_stay_finite() -> None:
    sure = {"cls_logits": torch.full((1, 1, 2), 500.0), "bbox_ctrness": torch.full((1, 1, 1), 500.0)}
    assert scores_of_places(sure, ranked=True).isfinite().all()


# ---- which instances, and how they weigh ---------------------------------------------------------------------


def compared_globally(architecture: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    """Return the inputs of the global loss on the finest level when positives are its instances, and the distiller."""
    config = DistillConfig.model_validate({"instances": "positives", **changes})
    distiller = with_random_prototypes(
        Distiller(detector(architecture, 16, 0), detector(architecture, 16, 1), config, IN_ORDER)
    )
    got: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "gkd_core.distill.losses.global_knowledge.positions",
        lambda s, t, known: got.append({"student": s[0], "teacher": t[0]}) or positions(s, t, known),
    )
    with outputs_of(distiller.student.backbone) as maps:
        distiller(PICTURES, TARGETS, 1.0)
    (of_positives,) = got
    return {**of_positives, "distiller": distiller, "map": maps[0][next(iter(maps[0]))]}


def test_positive_proposals_are_pooled_in_their_own_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compared_globally("faster_rcnn", monkeypatch)
    proposals, _, labels = found["distiller"].student.roi_heads.sampled
    expected = [
        pool_boxes(found["map"], box[None], torch.tensor([picture]), 4)
        for picture in range(2)
        for box, label in zip(proposals[picture], labels[picture], strict=True)
        if label > 0
    ]
    assert torch.allclose(found["student"], torch.cat(expected), atol=1e-5)


def test_matched_anchors_are_pooled_in_their_own_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compared_globally("retinanet", monkeypatch)
    head = found["distiller"].student.head
    expected = [
        pool_boxes(found["map"], box[None], torch.tensor([picture]), 8)
        for picture in range(2)
        for box, matched in zip(head.anchors[picture], head.matched[picture], strict=True)
        if matched >= 0
    ]
    assert torch.allclose(found["student"], torch.cat(expected), atol=1e-5)


def test_an_object_comes_once_for_each_location_of_fcos(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compared_globally("fcos", monkeypatch)
    matched = found["distiller"].student.head.matched
    boxes = [TARGETS[picture]["boxes"][matched[picture][matched[picture] >= 0]] for picture in range(2)]
    where = torch.repeat_interleave(torch.arange(2), torch.tensor([len(part) for part in boxes]))
    assert len(where) > 3
    assert torch.allclose(found["student"], pool_boxes(found["map"], torch.cat(boxes), where, 8), atol=1e-5)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_pictures_without_objects_have_no_positives_either(architecture: str) -> None:
    config = DistillConfig(instances="positives")
    pair = (detector(architecture, 16, 0), detector(architecture, 16, 1))
    distiller = with_random_prototypes(Distiller(*pair, config, IN_ORDER))
    loss = distilling(distiller(PICTURES, EMPTY, 1.0))["distill_global"]
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize("part", ["global", "local", "response"])
def test_each_loss_can_weigh_all_instances_alike(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all instances disagree: only losses that ignore robustness are left."""
    monkeypatch.setattr(
        "gkd_core.distill.losses.context.robustness",
        lambda places, labels, p: torch.zeros_like(places.student[..., 0]),
    )
    config = DistillConfig.model_validate({part: {"robust": False}})
    distiller = with_random_prototypes(
        Distiller(detector("fcos", 16, 0), detector("fcos", 16, 1), config, IN_ORDER)
    )
    losses = distilling(distiller(PICTURES, TARGETS, 1.0))
    felt = {
        "global": losses["distill_global"] > 0,
        "local": losses["distill_foreground"] > 1e-3,
        "response": losses["distill_response"] > 0,
    }
    assert [name for name, feels in felt.items() if feels] == [part]


# ---- where an object speaks ----------------------------------------------------------------------------------


@pytest.fixture
def speaking(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[float]]]:
    """Return the weights that the global loss gives each object, level by level."""

    def weights(**config: Any) -> list[list[float]]:
        got: list[list[float]] = []
        monkeypatch.setattr(
            "gkd_core.distill.losses.global_knowledge.global_loss",
            lambda places, w: got.extend(w.tolist()) or places.student.sum((1, 2)) * 0,
        )
        monkeypatch.setattr(
            "gkd_core.distill.losses.context.robustness", lambda places, labels, p: torch.ones(5, len(labels))
        )
        pair = (detector("fcos", 16, 0), detector("fcos", 16, 1))
        distiller = with_random_prototypes(Distiller(*pair, DistillConfig.model_validate(config), IN_ORDER))
        distiller(PICTURES, SIZED, 1.0)
        return got

    return weights


SIZED = [
    {"boxes": torch.tensor([[10.0, 10, 30, 30], [20, 20, 90, 90]]), "labels": torch.tensor([1, 2])},
    {"boxes": torch.tensor([[5.0, 5, 45, 45]]), "labels": torch.tensor([2])},
]
"""Objects of 20, 70 and 40 pixels: those of strides 8, 16 and 8."""


def test_an_object_speaks_on_its_own_level(speaking: Callable[..., list[list[float]]]) -> None:
    assert speaking() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_an_object_may_speak_on_the_levels_next_to_its_own(
    speaking: Callable[..., list[list[float]]],
) -> None:
    assert speaking(**{"global": {"levels": "neighbours"}})[:3] == [[1, 1, 1], [1, 1, 1], [0, 1, 0]]


@pytest.mark.parametrize("config", [{"global": {"levels": "all"}}, {"conventions": "reference"}])
def test_published_objects_speak_on_every_level(
    config: dict[str, Any], speaking: Callable[..., list[list[float]]]
) -> None:
    assert speaking(**config) == [[1, 1, 1]] * 5


def test_levels_without_objects_add_nothing_to_the_global_loss() -> None:
    losses = []
    for levels in ("own", "all"):
        config = DistillConfig.model_validate({"global": {"levels": levels, "robust": False}})
        pair = (detector("fcos", 16, 0), detector("fcos", 16, 1))
        distiller = with_random_prototypes(Distiller(*pair, config, IN_ORDER))
        with torch.no_grad():
            for level in distiller.prototypes[2:]:  # nobody lives there, and what is said there changes
                level.student.mul_(-1)
            losses.append(float(distiller(PICTURES, SIZED, 1.0)["distill_global"]))
            for level in distiller.prototypes[2:]:
                level.student.mul_(-1)
            losses.append(float(distiller(PICTURES, SIZED, 1.0)["distill_global"]))
    own, own_changed, everywhere, everywhere_changed = losses
    assert own == own_changed > 0
    assert everywhere != pytest.approx(everywhere_changed, rel=1e-3)


# ---- fresh features ------------------------------------------------------------------------------------------


def test_a_refresh_replaces_the_features_of_the_prototypes() -> None:
    distiller = with_random_prototypes(
        Distiller(detector("fcos", 16, 0), detector("fcos", 16, 1), DistillConfig(), IN_ORDER)
    )
    before = distiller.prototypes
    distiller.chosen = [torch.tensor([[7, row] for row in range(5)]) for _ in distiller.strides]
    pooled = Pooled(
        teacher=[torch.zeros(5, 16) for _ in distiller.strides],
        student=[-level.student for level in before],
        labels=torch.zeros(5, dtype=torch.int64),
        image_ids=torch.full((5,), 7),
        boxes=torch.zeros(5, 4),
        rows=torch.arange(5),
        sides=torch.full((5,), 50.0),
    )
    assert distiller.refresh(pooled) == pytest.approx(-1)
    for old, new in zip(before, distiller.prototypes, strict=True):
        assert torch.equal(new.student, -old.student)
        assert torch.equal(new.teacher, old.teacher)
