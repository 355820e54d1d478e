"""Whether the optimisations of distillation change its result: AP of students by batched and by plain forms.

    python bench/same_accuracy.py DATA --teacher MODEL.safetensors [--epochs 8] [--seeds 3] [--precision bfloat16]

`fast` is the library as it is. `plain` does the same in a slow form that is easy to follow, written here: each box is
cropped by itself, masks are painted box by box and repeated over the channels, an instance is compared with its class's
prototypes alone, and prototypes are chosen with a residual for every candidate. Both follow the conventions called
`reference`. Rounding differs, so single runs do, as they do from seed to seed; means should not by more than that.
Without DATA there is nothing to do.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from figures import Figure, report
from selection import published_form
from torch import Tensor
from torch.nn import functional

from gkd_core.config import run_config
from gkd_core.distill.grids import Grids, Slots
from gkd_core.distill.losses.local import LevelLosses
from gkd_core.distill.losses.positions import Positions
from gkd_core.distill.prototypes import Prototypes
from gkd_core.train import train

STUDENT = {
    "architecture": "fcos",
    "backbone": "resnet18",
    "backbone_width": 0.5,
    "fpn": {"channels": 64},
    "head": {"depth": 2},
}


# ---- plain forms, in the place of the library's ----------------------------------------------------------


def pooled(
    maps: Tensor, boxes: Tensor, image_index: Tensor, stride: float, most: int | None = None
) -> Tensor:
    """Pool as `features.pool_reference` does, box by box."""
    height, width = maps.shape[2:]
    found = [maps.new_empty(0, maps.shape[1])]
    for box, at in zip(boxes.tolist(), image_index.tolist(), strict=True):
        x1, y1, x2, y2 = (int(abs(side) / stride) for side in box)
        x1, y1 = min(x1, width - 1), min(y1, height - 1)
        crop = maps[at, :, y1 : max(y1, y2) + 1, x1 : max(x1, x2) + 1]
        found.append(crop.float().mean((1, 2))[None])
    return torch.cat([each.float() for each in found])


def painted(
    boxes: Tensor,
    weights: Tensor,
    image_index: Tensor,
    on_level: Tensor,
    stride: float,
    shape: tuple[int, int, int],
) -> Tensor:
    """Compute `foreground_mask_reference` box by box."""
    mask = torch.zeros(shape)
    for row, (box, at) in enumerate(zip(boxes.tolist(), image_index.tolist(), strict=True)):
        if on_level[row]:
            x1, y1, x2, y2 = (int(side / stride) for side in box)
            x1, y1 = min(x1, shape[2] - 1), min(y1, shape[1] - 1)
            mask[at, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = float(weights[row])
    return mask


def imitated(student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `local_losses_reference` with masks as large as the maps."""
    mask = mask[:, None].double().repeat(1, student.shape[1], 1, 1)
    squared, background = (student.float() - teacher.float()).square(), mask == 0
    return (
        ((squared * mask).sum() / (2 * mask.sum()).clamp_min(1)).float(),
        ((squared * background).sum() / (2 * background.sum()).clamp_min(1)).float(),
    )


def placed(student: Tensor, teacher: Tensor, prototypes: Prototypes) -> Positions:
    """Compute `positions` instance by instance."""
    pairs = (student, prototypes.student), (teacher.detach(), prototypes.teacher)
    return Positions(
        *(
            torch.cat([rows.new_empty(0, len(rows)), *(_cosines(each, rows) for each in features)])
            for features, rows in pairs
        )
    )


def _cosines(feature: Tensor, rows: Tensor) -> Tensor:
    return functional.cosine_similarity(feature[None].float(), rows.detach().float())[None]


def trusted(places: Positions, labels: Tensor, prototypes: Prototypes) -> Tensor:
    """Compute `robustness` instance by instance."""
    starts, found = prototypes.class_start.tolist(), []
    for row, label in enumerate(labels.tolist()):
        own = slice(starts[label], starts[label + 1])
        s, t = (cosines[row, own].detach() for cosines in places)
        found.append(1 - (s.max() - t.max()).abs() if len(s) else torch.ones(()))
    return torch.stack(found).clamp(0, 1) if found else torch.ones(0)


def pooled_on_levels(pyramids: Any, boxes: Tensor, slots: Slots, grids: Grids) -> list[Tensor]:
    """Compute `features.pool_reference_on_levels` level by level."""
    strides = grids.strides.flatten().tolist()
    return [
        torch.stack(
            [pooled(level, boxes, slots.image, stride) for level, stride in zip(maps, strides, strict=True)]
        )
        for maps in pyramids
    ]


