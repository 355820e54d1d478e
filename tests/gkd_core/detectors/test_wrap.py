"""Wrap: detectors of torchvision that we never saw, as teacher and as student."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

import gkd_core as gkd
from gkd_core.detectors.published import COCO_CLASSES
from gkd_core.errors import SpecError

CLASSES = ("circle", "square", "triangle", "cross")
SIZE: dict[str, Any] = {"min_size": 64, "max_size": 64}
NORMALISED: dict[str, Any] = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


class Plain(nn.Module):
    """A backbone of somebody's own, whose maps have names of its own."""

    out_channels = 32

    def __init__(self, coarse: bool = True) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 8, 3, 4, 1), *(nn.Conv2d(8, 8, 3, 2, 1) for _ in range(3))]
        self.stages = nn.ModuleList(layers)
        self.fpn = FeaturePyramidNetwork(
            [8, 8, 8], self.out_channels, LastLevelP6P7(32, 32) if coarse else None
        )

    def forward(self, pictures: Tensor) -> OrderedDict[str, Tensor]:
        maps = [self.stages[0](pictures).relu()]
        for stage in self.stages[1:]:
            maps.append(stage(maps[-1]).relu())
        named = OrderedDict((f"c{level}", one) for level, one in enumerate(maps[1:], start=3))
        return self.fpn(named)


class SingleMap(nn.Module):
    """A backbone with one map and no name for it."""

    out_channels = 16

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 4, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.stages(pictures)


def plain_fcos() -> nn.Module:
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    return detection.FCOS(Plain(), 5, anchor_generator=anchors, **SIZE, **NORMALISED)


def plain_retinanet() -> nn.Module:
    octaves = tuple(tuple(2 * s * 2 ** (k / 3) for k in range(3)) for s in (8, 16, 32, 64, 128))
    anchors = AnchorGenerator(octaves, ((0.5, 1.0, 2.0),) * 5)
    return detection.RetinaNet(Plain(), 5, anchor_generator=anchors, **SIZE, **NORMALISED)


def plain_faster_rcnn() -> nn.Module:
    anchors = AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3)
    pool = MultiScaleRoIAlign(["c3", "c4"], 7, 2)
    backbone = Plain(coarse=False)
    return detection.FasterRCNN(
        backbone, 5, rpn_anchor_generator=anchors, box_roi_pool=pool, **SIZE, **NORMALISED
    )


PLAIN: dict[str, Callable[[], nn.Module]] = {
    "fcos": plain_fcos,
    "retinanet": plain_retinanet,
    "faster_rcnn": plain_faster_rcnn,
}


