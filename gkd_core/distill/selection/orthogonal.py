"""Selection by orthogonal pursuit in the joint space, then exchanges: the default. Formulas: docs/method.md."""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_core.distill.joint_space import Atoms, JointSpace, require_possible, unit_features

EXCHANGE_ROUNDS = 2
TIE = 1e-9
"""Gains that differ by less, per instance, are equal, and the lowest index is taken: rounding must not decide."""


def select_orthogonal(teacher: Tensor, student: Tensor, num_prototypes: int, alpha: float) -> Tensor:
    """Choose distinct instances with a low `joint_reconstruction_error`.

    Each step adds the instance that lowers the error most when the coefficients of all choices are refitted; then
    every choice may be exchanged, one at a time, for a better one. All instances are candidates. Ties go to the
    lowest index.

    Args:
        teacher: (N, C_t), N >= 1.
        student: (N, C_s).
        num_prototypes: K >= 1.
        alpha: the paper's lambda, in 0..1e6.

    Returns:
        (min(K, N),) int64 distinct indices into the N instances.
    """
    require_possible(teacher, student, num_prototypes, alpha)
    t, s = unit_features(teacher, student)
    space = JointSpace.of(t[None], s[None], alpha)
    chosen = pursue(space, torch.tensor([len(teacher)], device=teacher.device), num_prototypes)[0]
    return chosen[chosen >= 0]


def pursue(space: JointSpace, sizes: Tensor, num_prototypes: int) -> Tensor:
    """Return (G, m) distinct choices of each class in the order of choice; -1 behind the last.

    Args:
        space: features of G classes, padded.
        sizes: (G,) instances of each.
        num_prototypes: K >= 1.
    """
    chosen = sizes.new_empty(len(sizes), 0)
    atoms = space.atoms(chosen)
    for _ in range(min(num_prototypes, space.features[0].shape[1])):
        best, gains = _best_addition(space, sizes, chosen, atoms)
        found = torch.where(gains.amax(1) >= 0, best, -1)[:, None]
        chosen, atoms = torch.cat([chosen, found], 1), atoms.and_(space.atoms(found))
    for _ in range(EXCHANGE_ROUNDS):
        before = chosen.clone()
        for position in range(chosen.shape[1]):
            _exchange(space, sizes, chosen, atoms, position)
        if torch.equal(before, chosen):
            break
    return chosen


def _best_addition(space: JointSpace, sizes: Tensor, chosen: Tensor, atoms: Atoms) -> tuple[Tensor, Tensor]:
    """Return (G,) the instance that adds most to what is explained, and what each (G, N) would add.

    An instance that is chosen already, or padding, adds -1.
    """
    gains = space.gains(chosen, atoms)
    place = torch.arange(gains.shape[1], device=gains.device)
    taken = (place[None, :, None] == chosen[:, None, :]).any(2) | (place >= sizes[:, None])
    gains = gains.clamp_min(0).masked_fill(taken, -1.0)
    best = gains.amax(1, keepdim=True)
    return (gains >= best - TIE * sizes[:, None]).int().argmax(1), gains


def _exchange(space: JointSpace, sizes: Tensor, chosen: Tensor, atoms: Atoms, position: int) -> None:
    """Replace one choice of each class in place if another instance lowers the error more."""
    others = torch.cat([chosen[:, :position], chosen[:, position + 1 :]], 1)
    best, gains = _best_addition(space, sizes, others, atoms.without(position))
    now = chosen[:, position]
    gain, before = (gains.gather(1, at[:, None])[:, 0] for at in (best, now.clamp_min(0)))
    changed = ((now >= 0) & (gain > before + TIE * sizes)).nonzero().squeeze(1)
    if len(changed):
        chosen[changed, position] = best[changed]
        atoms.put(position, changed, space.atoms(best[:, None]))
