"""How well the chosen instances of one class reconstruct all of them, and what each of them adds."""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_core.distill.joint_space import Worth, require_possible, unit_features, worth


def joint_reconstruction_error(teacher: Tensor, student: Tensor, indices: Tensor, alpha: float) -> Tensor:
    """Compute how badly the chosen instances reconstruct all of them, per instance, in both spaces at once.

    min over W_t, W_s of |T - W_t P_t|^2 + |S - W_s P_s|^2 + alpha |W_t - W_s|^2, divided by N, on normalised
    features: 2 when nothing is explained, 0 when everything is. A repeated choice counts once: the second
    copy is no further basis vector.

    Args:
        teacher: (N, C_t), N >= 1.
        student: (N, C_s).
        indices: (K,) int64 choices, repeats allowed.
        alpha: the paper's lambda, in 0..1e6.

    Returns:
        Scalar float32.
    """
    return _worth_of_one(teacher, student, indices, alpha).errors[0]


def explained_shares(teacher: Tensor, student: Tensor, indices: Tensor, alpha: float) -> Tensor:
    """Compute what each chosen instance adds to the others: the share of |T|^2 + |S|^2 that no other explains.

    With E the joint reconstruction error, (E without it - E) N / (|T|^2 + |S|^2), on normalised features. What
    several explain alike counts for none of them, so shares need not sum to 1; both copies of a choice that occurs
    twice have share 0.

    Args:
        teacher: (N, C_t) of one class, N >= 1.
        student: (N, C_s).
        indices: (K,) int64 choices, repeats allowed.
        alpha: the paper's lambda, in 0..1e6.

    Returns:
        (K,) float32 in [0, 1].
    """
    return _worth_of_one(teacher, student, indices, alpha).shares[0]


def _worth_of_one(teacher: Tensor, student: Tensor, indices: Tensor, alpha: float) -> Worth:
    require_possible(teacher, student, 1, alpha)
    t, s = unit_features(teacher, student)
    return worth(t[None], s[None], torch.tensor([len(t)], device=t.device), indices[None], alpha)
