"""The cost of a step of distillation on a GPU beyond both detectors: operators, memory, synchronisations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gkd_core.compute.transfers import pictures_on, to_device
from gkd_core.config import DetectorConfig, DistillConfig
from gkd_core.detectors.build import build_detector
from gkd_core.distill.distiller import Distiller
from gkd_core.distill.grids import Grids, Slots
from gkd_core.distill.losses.local import PAINTED_AT_ONCE, foreground_masks, foreground_masks_reference
from gkd_core.distill.positives import is_two_stage
from gkd_core.distill.prototypes import Prototypes
from tests.gkd_core.pretended_gpu import GPU, Operators, Watch, pretended_gpu

FAMILIES = ("retinanet", "fcos", "faster_rcnn")
CLASSES, PICTURES, OBJECTS, SIZE = 20, 8, 64, 128


def detector(architecture: str, channels: int) -> Any:
    config = {
        "architecture": architecture,
        "backbone_width": 0.125,
        "fpn": {"channels": channels},
        "head": {"depth": 1},
    }
    return build_detector(DetectorConfig.model_validate(config), CLASSES, SIZE)


def a_distiller(architecture: str, **config: Any) -> Distiller:
    """Return a distiller in training, on the default device."""
    pair = detector(architecture, 16), detector(architecture, 24)
    plan = DistillConfig.model_validate(config)
    distiller = Distiller(*pair, plan, torch.arange(1, CLASSES + 1))
    ends = torch.arange(CLASSES + 1) * 10
    rows = [(torch.randn(200, 24), torch.randn(200, 16), ends) for _ in distiller.strides]
    distiller.prototypes = [Prototypes(*level) for level in rows]
    return distiller.train()


def boxes_of(picture: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(picture)
    corner = torch.rand(OBJECTS, 2, generator=draw) * SIZE * 0.6
    return torch.cat([corner, corner + torch.rand(OBJECTS, 2, generator=draw) * SIZE * 0.35 + 4], dim=1)


def parts_of(watch: Operators, distiller: Distiller) -> None:
    """Name the parts of the detectors, so that the counts separate them from our own operators."""
    teacher = distiller.teacher
    heads = (
        [teacher.roi_heads.box_roi_pool, teacher.roi_heads.box_head, teacher.roi_heads.box_predictor]
        if is_two_stage(teacher)
        else [teacher.head, teacher.head.classification_head]
    )
    for module in (teacher.transform, teacher.backbone, *heads):
        watch.apart(module, "teacher")
    watch.apart(distiller.student, "student's losses")
    watch.apart(distiller.student.transform, "student")
    watch.apart(distiller.student.backbone, "student")


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("config", [{}, {"conventions": "reference"}, {"global": {"form": "projection"}}])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_step_has_at_most_four_hundred_operators_of_our_own(
    architecture: str, config: dict[str, Any], precision: torch.dtype
) -> None:
    distiller, watch = a_distiller(architecture, **config), Operators()
    parts_of(watch, distiller)
    pictures = [torch.rand(3, SIZE, SIZE) for _ in range(PICTURES)]
    labels = torch.arange(OBJECTS) % CLASSES + 1
    targets = [{"boxes": boxes_of(picture), "labels": labels} for picture in range(PICTURES)]

    with torch.autocast("cpu", precision, enabled=precision is not torch.float32), watch:
        losses = distiller(pictures, targets, 1.0)

    assert len([name for name in losses if name.startswith("distill_")]) == 4
    assert watch.counts["own"] <= 400


def second_step(architecture: str, **config: Any) -> Watch:
    """Run the second step of a training on a GPU; the first one moves anchors and the like."""
    with pretended_gpu() as watch:
        torch.set_default_device(GPU)
        try:
            distiller = a_distiller(architecture, **config)
        finally:
            torch.set_default_device(None)
        parts_of(watch, distiller)
        with watch:
            for _ in range(2):
                watch.waits.clear()
                watch.counts.clear()
                pictures = pictures_on(GPU, [torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)] * PICTURES)
                boxes = to_device([torch.zeros(OBJECTS, 4)] * PICTURES, GPU)
                labels = to_device([torch.ones(OBJECTS, dtype=torch.int64)] * PICTURES, GPU)
                targets = [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]
                before = watch.counts["own"]
                distiller(pictures, targets, 1.0)
                watch.counts["own"] -= before
    return watch


@pytest.mark.parametrize("architecture", ["retinanet", "fcos"])
def test_on_a_gpu_they_are_as_few_with_all_that_is_sent(architecture: str) -> None:
    assert second_step(architecture).counts["own"] <= 400


@pytest.mark.parametrize("architecture", ["retinanet", "fcos"])
@pytest.mark.parametrize("config", [{}, {"instances": "positives"}])
def test_nothing_waits_but_where_positives_are_counted(architecture: str, config: dict[str, Any]) -> None:
    ours = [wait for wait in second_step(architecture, **config).waits if wait.part == "own"]
    # the number of assigned places: the student's own losses have just read it, so it is known
    assert [wait.operator for wait in ours] == ["aten.nonzero.default"]
    assert "_of_places" in ours[0].places[0]


@pytest.mark.parametrize("architecture", ["retinanet", "fcos"])
def test_nothing_waits_before_the_student_has_run(architecture: str) -> None:
    waits = second_step(architecture).waits
    assert [wait for wait in waits if wait.part in ("teacher", "student")] == []
    assert not any("retinanet.py" in wait.places[0] and "forward" in wait.places[0] for wait in waits)
    assert not any("fcos.py" in wait.places[0] and "forward" in wait.places[0] for wait in waits)
    if architecture == "fcos":  # our own losses synchronise once, to read the number of assigned places
        ours = [
            wait
            for wait in waits
            if "detectors/fcos.py" in wait.places[0] and wait.part == "student's losses"
        ]
        assert [wait.operator for wait in ours] == ["aten.nonzero.default"]


@pytest.mark.parametrize("paint", [foreground_masks, foreground_masks_reference])
def test_masks_of_many_boxes_take_little_memory(paint: Callable[..., torch.Tensor]) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = [(100, 160), (50, 80), (25, 40), (13, 20), (7, 10)]
    grids = Grids.of([8, 16, 32, 64, 128], shapes, torch.device("cpu"))
    corner = torch.rand(1600, 2, generator=draw) * 700
    boxes = torch.cat([corner, corner + 4 + torch.rand(1600, 2, generator=draw) * 300], dim=1)
    slots = Slots.of(torch.arange(1600) % 4, 4, 400)

    with Operators() as seen:
        masks = paint(boxes, torch.rand(5, 1600, generator=draw), torch.arange(1600) % 5, grids, slots)

    assert masks.shape == (4, sum(grids.cells))
    assert seen.largest <= 4 * PAINTED_AT_ONCE  # all at once would be 137 MB
