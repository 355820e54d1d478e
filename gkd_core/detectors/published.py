"""Pretrained weights that torchvision publishes: detectors trained on COCO, and backbones, by name. No torch here.

A name determines everything about a detector, so that the service can check a spec without loading torch;
`gkd_core.detectors.weights` fetches and fills in.
"""

from __future__ import annotations

import re

from gkd_core.config import TORCHVISION_BACKBONES, DetectorConfig

NAME = re.compile(r"[A-Za-z0-9_]+_Weights\.[A-Z0-9_]+")
"""How torchvision names weights: `ResNet50_Weights.IMAGENET1K_V2`."""

_UNUSED = "unused"
"""Class name of a gap in COCO's category ids, for which torchvision's heads have outputs."""
_COCO_PARTS = (
    ("person bicycle car motorcycle airplane bus train truck boat", "traffic light", "fire hydrant", None),
    ("", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant"),
    ("bear zebra giraffe", None, "backpack", "umbrella", None, None, "handbag", "tie", "suitcase", "frisbee"),
    ("skis snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    ("", "tennis racket", "bottle", None, "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana"),
    ("apple sandwich orange broccoli carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    ("", "potted plant", "bed", None, "dining table", None, None, "toilet", None, "tv", "laptop", "mouse"),
    ("remote keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", None, "book"),
    ("clock vase scissors", "teddy bear", "hair drier", "toothbrush"),
)


def _coco_classes() -> tuple[str, ...]:
    names = [name for first, *rest in _COCO_PARTS for name in (*first.split(), *rest)]
    return tuple(name or f"{_UNUSED} {label}" for label, name in enumerate(names, start=1))


COCO_CLASSES = _coco_classes()
"""The 90 outputs of a detector that was trained on COCO's 80 classes, by label; gaps are called `unused <label>`."""

DETECTORS: dict[str, DetectorConfig] = {
    name: DetectorConfig(architecture=architecture, backbone=backbone, layout=layout, norm=norm, weights=name)
    for name, architecture, backbone, layout, norm in (
        ("RetinaNet_ResNet50_FPN_Weights.COCO_V1", "retinanet", "resnet50", "torchvision", "frozen"),
        ("RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1", "retinanet", "resnet50", "torchvision_v2", "batch"),
        ("FCOS_ResNet50_FPN_Weights.COCO_V1", "fcos", "resnet50", "torchvision", "frozen"),
        ("FasterRCNN_ResNet50_FPN_Weights.COCO_V1", "faster_rcnn", "resnet50", "torchvision", "frozen"),
        ("FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1", "faster_rcnn", "resnet50", "torchvision_v2", "batch"),
        *(
            (
                f"FasterRCNN_MobileNet_V3_Large_{size}FPN_Weights.COCO_V1",
                "faster_rcnn",
                "mobilenet_v3_large",
                "torchvision",
                "frozen",
            )
            for size in ("", "320_")
        ),
    )
}
"""By name of the weights, the detector that they fit; the classes of all are `COCO_CLASSES`."""

WITHOUT_EPSILON = {
    "RetinaNet_ResNet50_FPN_Weights.COCO_V1": "retinanet_resnet50_fpn_coco-eeacb38b.pth",
    "FasterRCNN_ResNet50_FPN_Weights.COCO_V1": "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
}
"""Names and files of weights that were trained with frozen batch norms with an epsilon of 0."""

IMAGE_SIZE = 1088
"""Longer side, in pixels, of a 4:3 picture whose shorter side is 800, as torchvision's detectors were trained."""
SMALL_IMAGE_SIZE = 416
"""The same for the detector that was trained with a shorter side of 320."""


def image_size(name: str) -> int:
    """Return the longer side, in pixels, of the images that published weights were trained on."""
    return SMALL_IMAGE_SIZE if "_320_" in name else IMAGE_SIZE


def is_name(weights: str) -> bool:
    """Return whether `weights` is a name of published weights and no path."""
    return NAME.fullmatch(weights) is not None


def backbone_of(name: str) -> str | None:
    """Return the backbone that weights fit; None if not one of ours.

    `ResNet50_Weights.IMAGENET1K_V2` fit resnet50.
    """
    wanted = _normalised_name(name.partition("_Weights.")[0])
    return next(
        (backbone for backbone in TORCHVISION_BACKBONES if _normalised_name(backbone) == wanted), None
    )


def _normalised_name(name: str) -> str:
    return name.lower().replace("_", "")
