"""An exported detector: the interface and metadata of the ONNX file, and how it is run. No torch here.

    in   images  (1, 3, height, width) float32: RGB in 0..1, the longer side resized to `image_size` pixels
    out  boxes   (N, 4) float32: x1, y1, x2, y2 in pixels of that image, highest score first
         labels  (N,) int64, from 1: the class is classes[label - 1]
         scores  (N,) float32 in 0..1, none under `score_threshold`

Normalisation and NMS are part of the graph. The metadata holds `classes` (a JSON list), `image_size`,
`score_threshold`, and `gkd`, the model card; docs/decisions/0045 says how a program uses it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gkd_core.errors import Problem, SpecError

INPUT, OUTPUTS = "images", ("boxes", "labels", "scores")

Found = dict[str, NDArray[np.generic]]
"""boxes, labels and scores, as above."""


class OnnxDetector:
    """An exported detector, ready to run on the CPU.

    Args:
        model: the file, or its bytes.
        threads: number of threads of the runtime; None: one for each core.

    Raises:
        SpecError: onnxruntime is missing, or the file is no detector that GKD exported.
    """

    def __init__(self, model: Path | bytes, threads: int | None = None) -> None:
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors; it would warn about unused tensors of the graph
        options.intra_op_num_threads = threads or 0
        given = model if isinstance(model, bytes) else str(model)
        try:
            self._session = runtime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
            metadata = self._session.get_modelmeta().custom_metadata_map
            self.classes: tuple[str, ...] = tuple(json.loads(metadata["classes"]))
            self.image_size = int(metadata["image_size"])
            self.white: int | None = json.loads(metadata.get("gkd", "{}")).get("white")
        except Exception as error:  # onnxruntime's errors have no public base class
            raise _no_detector(model, error) from None

    def __call__(self, picture: NDArray[np.float32]) -> Found:
        """Return the detections on an image (3, H, W) in 0..1."""
        outputs = self._session.run(list(OUTPUTS), {INPUT: picture[None]})
        return dict(zip(OUTPUTS, outputs, strict=True))


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise missing_extra("onnxruntime") from None
    return onnxruntime


def missing_extra(package: str) -> SpecError:
    """Return the error for a package of the extra `export` that is not installed."""
    message, hint = f"{package} is not installed", "Install what ONNX needs: pip install 'gkd[export]'."
    return SpecError([Problem(loc=("export", "format"), message=message, hint=hint)])


def _no_detector(model: Path | bytes, error: Exception) -> SpecError:
    name = "the file" if isinstance(model, bytes) else str(model)
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, KeyError):
        why = f"its metadata has no {why}"
    hint = "Name a model.onnx that a job of kind export wrote."
    message = f"{name} is no detector that GKD exported: {why}"
    return SpecError([Problem(loc=("model",), message=message, hint=hint)])
