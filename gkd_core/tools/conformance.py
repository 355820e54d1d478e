"""Conformance test: the reference functions against numbers of the authors' published code (golden vectors).

`python -m gkd_core.tools.conformance FOLDER` reads FOLDER/manifest.json, prints one line for each file that it lists,
and exits with 1 if one differs. The files hold the inputs too, so nothing here is random or trained.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gkd_core.distill.features import assign_levels_reference, pool_reference
from gkd_core.distill.losses import (
    foreground_mask_reference,
    global_loss,
    local_losses_reference,
    positions,
    response_softmax_reference,
    robustness,
)
from gkd_core.distill.prototypes import Prototypes
from gkd_core.distill.selection.reference import select_reference
from gkd_core.errors import DataError, Problem

TOLERANCE = 1e-5
"""Relative, in float32."""
HINT = "Give the folder of golden vectors: it holds manifest.json beside the .npz files."
UNUSABLE = (OSError, KeyError, ValueError, IndexError, RuntimeError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class CaseResult:
    """Result of one golden file."""

    name: str
    compared: str
    """What was compared, or why nothing could be."""
    worst_relative_error: float | None
    """Largest of any compared number; None for indices, which are equal or not."""
    ok: bool

    def line(self) -> str:
        """Return one line for people."""
        error = (
            ""
            if self.worst_relative_error is None
            else f", worst relative error {self.worst_relative_error:.1e}"
        )
        return f"{'ok  ' if self.ok else 'MISS'} {self.name}: {self.compared}{error}"


def run(folder: Path) -> Iterator[CaseResult]:
    """Compare every file of a folder of golden vectors, in the manifest's order.

    Args:
        folder: holds manifest.json and the files that it lists.

    Raises:
        DataError: the folder or its manifest is missing or unreadable, or lists nothing.
    """
    manifest = _read_manifest(folder)
    for kind, check in KINDS.items():
        for entry in manifest.get(kind, []):
            yield _checked(folder / entry["file"], check)


def check_selection(name: str, case: Mapping[str, Tensor]) -> CaseResult:
    """Check that PGM selects the same instances in the same order."""
    wanted = case["indices"]
    found = select_reference(
        case["teacher"], case["student"], int(case["num_prototypes"]), float(case["alpha"])
    )
    same = int((found == wanted).sum())
    return CaseResult(name, f"{same} of {len(wanted)} indices equal", None, torch.equal(found, wanted))


def check_losses(name: str, case: Mapping[str, Tensor]) -> CaseResult:
    """Check every weight, mask and loss of RDM for the batch on every level."""
    levels = range(len(case["strides"]))
    found = {f"l{i}_{key}": value for i in levels for key, value in level_values(case, i).items()}
    found["soft_loss"] = response_softmax_reference(
        case["student_logits"], case["teacher_logits"], case["soft_weights"], float(case["temperature"])
    )
    errors = {key: relative_error(value, case[key]) for key, value in found.items()}
    worst = max(errors, key=errors.__getitem__)
    compared = f"{len(found)} weights, masks and losses on {len(levels)} levels, worst {worst}"
    return CaseResult(name, compared, errors[worst], errors[worst] <= TOLERANCE)


def level_values(case: Mapping[str, Tensor], level: int) -> dict[str, Tensor]:
    """Return the values of the reference functions for one level of a batch, by the golden files' names."""
    boxes, image_index, stride = case["boxes"], case["image_index"], int(case["strides"][level])
    student, teacher = case[f"l{level}_student"], case[f"l{level}_teacher"]  # (B, C, H, W)
    prototypes = Prototypes(
        case[f"l{level}_prototypes_teacher"], case[f"l{level}_prototypes_student"], case["class_start"]
    )
    pooled_s = pool_reference(student, boxes, image_index, stride)  # (M, C)
    pooled_t = pool_reference(teacher, boxes, image_index, stride)
    place = positions(pooled_s, pooled_t, prototypes)
    omega = robustness(place, case["labels"], prototypes)  # (M,)
    on_level = assign_levels_reference(boxes, len(case["strides"])) == level
    images, _, height, width = student.shape
    mask = foreground_mask_reference(boxes, omega, image_index, on_level, stride, (images, height, width))
    local = local_losses_reference(student, teacher, mask)
    attenuation = case["attenuation"]
    return {
        "robustness": omega,
        "global_loss": case["factor"] * attenuation * global_loss(place, omega),
        "mask": mask,
        "local_foreground": case["weight_foreground"] * attenuation * local.foreground,
        "local_background": case["weight_background"] * attenuation * local.background,
    }


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Return the largest relative difference of any element.

    Huge where only one is 0, infinite for NaN or another size.
    """
    if found.numel() != wanted.numel():
        return float("inf")
    difference = (found.double() - wanted.double().view_as(found)).abs()
    scale = wanted.double().view_as(found).abs().clamp_min(torch.finfo(torch.float32).tiny)
    return float((difference / scale).max().nan_to_num(nan=float("inf")))


def _checked(path: Path, check: Callable[[str, Mapping[str, Tensor]], CaseResult]) -> CaseResult:
    """Return the result of one file; an unusable file is a failed case and does not hide the others."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            case = {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}
        return check(path.name, case)
    except UNUSABLE as error:
        return CaseResult(path.name, f"unusable: {type(error).__name__}: {error}", None, False)


def _read_manifest(folder: Path) -> dict[str, list[dict[str, str]]]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise _no_vectors(f"there is no {path}")
    try:
        manifest: dict[str, list[dict[str, str]]] = json.loads(path.read_bytes())
        listed = [entry["file"] for kind in KINDS for entry in manifest.get(kind, [])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_vectors(f"{path} is no manifest: {type(error).__name__}: {error}") from error
    if not listed:
        raise _no_vectors(f"{path} lists no file under {' or '.join(KINDS)}")
    return manifest


def _no_vectors(message: str) -> DataError:
    return DataError([Problem(loc=("folder",), message=message, hint=HINT)])


KINDS: dict[str, Callable[[str, Mapping[str, Tensor]], CaseResult]] = {
    "pgm": check_selection,
    "rdm": check_losses,
}
"""Kinds of files in the manifest, and the function that compares each."""


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="gkd conformance", description="Compare with the published code's numbers."
    )
    parser.add_argument("folder", type=Path, help="folder with manifest.json and the files that it lists")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    try:
        results = list(_printed(run(arguments.folder), arguments.json))
    except DataError as error:
        print(f"{error.message}. {error.hint}", file=sys.stderr)
        return 1
    return 0 if all(result.ok for result in results) else 1


def _printed(results: Iterator[CaseResult], as_json: bool) -> Iterator[CaseResult]:
    for result in results:
        print(json.dumps(asdict(result)) if as_json else result.line(), flush=True)
        yield result


if __name__ == "__main__":
    sys.exit(main())
