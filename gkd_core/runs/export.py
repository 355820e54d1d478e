"""Kind `export`: a model becomes an ONNX file, which is checked against torch before it is published.

Read `export` from top to bottom. Everything happens on the CPU in float32, where torch and onnxruntime compute the
same; `onnx.py` describes the interface of the file. A run that was interrupted starts again.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from gkd_core.config import ExportConfig, ExportRun
from gkd_core.data.loading import eval_batches
from gkd_core.data.records import ImageRecord
from gkd_core.detectors.build import count_parameters, detect
from gkd_core.detectors.checkpoint import sha256_of
from gkd_core.detectors.detector import Detector
from gkd_core.detectors.model_card import ModelCard
from gkd_core.detectors.onnx import INPUT, OUTPUTS, OnnxDetector, missing_extra
from gkd_core.errors import Problem, SpecError
from gkd_core.evaluation.detection_diff import NOTHING, Agreement, Tolerance, as_found, compare, limits_of
from gkd_core.events import (
    Event,
    ExportCheck,
    FileWritten,
    Latency,
    ModelReport,
    Progress,
    Report,
    Warning,
)
from gkd_core.run_dir import write_atomically
from gkd_core.runs.model_cost import count_gflops
from gkd_core.runs.report import write_report
from gkd_core.runs.session import Session, open_part

_T = TypeVar("_T")

FILE = "model.onnx"
RUN = "model"
MOST_DECIDED_OTHERWISE = 0.01
"""Share of the detections that rounding may decide; ties are rare, and more of them would hide a defect."""
_WARM_UP = 3
"""Number of images that are run first and not timed."""


def export(config: ExportRun, run_dir: Path, should_stop: Callable[[], bool]) -> Iterator[Event]:
    """Write a model as ONNX, compare the two, and publish the file.

    Raises:
        SpecError: the model cannot be written as ONNX, or the result differs by more than the config allows.
        GkdError: its class says how the failure is handled.
    """
    job = _Export(config, run_dir, should_stop)
    yield from job.check_data()
    yield _progress(0.0)
    content = to_onnx(job.detector, job.card, config.export.opset)
    job.stop_if_asked()
    yield from job.compare(OnnxDetector(content, torch.get_num_threads()))
    yield from job.verdict()
    write_atomically(run_dir / FILE, content)
    yield job.file_event()
    yield job.report()


class _Export(Session):
    """An export run."""

    decodes = ("val",)

    def __init__(self, config: ExportRun, run_dir: Path, should_stop: Callable[[], bool]) -> None:
        self.wanted = config.export
        self.detector, self.card = open_part(config.model, RUN)
        on_cpu = config.model_copy(update={"device": "cpu"})
        size = self.card.image_size
        super().__init__(on_cpu, run_dir, should_stop, image_size=size, batch_size=1, workers="auto")

    def compare(self, exported: OnnxDetector) -> Iterator[Event]:
        """Run both networks over pictures of the validation split, in turn, and time them."""
        tolerance = Tolerance(self.wanted.box_tolerance, self.wanted.score_tolerance)
        limits = limits_of(self.detector)
        self.pictures = spread(self.data.val.images, self.wanted.check_pictures)
        self.agreement = NOTHING
        self.milliseconds: list[tuple[float, float]] = []
        for done, (batch,) in enumerate(eval_batches(self.pictures, self.image_size, 1, self.workers)):
            picture = batch.image.float() / 255
            pixels = picture.numpy()
            for _ in range(_WARM_UP if done == 0 else 1):
                (by_torch,), first = _timed(detect, self.detector, [picture])
                by_onnx, second = _timed(exported, pixels)
            self.milliseconds.append((first, second))
            seen = compare(without_background(by_torch), as_found(by_onnx), limits, tolerance)
            self.agreement = self.agreement.and_(seen)
            self.stop_if_asked()
            if self.progress_meter.progress_due():
                yield _progress((done + 1) / len(self.pictures))

    def verdict(self) -> Iterator[Event]:
        """Check that the file agrees with torch.

        Raises:
            SpecError: it differs from torch by more than is allowed.
        """
        if problems := differences(self.agreement, self.wanted):
            raise SpecError(problems)
        if not self.agreement.pairs:
            message = f"the model finds nothing on the {len(self.pictures)} pictures, so no box was compared"
            yield Warning(message=message, hint="Train it longer, or check on more pictures.")

    def file_event(self) -> FileWritten:
        """Return the event of the written file."""
        path = self.folder / FILE
        title = f"the {self.card.architecture} on {self.card.backbone} as ONNX, opset {self.wanted.opset}"
        return FileWritten(run=RUN, file=FILE, title=title, size=path.stat().st_size, sha256=sha256_of(path))

    def report(self) -> Report:
        """Write the report: torch and ONNX side by side, and their differences."""
        size, path = self.image_size, self.folder / FILE
        threads = f"CPU, {torch.get_num_threads()} threads"
        by_torch, by_onnx = (
            _latency(times, f"{threads}, {name}")
            for times, name in zip(
                zip(*self.milliseconds, strict=True), ("torch", "onnxruntime"), strict=True
            )
        )
        model = ModelReport(
            architecture=self.card.architecture,
            backbone=self.card.backbone,
            parameters=count_parameters(self.detector),
            gflops=count_gflops(self.detector, size, self.device),
            latency_ms=by_torch,
            metrics={},
            per_class={},
        )
        file = {"file": FILE, "size": path.stat().st_size, "sha256": sha256_of(path)}
        exported = model.model_copy(update={"latency_ms": by_onnx, **file})
        check = _check(self.agreement, len(self.pictures))
        return write_report(
            Report(
                time=time.time(),
                models={RUN: model, "onnx": exported},
                export=check,
                notes=_notes(check, size),
            ),
            self.folder,
        )


# ---- writing ---------------------------------------------------------------------------------------------


def to_onnx(detector: Detector, card: ModelCard, opset: int) -> bytes:
    """Return an ONNX file that computes what the detector does, with all metadata that a program needs.

    torch's newer exporter does not take torchvision's detectors, whose number of detections depends on the picture;
    the older one does (docs/decisions/0045).

    Args:
        detector: on the CPU, in evaluation mode.
        card: its model card.
        opset: version of ONNX's operators, 16 to 20.

    Raises:
        SpecError: onnx is missing, or the detector has an operator that this opset lacks.
    """
    try:
        import onnx
    except ImportError:
        raise missing_extra("onnx") from None
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(1, 3, card.image_size * 3 // 4, card.image_size, generator=generator)
    try:
        with _silence_export_warnings(), TemporaryDirectory() as folder:
            path = Path(folder, FILE)
            torch.onnx.export(
                _OnePicture(detector).eval(),  # training mode is restored at the end, also of the submodules
                (example,),
                path,
                opset_version=opset,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_axes={INPUT: {2: "height", 3: "width"}} | {name: {0: "found"} for name in OUTPUTS},
                dynamo=False,
            )
            model = onnx.load_model(path)
    except torch.onnx.errors.OnnxExporterError as error:
        raise _not_writable(error, opset) from error
    model.producer_name = "gkd"
    onnx.helper.set_model_props(model, _properties(detector, card))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


class _OnePicture(nn.Module):
    """Wraps a detector for ONNX: one image in, three tensors out."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = without_background(self.detector([images[0]])[0])
        return tuple(found[name] for name in OUTPUTS)


