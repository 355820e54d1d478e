"""The confusion matrix of a detector at a score threshold, with a row and a column for the background.

Detections and objects are paired by COCO's rule at an overlap (IoU) of 0.5, classes set aside: the detection of the
highest score first, each with the object that it overlaps most of those that are still free. So an object counts as
what its highest-scored detection takes it for. An object without a partner was detected as background (missed); a
detection without one has the background as its truth (false alarm). Crowd regions and difficult objects, and what
finds them, are not counted.

Shapes: C classes.
"""

from __future__ import annotations

import numpy as np
from faster_coco_eval import COCOeval_faster
from numpy.typing import NDArray

Counts = NDArray[np.int64]
BACKGROUND = 0
OVERLAP = 0.5


def confusion(evaluation: COCOeval_faster, threshold: float) -> Counts:
    """Count pairs of annotated and detected class.

    Args:
        evaluation: of the split; its annotations and detections are matched anew.
        threshold: detections of a lower score are left out. They change no pair of those above.

    Returns:
        (C + 1, C + 1): row by annotated, column by detected label; 0 is the background.
    """
    truth, results = evaluation.cocoGt.anns, evaluation.cocoDt.anns
    counts = np.zeros((len(evaluation.cocoGt.cats) + 1,) * 2, dtype=np.int64)
    counted = {key: item["category_id"] for key, item in truth.items() if not item["iscrowd"]}
    found = {key: item["category_id"] for key, item in results.items() if item["score"] >= threshold}
    for key, partner in _partners(evaluation).items():
        if (label := found.pop(key, None)) and (wanted := counted.pop(partner, None)):
            counts[wanted, label] += 1  # without `wanted` it found a crowd region
    for wanted in counted.values():
        counts[wanted, BACKGROUND] += 1
    for label in found.values():
        counts[BACKGROUND, label] += 1
    return counts


def _partners(evaluation: COCOeval_faster) -> dict[int, int]:
    """Return the id of the object, or crowd region, of each detection that has one, by its id."""
    matching = COCOeval_faster(evaluation.cocoGt, evaluation.cocoDt, "bbox", separate_eval=True)
    matching.params.useCats = 0
    matching.params.iouThrs = np.array([OVERLAP])
    matching.params.areaRng, matching.params.areaRngLbl = [[0, 1e10]], ["all"]
    matching.params.maxDets = [max(1, len(evaluation.cocoDt.anns))]
    matching.evaluate()
    states = (found.__getstate__() for found in matching._evalImgs_cpp)
    return {detection: wanted for state in states for detection, wanted, _ in state[5]}
