"""The cost of choosing prototypes: against the published form, for a COCO-sized renewal, and as instances grow.

    python bench/selection.py [--runs 5]

The published form keeps the residual of every candidate, (candidates, C, N) numbers; it was written anew here from
its description (docs/method.md), to be measured against. Features are drawn around common directions, as objects of
one class are. On a GPU where there is one, else on two threads.
"""

from __future__ import annotations

import argparse
import math
import statistics
from functools import partial

import torch
from figures import RUNS, Figure, device, in_turn, peak_bytes, ratio, report, timed
from torch import Tensor

from gkd_core.compute.full_precision import unit
from gkd_core.distill.prototypes import generate
from gkd_core.distill.selection.orthogonal import select_orthogonal
from gkd_core.distill.selection.reference import Survey, select_reference

INSTANCES, CHANNELS, PER_CLASS, ALPHA = 800, 256, 10, 10.0
CLASSES, LEVELS = 80, 5
GROWTH = (100, 300, 1000, 3000, 10000)


def published_form(teacher: Tensor, student: Tensor, count: int, alpha: float) -> Tensor:
    """Run joint matching pursuit with a residual for each candidate: (candidates, C, N) numbers a space and step."""
    spaces = [unit(teacher), unit(student)]
    candidates = Survey.of(*(space.double() for space in spaces)).dense()
    atoms = [space[candidates] for space in spaces]  # (K_cand, C)
    residuals = [space.T.clone() for space in spaces]  # (C, N)
    chosen = []
    for _ in range(count):
        a, b = (atom @ left for atom, left in zip(atoms, residuals, strict=True))  # (K_cand, N)
        w_t = ((1 + alpha) * a + alpha * b) / (1 + 2 * alpha)
        w_s = ((1 + alpha) * b + alpha * a) / (1 + 2 * alpha)
        error = alpha * (w_t - w_s).square().sum(1)
        for atom, left, weights in zip(atoms, residuals, (w_t, w_s), strict=True):
            error = error + (left[None] - atom[:, :, None] * weights[:, None, :]).square().sum((1, 2))
        k = error.argmin()
        chosen.append(candidates[k])
        residuals = [
            left - torch.outer(atom[k], weights[k])
            for atom, left, weights in zip(atoms, residuals, (w_t, w_s), strict=True)
        ]
    return torch.stack(chosen)


def drawn(instances: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return (N, C) features in two spaces around twenty common directions."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.randint(20, (instances,), generator=generator)
    spaces = []
    for _ in range(2):
        centres = torch.randn(20, CHANNELS, generator=generator)
        noise = torch.randn(instances, CHANNELS, generator=generator)
        spaces.append((centres[group] + 0.3 * noise).to(device()))
    return spaces[0], spaces[1]


def against_the_published_form(runs: int) -> list[Figure]:
    """Measure time, memory and choices of one class on one level."""
    space = (*drawn(INSTANCES, 0), PER_CLASS, ALPHA)
    same = torch.equal(published_form(*space), select_reference(*space))
    ways = {
        "published": partial(published_form, *space),
        "ours": partial(select_reference, *space),
        "orthogonal": partial(select_orthogonal, *space),
    }
    taken = in_turn(ways, runs)
    square = 4 * INSTANCES**2
    what = f"one class and level, N = {INSTANCES}, C = {CHANNELS}, K = {PER_CLASS}"
    memory = {name: peak_bytes(run) / square for name, run in ways.items()}
    return [
        ratio(
            f"{what}: published form / ours, same choices",
            taken["published"],
            taken["ours"],
            at_least=300 if same else math.inf,
            details={"same choices": same},
        ),
        ratio(f"{what}: published form / the default selection", taken["published"], taken["orthogonal"]),
        Figure(f"{what}: peak extra memory", memory["ours"], "N^2 floats", at_most=6, details=memory),
        Figure(f"{what}: peak extra memory of the default", memory["orthogonal"], "N^2 floats", at_most=6),
    ]


def coco_sized(runs: int) -> list[Figure]:
    """Measure every class and level of a data set as large as COCO: the choices and their errors."""
    teacher, student = (space.repeat(LEVELS, 1, 1) for space in drawn(CLASSES * INSTANCES, 1))
    labels = (torch.arange(CLASSES * INSTANCES) % CLASSES).to(teacher.device)
    renew = partial(generate, teacher, student, labels, CLASSES, PER_CLASS, ALPHA)
    taken = in_turn({"renewal": renew}, runs, warm_up=int(teacher.is_cuda))[
        "renewal"
    ]  # the processor is at full speed by now
    most = 0.2 if teacher.is_cuda else 15.0
    what = f"a renewal, {CLASSES} classes x {LEVELS} levels x N = {INSTANCES}, C = {CHANNELS}"
    return [timed(what, taken, at_most=most)]


def growth(runs: int) -> list[Figure]:
    """Measure time and memory of one class and level as instances grow; the exponent from 1000 on."""
    figures = []
    for name, select in (("reference", select_reference), ("default", select_orthogonal)):
        ways = {count: partial(select, *drawn(count, 2), PER_CLASS, ALPHA) for count in GROWTH}
        taken = in_turn(ways, runs)
        memory = {count: peak_bytes(run) / 2**20 for count, run in ways.items()}
        first, last = 1000, GROWTH[-1]
        exponents = [
            math.log(b / a) / math.log(last / first) for a, b in zip(taken[first], taken[last], strict=True)
        ]
        middle = {count: statistics.median(values) for count, values in taken.items()}
        figures += [
            Figure(
                f"growth of the {name} selection to N = {last}: exponent",
                statistics.median(exponents),
                "",
                at_most=2,
                spread=(min(exponents), max(exponents)),
                details={"seconds": middle, "MiB": memory},
            ),
            Figure(f"{name} selection at N = {last}: peak extra memory", memory[last], "MiB", at_most=512),
        ]
    return figures


def main() -> None:
    """Run all three measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    report([*against_the_published_form(options.runs), *coco_sized(options.runs), *growth(options.runs)])


if __name__ == "__main__":
    main()
