"""The engine: trains detectors, distils big ones into small ones, and measures what that gained.

A library that works alone. It knows no web, queue or database, and imports no other package of GKD.

    import gkd_core as gkd

    data = gkd.load_dataset("cells")
    teacher = gkd.load_detector("teacher.safetensors")
    result = gkd.distill(teacher, gkd.detector("fcos", "resnet18"), data, epochs=30, out="runs/cells")

Names are loaded when they are first used, so that importing the package, or one of its border modules, loads no torch.
To the service the engine is a process: what goes in is a `config.RunConfig`; what comes out is a stream of
`events.Event` and the files of a `run_dir.RunDir`; these and `errors` are the border.

Read first: the border (`config`, `events`, `errors`, `run_dir`), `train.py` (the main flow),
`distill/distiller.py`, then the mathematics in `distill/`: `features.py`, `prototypes.py`, `losses/`, with
docs/method.md beside them. The names below are `library/`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gkd_core.detectors.detector import Detections, Detector
    from gkd_core.detectors.wrap import wrap
    from gkd_core.distill.distiller import Distiller
    from gkd_core.distill.losses import GlobalLoss, LocalLoss, Loss, LossContext, ResponseLoss
    from gkd_core.library.dataset import Dataset, load_dataset
    from gkd_core.library.detectors import build_detector, detector, load_detector
    from gkd_core.library.distillation import Result, distill

__all__ = [
    "Dataset",
    "Detections",
    "Detector",
    "Distiller",
    "GlobalLoss",
    "LocalLoss",
    "Loss",
    "LossContext",
    "ResponseLoss",
    "Result",
    "build_detector",
    "detector",
    "distill",
    "load_dataset",
    "load_detector",
    "wrap",
]

_MODULES = {
    "Dataset": "library.dataset",
    "Detections": "detectors.detector",
    "Detector": "detectors.detector",
    "Distiller": "distill.distiller",
    "GlobalLoss": "distill.losses",
    "LocalLoss": "distill.losses",
    "Loss": "distill.losses",
    "LossContext": "distill.losses",
    "ResponseLoss": "distill.losses",
    "Result": "library.distillation",
    "build_detector": "library.detectors",
    "detector": "library.detectors",
    "load_dataset": "library.dataset",
    "load_detector": "library.detectors",
    "wrap": "detectors.wrap",
}
"""Where each name is defined."""
_PACKAGES = ("config", "distill", "errors", "events")
"""Modules that are there without an import of their own; the package `distill` can be called, and is that function."""


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted(__all__)
