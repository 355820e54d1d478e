"""Scores of a detector: the metrics of COCO and of Pascal VOC.

Detection runs on resized images; scores are computed in the coordinates of the originals. COCO's metrics come from
faster-coco-eval, a C++ implementation of pycocotools; VOC's are computed in `voc.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor

from gkd_core.compute.transfers import pictures_on
from gkd_core.data.loading import EvalSample
from gkd_core.data.records import ImageRecord
from gkd_core.detectors.build import detect
from gkd_core.detectors.detector import Detector
from gkd_core.evaluation.voc import Detections, Matches, match, voc_ap

COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
METRICS = (*COCO_METRICS, "VOC07", "VOC12")
"""COCO's twelve, and the mean AP50 over the classes as VOC counted it in 2007 and from 2010 to 2012."""


class Score(NamedTuple):
    """The scores of a detector on a split."""

    metrics: dict[str, float]
    """`METRICS`, in 0..1; -1 where the split has no such object."""
    per_class: dict[str, float]
    """AP by class name; -1 where the split has no such object."""
    per_class_voc: dict[str, dict[str, float]]
    """AP50 by class name for `VOC07` and `VOC12`; -1 where the split has no such object."""
    evaluation: COCOeval_faster
    """COCO's matching of every picture, for `bootstrap.py`."""
    matches: Matches
    """VOC's matching, for figures with boxes."""
    detections: Detections
    """The detections that were scored."""


def detect_batches(
    detector: Detector,
    batches: Iterator[list[EvalSample]],
    device: torch.device,
    labels: np.ndarray | None = None,
) -> Iterator[Detections]:
    """Run a detector over a split, batch by batch.

    Args:
        detector: in evaluation mode.
        batches: resized images.
        device: where the detector is.
        labels: the data's label for each label of the detector (0 drops it), if they differ.
    """
    for batch in batches:
        outputs = detect(detector, pictures_on(device, [sample.image for sample in batch]))
        yield {
            sample.image_id: _in_original(output, sample, labels)
            for sample, output in zip(batch, outputs, strict=True)
        }


def score(images: Sequence[ImageRecord], classes: Sequence[str], detections: Detections) -> Score:
    """Compute the scores of detections. Crowd regions and difficult objects count neither for nor against."""
    truth = COCO(_truth(images, classes))
    evaluation = COCOeval_faster(
        truth, truth.loadRes(_results(images, detections)), "bbox", separate_eval=True
    )
    evaluation.params.maxDets = [1, 10, 100]
    evaluation.run()
    metrics = {name: float(value) for name, value in zip(COCO_METRICS, evaluation.stats[:12], strict=True)}
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (10 thresholds, 101 recalls, C)
    per_class = {name: _average_precision(precision[:, :, index]) for index, name in enumerate(classes)}
    matches = match(images, len(classes), detections)
    voc = voc_ap(matches)
    metrics |= {name: _average_precision(values) for name, values in voc.items()}
    per_class_voc = {name: dict(zip(classes, ap.tolist(), strict=True)) for name, ap in voc.items()}
    return Score(metrics, per_class, per_class_voc, evaluation, matches, detections)


def _average_precision(precision: np.ndarray) -> float:
    """Return the mean over all known entries (unknown ones are -1); -1 when nothing is known."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0


def _in_original(
    output: dict[str, Tensor], sample: EvalSample, labels: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return boxes scaled back from the resized image to the original, and labels as the data has them."""
    found = output["labels"].cpu().numpy()
    scale = np.array(sample.scale * 2, dtype=np.float32)
    return {
        "boxes": output["boxes"].cpu().numpy() / scale,
        "labels": found if labels is None else labels[found],
        "scores": output["scores"].cpu().numpy(),
    }


def _truth(images: Sequence[ImageRecord], classes: Sequence[str]) -> dict[str, Any]:
    """Return the annotations in COCO's form, made from the records, so that every format is scored alike.

    Images are numbered from 1 in their order: the library stores ids as 64-bit floating point numbers.
    """
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        sides = _xywh(image.boxes)
        for index in range(len(image.labels)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(image.labels[index]),
                    "bbox": sides[index],
                    "area": float(image.area[index]),
                    "iscrowd": int(image.crowd[index]),
                }
            )
    return {
        "images": [
            {"id": number, "width": image.width, "height": image.height}
            for number, image in enumerate(images, start=1)
        ],
        "categories": [{"id": label, "name": name} for label, name in enumerate(classes, start=1)],
        "annotations": annotations,
    }


def _results(images: Sequence[ImageRecord], detections: Detections) -> list[dict[str, Any]]:
    """Return detections in COCO's form, with the image numbers of `_truth`."""
    return [
        {"image_id": number, "category_id": int(label), "bbox": box, "score": float(score)}
        for number, image in enumerate(images, start=1)
        if (found := detections.get(image.image_id)) is not None
        for box, label, score in zip(_xywh(found["boxes"]), found["labels"], found["scores"], strict=True)
        if label > 0  # sigmoid heads have an output for background, which is never trained
    ]


def _xywh(boxes: np.ndarray) -> list[list[float]]:
    """Convert (N, 4) x1 y1 x2 y2 to N lists x y width height."""
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    result: list[list[float]] = np.concatenate(
        [corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1
    ).tolist()
    return result
