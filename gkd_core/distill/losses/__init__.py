"""RDM: what the student learns from the teacher. One loss, one file; tensors in, scalars out.

Not here: weights, attenuation and which boxes take part; the distiller multiplies and chooses. Every loss is
unweighted, computed in float32 at least, 0 with a gradient path when there are no instances, and never sends
a gradient to the teacher.

Read first: `robustness.py`, which turns the other three down where the models disagree.
"""

from gkd_core.distill.losses.attenuation import attenuation
from gkd_core.distill.losses.global_knowledge import Positions, global_loss, global_projection_loss, positions
from gkd_core.distill.losses.local import (
    LocalLosses,
    foreground_mask,
    foreground_mask_reference,
    local_losses,
    local_losses_reference,
)
from gkd_core.distill.losses.response import (
    response_sigmoid,
    response_sigmoid_reference,
    response_softmax,
    response_softmax_reference,
)
from gkd_core.distill.losses.robustness import robustness

__all__ = [
    "LocalLosses",
    "Positions",
    "attenuation",
    "foreground_mask",
    "foreground_mask_reference",
    "global_loss",
    "global_projection_loss",
    "local_losses",
    "local_losses_reference",
    "positions",
    "response_sigmoid",
    "response_sigmoid_reference",
    "response_softmax",
    "response_softmax_reference",
    "robustness",
]
