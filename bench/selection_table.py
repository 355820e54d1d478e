"""How well each selection reconstructs the instances of the published-code vectors: a table, and the same as JSON.

    python bench/selection_table.py FOLDER

FOLDER holds `pgm_*.npz`, each with `teacher` (N, C_t), `student` (N, C_s), `num_prototypes`, `alpha` and `indices`,
the published code's own choice. Lower errors are better; 2 means that nothing is explained. Of several tries the best
counts, in error and in time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gkd_core.distill.reconstruction import joint_reconstruction_error
from gkd_core.distill.selection.baselines import select_kmeans, select_random
from gkd_core.distill.selection.orthogonal import select_orthogonal
from gkd_core.distill.selection.reference import select_reference

DRAWS = 20
"""Tries of `random`."""
RUNS = 5
"""Tries of `kmeans`, each from other initial centres."""
TIMES = 3
"""Runs of the other methods: their choice is always the same, the time is not."""
COLUMNS = ("published", "reference", "random", "kmeans", "orthogonal")


def measure(case: Any) -> dict[str, Any]:
    """Return the errors, distinct choices and times of one file."""
    teacher, student = torch.from_numpy(case["teacher"]), torch.from_numpy(case["student"])
    count, alpha = int(case["num_prototypes"]), float(case["alpha"])
    space = teacher, student, count, alpha
    choices: dict[str, list[Callable[[], Tensor]]] = {
        "published": [lambda: torch.from_numpy(case["indices"])],
        "reference": [partial(select_reference, *space)] * TIMES,
        "random": [partial(select_random, *space, seeded(seed)) for seed in range(DRAWS)],
        "kmeans": [partial(select_kmeans, *space, seeded(seed)) for seed in range(RUNS)],
        "orthogonal": [partial(select_orthogonal, *space)] * TIMES,
    }
    found = {
        name: [judge(choose, teacher, student, alpha) for choose in tries] for name, tries in choices.items()
    }
    return {
        "instances": len(teacher),
        "prototypes": count,
        "alpha": alpha,
        **{
            name: min(tries, key=lambda tried: (tried["error"], tried["ms"])) for name, tries in found.items()
        },
    }


def judge(choose: Callable[[], Tensor], teacher: Tensor, student: Tensor, alpha: float) -> dict[str, Any]:
    """Return the error and the number of distinct instances of a choice, and its milliseconds."""
    began = time.perf_counter()
    indices = choose()
    took = time.perf_counter() - began
    error = joint_reconstruction_error(teacher, student, indices, alpha)
    return {"error": round(float(error), 4), "distinct": len(indices.unique()), "ms": round(1000 * took, 1)}


def seeded(seed: int) -> torch.Generator:
    """Return a generator of its own for each try."""
    return torch.Generator().manual_seed(seed)


def table(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    named = ["file", "N", "K", "λ", *COLUMNS, "distinct, published", "ms, reference", "ms, orthogonal"]
    yield row(named)
    yield row(["---"] * len(named))
    for name, result in results.items():
        errors = [f"{result[column]['error']:.3f}" for column in COLUMNS]
        size = [str(result["instances"]), str(result["prototypes"]), f"{result['alpha']:g}"]
        times = [f"{result[column]['ms']:.0f}" for column in ("reference", "orthogonal")]
        yield row([name, *size, *errors, str(result["published"]["distinct"]), *times])


def row(cells: Sequence[str]) -> str:
    """Return a line of the table."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure every file of the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = os.environ.get("GKD_SHARED")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(shared, "golden") if shared else None)
    folder = parser.parse_args().folder
    if folder is None:
        print("nothing to do: name the folder that holds pgm_*.npz, or set GKD_SHARED", file=sys.stderr)
        return
    torch.set_num_threads(1)
    files = sorted(folder.glob("pgm_*.npz"))
    if not files:
        parser.error(f"{folder} holds no pgm_*.npz")
    measure(np.load(files[0]))  # torch's own start is not measured
    results = {file.stem: measure(np.load(file)) for file in files}
    print(json.dumps(results, indent=1))
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
