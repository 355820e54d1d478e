"""How global and local losses fade over a training, so that its end belongs to the ground truth (RDM of the paper)."""

from __future__ import annotations

import math
from typing import Literal


def attenuation(form: Literal["linear", "cosine", "constant"], epoch: int, epochs: int) -> float:
    """Factor of the global and the local losses.

    Args:
        form: `linear`, 1 - epoch / epochs, as published; `cosine`, (1 + cos(pi epoch / epochs)) / 2, which stays high
            for longer and fades faster; `constant`, 1.
        epoch: from 0 up to `epochs`.
        epochs: of the whole training.

    Returns:
        1 in the first epoch, down to 0 behind the last; in [0, 1].
    """
    if form == "constant":
        return 1.0
    return 1 - epoch / epochs if form == "linear" else (1 + math.cos(math.pi * epoch / epochs)) / 2