def painted_on_levels(boxes: Tensor, weights: Tensor, level: Tensor, grids: Grids, slots: Slots) -> Tensor:
    """Compute `foreground_masks_reference` level by level."""
    levels = zip(grids.strides.flatten().tolist(), grids.shapes, weights, strict=True)
    masks = [
        painted(boxes, own, slots.image, level == at, stride, (slots.images, *shape)).flatten(1)
        for at, (stride, shape, own) in enumerate(levels)
    ]
    return torch.cat(masks, dim=1)


def imitated_on_levels(students: list[Tensor], teachers: list[Tensor], masks: Tensor) -> LevelLosses:
    """Compute `local_losses_reference_on_levels` level by level."""
    found = []
    parts = masks.split([each.shape[2] * each.shape[3] for each in students], dim=1)
    for student, teacher, mask in zip(students, teachers, parts, strict=True):
        found.append(torch.stack(imitated(student, teacher, mask.view(-1, *student.shape[2:]))))
    return LevelLosses(torch.stack(found), torch.ones(len(found), 2))


def placed_on_levels(student: Tensor, teacher: Tensor, prototypes: Prototypes) -> Positions:
    """Compute `positions` level by level."""
    levels = zip(student, teacher, prototypes.teacher, prototypes.student, strict=True)
    found = [
        placed(s, t, Prototypes(rows_t, rows_s, prototypes.class_start)) for s, t, rows_t, rows_s in levels
    ]
    return Positions(*(torch.stack(side) for side in zip(*found, strict=True)))


def trusted_on_levels(places: Positions, labels: Tensor, prototypes: Prototypes) -> Tensor:
    """Compute `robustness` level by level."""
    return torch.stack(
        [trusted(Positions(*level), labels, prototypes) for level in zip(*places, strict=True)]
    )


PLAIN = {
    "gkd_core.distill.features.pool_reference": pooled,
    "gkd_core.distill.features.pool_reference_on_levels": pooled_on_levels,
    "gkd_core.distill.losses.local.foreground_masks_reference": painted_on_levels,
    "gkd_core.distill.losses.local.local_losses_reference_on_levels": imitated_on_levels,
    "gkd_core.distill.losses.context.positions": placed_on_levels,
    "gkd_core.distill.losses.context.robustness": trusted_on_levels,
    "gkd_core.distill.distiller.select_reference": published_form,
}
WAYS: dict[str, dict[str, Any]] = {"fast": {}, "plain": PLAIN}


# ---- the runs --------------------------------------------------------------------------------------------


def main() -> None:
    """Train with each seed in both ways."""
    options = _options()
    if options.data is None or options.teacher is None:
        print("nothing to do: name the folder of a data set and --teacher", file=sys.stderr)
        return
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in range(options.seeds):
        for way in WAYS:
            found[way].append(_ap(way, seed, options))
            print(f"{way}, seed {seed}: AP {found[way][-1]:.4f}", file=sys.stderr, flush=True)
    report(_figures(found, options.epochs))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--precision", default="bfloat16")
    return parser.parse_args()


def _ap(way: str, seed: int, options: argparse.Namespace) -> float:
    """Return the AP of a student after its last epoch."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, form in WAYS[way].items():
            stack.enter_context(mock.patch(name, form))
        events = train(run_config.validate_python(_spec(seed, options)), folder)
        (evaluation,) = (event for event in events if event.kind == "evaluation" and event.run == "student")
    return float(evaluation.metrics["AP"])


def _spec(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "kind": "distill",
        "data": str(options.data.absolute()),
        "device": "cpu",
        "teacher": {"weights": str(options.teacher.absolute())},
        "student": STUDENT,
        "distill": {
            "conventions": "reference",
            "control": False,
            "prototypes": {"selection": "reference", "every": max(1, options.epochs // 2)},
        },
        "train": {
            "epochs": options.epochs,
            "evaluate_every": options.epochs,
            "seed": seed,
            "batch_size": 4,
            "image_size": options.size,
            "precision": options.precision,
            "optimizer": {"lr": 2e-3},
            "workers": 0,
        },
    }


def _figures(found: dict[str, list[float]], epochs: int) -> list[Figure]:
    mean = {way: statistics.mean(values) for way, values in found.items()}
    spread = max(max(values) - min(values) for values in found.values())
    return [
        Figure(
            f"AP after {epochs} epochs, mean of {len(found['fast'])} seeds: |fast - plain|",
            abs(mean["fast"] - mean["plain"]),
            "AP",
            at_most=spread,
            details={**found, "spread from seed to seed": spread},
        )
    ]


if __name__ == "__main__":
    main()