def without_background(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop detections of the background output that sigmoid heads have: it is never trained."""
    kept = torch.where(found["labels"] > 0)[0]
    return {name: values[kept] for name, values in found.items()}


def _properties(detector: Detector, card: ModelCard) -> dict[str, str]:
    """Return the metadata of the file."""
    return {
        "gkd": card.written(),
        "classes": json.dumps(card.classes, ensure_ascii=False),
        "image_size": str(card.image_size),
        "score_threshold": str(limits_of(detector).score),
    }


@contextmanager
def _silence_export_warnings() -> Iterator[None]:
    """Silence torch's warnings about its own exporter, and about constants in torchvision that are constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        for message in (
            "You are using the legacy TorchScript-based ONNX export",
            "The feature will be removed",
            "`torch.jit.*` is deprecated",
        ):
            warnings.filterwarnings("ignore", message, DeprecationWarning)
        for message in (
            "To copy construct from a tensor",
            "Exporting aten::index operator",
            "Constant folding",
        ):
            warnings.filterwarnings("ignore", message, UserWarning)
        yield


def _not_writable(error: Exception, opset: int) -> SpecError:
    why = (str(error) or type(error).__name__).splitlines()[0]
    message = f"torch cannot write this detector with ONNX's operators of version {opset}: {why}"
    return SpecError(
        [Problem(loc=("export", "opset"), message=message, hint="A later version, up to 20, may know more.")]
    )