@pytest.fixture(params=PLAIN)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def plain(family: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return PLAIN[family]()


def batch() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    torch.manual_seed(3)
    target = {"boxes": torch.tensor([[4.0, 4, 30, 30], [20, 20, 60, 50]]), "labels": torch.tensor([1, 3])}
    return [torch.rand(3, 64, 64), torch.rand(3, 64, 64)], [target, target]


def built(family: str) -> Any:
    tiny: dict[str, Any] = {"backbone_width": 0.125, "fpn": {"channels": 16}, "head": {"depth": 1}}
    return gkd.build_detector(family, "resnet18", classes=CLASSES, image_size=64, **tiny)


# ---- it is what it was -----------------------------------------------------------------------------------


def test_it_finds_what_the_plain_one_finds(family: str) -> None:
    detector, (pictures, _) = plain(family).eval(), batch()
    with torch.no_grad():
        before = detector(pictures)
        wrapped = gkd.wrap(detector, CLASSES).eval()
        after = wrapped(pictures)
        again = detector(pictures)
    for one, two, three in zip(before, after, again, strict=True):
        assert set(one) == set(two) == {"boxes", "labels", "scores"}
        for name in one:
            assert torch.allclose(one[name].float(), two[name].float(), atol=1e-4)
            assert torch.allclose(one[name].float(), three[name].float(), atol=1e-4)


def test_its_normalisation_and_its_levels_are_told(family: str) -> None:
    wrapped = gkd.wrap(plain(family), CLASSES)
    assert wrapped.transform.mean.flatten().tolist() == pytest.approx(NORMALISED["image_mean"])
    assert wrapped.transform.std.flatten().tolist() == pytest.approx(NORMALISED["image_std"])
    assert wrapped.strides == ((8, 16, 32) if family == "faster_rcnn" else (8, 16, 32, 64, 128))
    assert wrapped.image_size == 64


def test_the_weights_stay_shared_and_the_transform_does_not(family: str) -> None:
    detector = plain(family)
    wrapped = gkd.wrap(detector, CLASSES)
    assert [id(each) for each in wrapped.parameters()] == [id(each) for each in detector.parameters()]
    assert wrapped.state_dict().keys() == detector.state_dict().keys()
    assert wrapped.transform is not detector.transform
    assert detector.transform.min_size == (64,)


def test_wrapping_twice_changes_nothing(family: str) -> None:
    detector = plain(family)
    once, twice = gkd.wrap(detector, CLASSES), gkd.wrap(detector, CLASSES)
    rewrapped = gkd.wrap(once)
    assert once.strides == twice.strides == rewrapped.strides
    assert len(detector.backbone._forward_hooks) == 1
    assert rewrapped.classes == CLASSES


# ---- it teaches and learns -------------------------------------------------------------------------------


def step(student: Any, teacher: Any, data: Any) -> dict[str, Tensor]:
    distiller = gkd.Distiller(student, teacher)
    distiller.update_prototypes(data.train, image_size=64, workers=0)
    losses: dict[str, Tensor] = distiller(*batch())
    torch.stack(list(losses.values())).sum().backward()
    return {name: loss.detach() for name, loss in losses.items() if name.startswith("distill_")}


@pytest.fixture(scope="module")
def data(shapes: Any) -> Any:
    return gkd.load_dataset(shapes)


def test_it_teaches_a_student_of_ours(family: str, data: Any) -> None:
    student = built(family)
    losses = step(student, gkd.wrap(plain(family), CLASSES), data)
    wanted = {"distill_global", "distill_foreground", "distill_background", "distill_response"}
    assert losses.keys() == wanted
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    assert all(each.grad is not None for each in student.backbone.parameters() if each.requires_grad)


def test_it_learns_from_a_teacher_of_ours(family: str, data: Any) -> None:
    detector = plain(family)
    losses = step(gkd.wrap(detector, CLASSES), built(family), data)
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    assert detector.backbone.stages[0].weight.grad.abs().sum() > 0


def test_a_teacher_learns_nothing_from_itself(family: str, data: Any) -> None:
    detector = plain(family)
    distiller = gkd.Distiller(
        gkd.wrap(plain(family), CLASSES), gkd.wrap(detector, CLASSES), losses=[gkd.GlobalLoss()]
    )
    distiller.update_prototypes(data.train, image_size=64, workers=0)
    assert float(distiller(*batch())["distill_global"].detach()) == pytest.approx(0, abs=1e-6)


def test_a_backbone_of_a_single_map_is_wrapped() -> None:
    anchors = AnchorGenerator(((16, 32),), ((1.0,),))
    pool = MultiScaleRoIAlign(["0"], 7, 2)
    detector = detection.FasterRCNN(SingleMap(), 5, rpn_anchor_generator=anchors, box_roi_pool=pool, **SIZE)
    wrapped = gkd.wrap(detector, CLASSES)
    assert wrapped.strides == (16,)
    assert len(wrapped.predict(torch.zeros(64, 64, 3, dtype=torch.uint8).numpy())) >= 0


def test_torchvisions_own_builders_are_wrapped() -> None:
    detector = detection.fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None)
    wrapped = gkd.wrap(detector)
    assert wrapped.classes == COCO_CLASSES
    assert wrapped.strides == (32, 32, 64)
    assert wrapped.roi_heads.box_roi_pool.featmap_names == ["0", "1"]


# ---- mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "classes", "told"),
    [
        (plain_fcos, None, "scores 4 classes and does not say which"),
        (plain_fcos, ("a", "b"), "2 class names for a detector of 5 scores"),
        (plain_faster_rcnn, "abcd", "class names"),
        (lambda: nn.Linear(2, 2), CLASSES, "RetinaNet, FasterRCNN, FCOS can be wrapped, got Linear"),
        (
            lambda: detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None),
            None,
            "got SSD",
        ),
    ],
)
def test_what_cannot_be_wrapped_is_told(make: Any, classes: Any, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        gkd.wrap(make(), classes)
    assert told in caught.value.message


def test_classes_are_read_where_the_detector_has_them() -> None:
    detector = plain("fcos")
    detector.classes = CLASSES
    assert gkd.wrap(detector).classes == CLASSES


def test_a_backbone_of_torchvision_is_named() -> None:
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    wrapped = gkd.wrap(detection.FasterRCNN(backbone, 5), CLASSES)
    assert wrapped.strides == (4, 8, 16, 32, 64)
    assert wrapped.backbone_name
