"""RDM: what the student learns from the teacher. One loss, one file: its formulas, and a value that a step calls.

A loss is a `Loss`: `loss(context)` gives named scalars, weighted and turned down as they enter the sum. A new one is a
file of its own; `of_config` is the one list of those that a spec can ask for. Formulas are unweighted, computed in
float32 at least, 0 with a gradient path when there are no instances, and never send a gradient to the teacher.

Read first: `context.py`, which says what a loss may look at; then `robustness.py`, which turns the others down where
the models disagree.
"""

from typing import Any

from gkd_core.config import DistillConfig
from gkd_core.distill.losses.aicsd import AicsdLoss
from gkd_core.distill.losses.attenuation import attenuation
from gkd_core.distill.losses.attnfd import AttnFdLoss
from gkd_core.distill.losses.bckd import BckdLoss
from gkd_core.distill.losses.context import Loss, LossContext
from gkd_core.distill.losses.cwd import CwdLoss
from gkd_core.distill.losses.dist import DistLoss
from gkd_core.distill.losses.dkd import DkdLoss
from gkd_core.distill.losses.drkd import DrkdLoss
from gkd_core.distill.losses.fgd import FgdLoss
from gkd_core.distill.losses.fgfi import FgfiLoss
from gkd_core.distill.losses.gid import GidLoss
from gkd_core.distill.losses.global_knowledge import GlobalLoss, global_loss, global_projection_loss
from gkd_core.distill.losses.ibfi import IbfiLoss
from gkd_core.distill.losses.local import (
    LocalLoss,
    LocalLosses,
    foreground_mask,
    foreground_mask_reference,
    local_losses,
    local_losses_reference,
)
from gkd_core.distill.losses.maskd import MaskdLoss
from gkd_core.distill.losses.method import MethodLoss
from gkd_core.distill.losses.mgd import MgdLoss
from gkd_core.distill.losses.mse import MseLoss
from gkd_core.distill.losses.patch_pairs import PatchPairsLoss
from gkd_core.distill.losses.pfi import PfiLoss
from gkd_core.distill.losses.pkd import PkdLoss
from gkd_core.distill.losses.positions import Positions, positions
from gkd_core.distill.losses.relation import RelationLoss
from gkd_core.distill.losses.response import (
    ResponseLoss,
    response_sigmoid,
    response_sigmoid_reference,
    response_softmax,
    response_softmax_reference,
)
from gkd_core.distill.losses.robustness import robustness
from gkd_core.distill.losses.yolo_attention import YoloAttentionLoss

__all__ = [
    "METHODS",
    "AicsdLoss",
    "AttnFdLoss",
    "BckdLoss",
    "CwdLoss",
    "DistLoss",
    "DkdLoss",
    "DrkdLoss",
    "FgdLoss",
    "FgfiLoss",
    "GidLoss",
    "GlobalLoss",
    "IbfiLoss",
    "LocalLoss",
    "LocalLosses",
    "Loss",
    "LossContext",
    "MaskdLoss",
    "MethodLoss",
    "MgdLoss",
    "MseLoss",
    "PatchPairsLoss",
    "PfiLoss",
    "PkdLoss",
    "Positions",
    "RelationLoss",
    "ResponseLoss",
    "YoloAttentionLoss",
    "attenuation",
    "foreground_mask",
    "foreground_mask_reference",
    "global_loss",
    "global_projection_loss",
    "local_losses",
    "local_losses_reference",
    "of_config",
    "positions",
    "response_sigmoid",
    "response_sigmoid_reference",
    "response_softmax",
    "response_softmax_reference",
    "robustness",
]


METHODS: dict[str, type[MethodLoss[Any]]] = {
    "aicsd": AicsdLoss,
    "attnfd": AttnFdLoss,
    "bckd": BckdLoss,
    "cwd": CwdLoss,
    "dist": DistLoss,
    "dkd": DkdLoss,
    "drkd": DrkdLoss,
    "fgd": FgdLoss,
    "fgfi": FgfiLoss,
    "gid": GidLoss,
    "ibfi": IbfiLoss,
    "maskd": MaskdLoss,
    "mgd": MgdLoss,
    "mse": MseLoss,
    "patch_pairs": PatchPairsLoss,
    "pfi": PfiLoss,
    "pkd": PkdLoss,
    "relation": RelationLoss,
    "yolo_attention": YoloAttentionLoss,
}
"""Losses of other methods, by the names by which specs list them."""


def of_config(config: DistillConfig) -> tuple[Loss, ...]:
    """Return the losses that a spec asks for, in the order in which a step computes them."""
    return (
        GlobalLoss(**config.global_.model_dump(), instances=config.instances),
        LocalLoss(**config.local.model_dump()),
        ResponseLoss(**config.response.model_dump()),
        *(METHODS[loss.name](**loss.model_dump()) for loss in config.losses),
    )