# ---- checking --------------------------------------------------------------------------------------------


def spread(images: Sequence[ImageRecord], count: int) -> list[ImageRecord]:
    """Return at most `count` images, evenly spaced over a split."""
    if count >= len(images):
        return list(images)
    return [images[index] for index in np.linspace(0, len(images) - 1, count).round().astype(int)]


def differences(found: Agreement, allowed: ExportConfig) -> list[Problem]:
    """Return why an exported network does not pass; empty if it does."""
    hint = "Another opset may round otherwise; or allow more, if that is good enough for you."
    problems = []
    for field, seen, most, unit in (
        ("box_tolerance", found.box, allowed.box_tolerance, " pixels"),
        ("score_tolerance", found.score, allowed.score_tolerance, ""),
    ):
        if seen > most:
            message = f"the exported network differs from torch by {seen:.3g}{unit}; {most:g} are allowed"
            problems.append(Problem(loc=("export", field), message=message, hint=hint))
    if found.alone:
        message = (
            f"{len(found.alone)} detections are made by only one of torch and the exported network, such as "
            f"{found.alone[0]}; {found.pairs} are made by both"
        )
        problems.append(Problem(loc=("export", "format"), message=message, hint=hint))
    if found.decided_otherwise > max(2, MOST_DECIDED_OTHERWISE * found.pairs):
        message = f"{found.decided_otherwise} detections beside {found.pairs} are decided by rounding, too many to pass"
        problems.append(Problem(loc=("export", "format"), message=message, hint=hint))
    return problems


def _check(found: Agreement, pictures: int) -> ExportCheck:
    return ExportCheck(
        pictures=pictures,
        detections=found.pairs,
        largest_box_difference=found.box,
        largest_score_difference=found.score,
        decided_otherwise=found.decided_otherwise,
    )


def _notes(check: ExportCheck, image_size: int) -> tuple[str, ...]:
    seen = (
        f"{check.detections} detections differ from torch's by at most {check.largest_box_difference:.2g} pixels and "
        f"{check.largest_score_difference:.2g} in score"
        if check.detections
        else "neither torch nor the file finds anything on them, which proves little"
    )
    told = [
        f"The file was checked on {check.pictures} pictures of the validation split, their longer side resized to "
        f"{image_size} pixels: {seen}.",
        "Latency is over the same pictures, in turn, on a machine that may have had other work.",
    ]
    if check.decided_otherwise:
        told.append(f"{check.decided_otherwise} more detections were decided by rounding and not compared.")
    return tuple(told)


def _timed(run: Callable[..., _T], *arguments: Any) -> tuple[_T, float]:
    """Return the result of a call, and its milliseconds."""
    began = time.perf_counter()
    result = run(*arguments)
    return result, (time.perf_counter() - began) * 1000


def _latency(milliseconds: Sequence[float], device: str) -> Latency:
    low, median, high = np.percentile(milliseconds, [10, 50, 90])
    return Latency(median=float(median), low=float(low), high=float(high), device=device)


def _progress(fraction: float) -> Progress:
    return Progress(run=RUN, activity="export", epoch=0, epochs=0, step=0, steps=0, fraction=fraction)
