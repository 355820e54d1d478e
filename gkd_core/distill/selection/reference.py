"""Selection as the published code does it: a density filter, then joint matching pursuit. Formulas: docs/method.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gkd_core.distill.joint_space import require_possible, unit_features

BANDWIDTH = 0.1
"""Width of the density kernel, in cosine distance."""
QUANTILE = 0.4
"""Share of the instances that the density filter drops in each space."""
COSINES_AT_ONCE = 2**17
"""How many cosines between instances are in memory at a time: 1 MiB, which fits a CPU's cache a few times."""


def select_reference(teacher: Tensor, student: Tensor, num_prototypes: int, alpha: float) -> Tensor:
    """Choose as the published code does: joint matching pursuit among the dense instances (PGM of the paper).

    As there, a choice may repeat, and sparse groups of instances are never chosen. Where the filter leaves none (1 to
    3 instances, or all alike), every instance is a candidate.

    Args:
        teacher: (N, C_t), N >= 1.
        student: (N, C_s).
        num_prototypes: K >= 1.
        alpha: the paper's lambda, in 0..1e6.

    Returns:
        (K,) int64 indices into the N instances, in the order of choice.
    """
    require_possible(teacher, student, num_prototypes, alpha)
    t, s = unit_features(teacher, student)
    survey = Survey.of(t, s)
    candidates = survey.dense()  # (K_cand,)
    pursuit = _Pursuit((t, s), candidates, survey, alpha)
    chosen = [pursuit.best()]
    for _ in range(num_prototypes - 1):
        pursuit.subtract(chosen[-1])
        chosen.append(pursuit.best())
    return candidates[torch.cat(chosen)]


class Survey(NamedTuple):
    """Sums over all cosines between instances, each (N,): summed over the other instance."""

    product: Tensor
    """Sum of cosine in one space times cosine in the other."""
    squares_t: Tensor
    """Sum of squared cosines in the teacher's space."""
    squares_s: Tensor
    """The same in the student's."""
    density_t: Tensor
    """Sum of exp(-((1 - cosine) / bandwidth)^2) in the teacher's space."""
    density_s: Tensor

    @classmethod
    def of(cls, teacher: Tensor, student: Tensor) -> Survey:
        """Compute the sums over every pair of instances, a few rows at a time.

        Args:
            teacher: (N, C_t) float64 of length 1.
            student: (N, C_s) likewise.
        """
        count = len(teacher)
        totals, ones = teacher.new_zeros(len(cls._fields), count), teacher.new_ones(count)
        size = max(64, COSINES_AT_ONCE // count)
        for first in range(0, count, size):
            rows = slice(first, first + size)
            cosines = [space[rows] @ space[first:].T for space in (teacher, student)]
            for total, values in zip(totals, _per_pair(*cosines), strict=True):
                total[rows] += values @ ones[first:]
                total[first + size :] += ones[rows] @ values[:, size:]
        return cls(*totals)

    def dense(self) -> Tensor:
        """Return (K_cand,) ascending: instances above the density quantile in both spaces; all, if there are none."""
        kept = _is_dense(self.density_t) & _is_dense(self.density_s)
        return (kept | ~kept.any()).nonzero().squeeze(1)


def _per_pair(cosines_t: Tensor, cosines_s: Tensor) -> Iterator[Tensor]:
    """Yield the terms of each pair in the order of `Survey`, one at a time; modifies the cosines."""
    yield cosines_t * cosines_s
    yield cosines_t.square()
    yield cosines_s.square()
    for cosines in (cosines_t, cosines_s):
        yield cosines.sub_(1).square_().mul_(-(BANDWIDTH**-2)).exp_()


def _is_dense(density: Tensor) -> Tensor:
    return density > density.sort().values[int(QUANTILE * len(density))]


class _Pursuit:
    """Joint matching pursuit that stores no residuals.

    Of each candidate's correlations a and b with the residuals of all instances only the sums of squares and of
    products are kept; what was subtracted is recomputed from the steps.

    Error of a candidate, up to a constant: -sum_i (a_i w_t,i + b_i w_s,i) = -(p (A + B) + 2 q C), with A, B and C the
    sums over all instances of a^2, b^2 and a b, and w_t = p a + q b, w_s = p b + q a the best tied coefficients.
    """

    def __init__(
        self, spaces: tuple[Tensor, Tensor], candidates: Tensor, survey: Survey, alpha: float
    ) -> None:
        """Start with the features, (N, C) in each space, as residuals."""
        self.spaces, self.atoms = spaces, [space[candidates] for space in spaces]
        self.p, self.q = (1 + alpha) / (1 + 2 * alpha), alpha / (1 + 2 * alpha)
        self.squares = [survey.squares_t[candidates], survey.squares_s[candidates]]  # A and B, (K_cand,)
        self.product = survey.product[candidates]  # C, (K_cand,)
        self.cosines = [atoms.new_empty(0, len(atoms)) for atoms in self.atoms]
        """For each space (steps, K_cand), cosines with the atom that was chosen in each step."""
        self.coefficients = [space.new_empty(0, len(space)) for space in spaces]
        """For each space (steps, N), coefficients by which that atom was subtracted."""

    def best(self) -> Tensor:
        """Return (1,) the candidate with the least error; as an index that needs no synchronisation with a GPU."""
        errors = -(self.p * (self.squares[0] + self.squares[1]) + 2 * self.q * self.product)
        return errors.argmin(0, keepdim=True)

    def subtract(self, k: Tensor) -> None:
        """Subtract a candidate's (1,) part from the residuals."""
        a, b = self._correlations(0, k), self._correlations(1, k)
        w_t, w_s = self.p * a + self.q * b, self.p * b + self.q * a
        g, h = (atoms @ atoms[k][0] for atoms in self.atoms)  # (K_cand,)
        self.squares[0] += g * (g * (w_t @ w_t) - 2 * self._products(0, w_t))
        self.squares[1] += h * (h * (w_s @ w_s) - 2 * self._products(1, w_s))
        self.product += g * h * (w_t @ w_s) - h * self._products(0, w_s) - g * self._products(1, w_t)
        self.cosines = [_append_row(*pair) for pair in zip(self.cosines, (g, h), strict=True)]
        self.coefficients = [_append_row(*pair) for pair in zip(self.coefficients, (w_t, w_s), strict=True)]

    def _correlations(self, space: int, k: Tensor) -> Tensor:
        """Return (N,) the correlations of a candidate with the residuals."""
        subtracted = self.cosines[space][:, k][:, 0] @ self.coefficients[space]
        return self.spaces[space] @ self.atoms[space][k][0] - subtracted

    def _products(self, space: int, weights: Tensor) -> Tensor:
        """Return (K_cand,) the products of each candidate's correlations with weights (N,)."""
        subtracted = (self.coefficients[space] @ weights) @ self.cosines[space]
        return self.atoms[space] @ (weights @ self.spaces[space]) - subtracted


def _append_row(rows: Tensor, row: Tensor) -> Tensor:
    return torch.cat([rows, row[None]])
