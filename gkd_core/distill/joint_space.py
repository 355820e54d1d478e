"""Least squares in both feature spaces at once (joint reconstruction), for many classes in a batch.

Atom k of a class is an instance as a pair of columns, t_k in the teacher's space and s_k in the student's, whose
coefficients are tied by alpha. Instance n is the target (t_n, s_n). Everything is computed from products of features,
so no matrix here is N x N: cost and memory grow with the instances, not with their square.

Everything is float64: near ties must be decided alike on every device.

Shapes: G classes, each padded with zeros to N instances and m atoms; C_t and C_s channels; axes of length 2 are
(teacher, student). An atom of zeros explains nothing, so classes with fewer atoms share a batch with the others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gkd_core.compute.full_precision import unit
from gkd_core.config import STRONGEST_TIE

RIDGE = 1e-7
"""Added to the diagonal of normal matrices: with alpha 0, or atoms alike, they may be singular."""


def unit_features(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Return features of length 1 in both spaces, in float64: near ties must be decided alike on every device."""
    return unit(teacher.detach().double()), unit(student.detach().double())


def require_possible(teacher: Tensor, student: Tensor, k: int, alpha: float) -> None:
    """Check the arguments of a selection.

    Raises:
        ValueError: there are no instances, not as many in both spaces, or K or alpha is out of range.
    """
    if len(teacher) != len(student) or len(teacher) == 0:
        raise ValueError(
            f"{len(teacher)} teacher and {len(student)} student features: need the same number, >= 1"
        )
    if k < 1 or not 0 <= alpha <= STRONGEST_TIE:
        raise ValueError(
            f"num_prototypes {k} and alpha {alpha}: need at least 1 and at least 0, at most {STRONGEST_TIE:g}"
        )


class Atoms(NamedTuple):
    """Products of the chosen atoms with every instance."""

    columns: Tensor
    """(G, 2, m, N) products of each atom's columns with those of all instances."""
    responses: Tensor
    """(G, 2, 2, m, N) products of the instances' correlations with all targets, in the space of the first axis, and
    the atoms', in the space of the second."""

    def without(self, position: int) -> Atoms:
        """Return all atoms but one."""
        return Atoms(*(torch.cat([t[..., :position, :], t[..., position + 1 :, :]], -2) for t in self))

    def put(self, position: int, rows: Tensor, others: Atoms) -> None:
        """Replace, in some classes (rows of G), one atom by the first of other atoms."""
        for mine, theirs in zip(self, others, strict=True):
            mine.select(-2, position)[rows] = theirs.select(-2, 0)[rows]

    def and_(self, others: Atoms) -> Atoms:
        """Return these atoms and others."""
        return Atoms(*(torch.cat(pair, -2) for pair in zip(self, others, strict=True)))


class JointSpace(NamedTuple):
    """The normalised features of some classes in both spaces, and their second moments."""

    features: tuple[Tensor, Tensor]
    """(G, N, C_t) and (G, N, C_s), of length 1, or 0 for padding."""
    moments: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    """[a][b]: (G, C_a, C_b), sums over instances of features in a times features in b."""
    alpha: float
    own_product: Tensor
    """(G, 2, N) squared lengths: 1 or 0."""
    own_response: Tensor
    """(G, 2, 2, N) each instance's response to itself as an atom."""

    @classmethod
    def of(cls, teacher: Tensor, student: Tensor, alpha: float) -> JointSpace:
        """Compute the second moments of features.

        Args:
            teacher: (G, N, C_t) float64 of length 1, rows of zeros for padding.
            student: (G, N, C_s) of the same instances.
            alpha: the paper's lambda, at least 0.
        """
        t, s = teacher, student
        crossed = t.mT @ s
        moments = (t.mT @ t, crossed), (crossed.mT, s.mT @ s)
        tt, ts, ss = (
            ((a @ moment) * b).sum(2)
            for a, moment, b in ((t, moments[0][0], t), (t, crossed, s), (s, moments[1][1], s))
        )
        response = torch.stack([tt, ts, ts, ss], 1).unflatten(1, (2, 2))
        product = torch.stack([t.square().sum(2), s.square().sum(2)], 1)
        return cls((t, s), moments, alpha, product, response)

    def atoms(self, chosen: Tensor) -> Atoms:
        """Return the products of instances, taken as atoms, with all instances.

        Args:
            chosen: (G, m) int64; -1 for an atom of zeros.
        """
        there = (chosen >= 0)[..., None]
        picked = [space[_classes(chosen), chosen.clamp_min(0)] * there for space in self.features]
        views = []
        for own, space in enumerate(self.features):
            asked = [picked[own], *(picked[other] @ self.moments[other][own] for other in (0, 1))]
            views.append((torch.cat(asked, 1) @ space.mT).unflatten(1, (3, -1)))  # (G, 3, m, N)
        seen = torch.stack(views, 1)  # (G, 2, 3, m, N)
        return Atoms(seen[:, :, 0].clone(), seen[:, :, 1:].clone())

    def gains(self, chosen: Tensor, atoms: Atoms) -> Tensor:
        """Return how much more is explained when an instance becomes an atom and all coefficients are fitted anew.

        The Schur complement of the chosen atoms leaves for each instance a 2 x 2 product S and, over all targets, a
        2 x 2 response R; the gain is trace(S^-1 R).

        Args:
            chosen: (G, m) as in `atoms`.
            atoms: of these.

        Returns:
            (G, N), the gain of each instance.
        """
        product, response = torch.diag_embed(self.own_product.mT), self.own_response.permute(0, 3, 1, 2)
        if chosen.shape[1]:
            inverse, inner = self.normal(chosen, atoms)
            fit = _blocks_times_columns(
                inverse, atoms.columns
            )  # (G, 2, 2, m, N): space of the instance, of the atom
            double = _blocks_times_columns(inverse @ inner @ inverse, atoms.columns)
            columns = atoms.columns[:, None]
            crossed = (fit[:, :, None] * atoms.responses[:, None]).sum((3, 4)).permute(0, 3, 1, 2)
            product = product - (fit * columns).sum(3).permute(0, 3, 1, 2)
            response = response - crossed - crossed.mT + (double * columns).sum(3).permute(0, 3, 1, 2)
        return _trace_of_solution(product, response, self.alpha)

    def normal(self, chosen: Tensor, atoms: Atoms) -> tuple[Tensor, Tensor]:
        """Return the inverse of the chosen atoms' normal matrix, and their responses among each other.

        Args:
            chosen: (G, m) as in `atoms`.
            atoms: of these.

        Returns:
            Both (G, 2m, 2m), teacher's columns before student's.
        """
        classes, m = chosen.shape
        there = (chosen >= 0).double()
        at = chosen.clamp_min(0)
        products = _at_chosen(atoms.columns, at) * there[:, None, None]  # (G, 2, m, m)
        normal = products.new_zeros(classes, 2, m, 2, m)
        for space in (0, 1):
            normal[:, space, :, space] = products[:, space]
        normal += _tie_matrix(self.alpha).to(normal)[:, None, :, None] * torch.eye(m).to(normal)[:, None]
        inner = (_at_chosen(atoms.responses, at) * there[:, None, None, None]).permute(0, 1, 4, 2, 3)
        flat = classes, 2 * m, 2 * m
        return _inverse(normal.view(flat)), inner.reshape(flat)


def _classes(chosen: Tensor) -> Tensor:
    return torch.arange(len(chosen), device=chosen.device)[:, None]


def _at_chosen(values: Tensor, chosen: Tensor) -> Tensor:
    """Return (G, ..., m, m), of values (G, ..., m, N) those at the chosen instances."""
    between = [1] * (values.dim() - 2)
    index = chosen.view(len(chosen), *between, -1)
    return values.gather(-1, index.expand(*values.shape[:-1], chosen.shape[1]))


def _inverse(normal: Tensor) -> Tensor:
    """Invert (G, n, n) symmetric positive definite matrices.

    On a CPU solving runs each small matrix on all threads; on a GPU the Cholesky inverse is sequential over matrices.
    """
    if normal.is_cuda:
        inverse: Tensor = torch.linalg.inv_ex(normal).inverse
        return inverse
    return torch.cholesky_inverse(torch.linalg.cholesky_ex(normal).L)


def _blocks_times_columns(matrix: Tensor, columns: Tensor) -> Tensor:
    """Return (G, 2, 2, m, N), blocks (2m, m) of a (G, 2m, 2m) matrix times the columns of their space."""
    m = columns.shape[2]
    blocks = matrix.unflatten(2, (2, m)).transpose(1, 2)  # (G, 2, 2m, m)
    products: Tensor = (blocks @ columns).unflatten(2, (2, m))
    return products


def _tie_matrix(alpha: float) -> Tensor:
    """Return (2, 2) what alpha and the ridge add to an atom's own products."""
    ones = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    return alpha * ones + RIDGE * torch.eye(2, dtype=torch.float64)


def _trace_of_solution(product: Tensor, response: Tensor, alpha: float) -> Tensor:
    """Return (G, N), the trace of (S + tie)^-1 R for S and R (G, N, 2, 2).

    Computed in the basis of sum and difference of both spaces, where alpha is in one element alone and cancels no
    digits of the others.
    """
    s_sum, s_diff, s_mixed = _rotated(product)
    r_sum, r_diff, r_mixed = _rotated(response)
    s_sum, s_diff = s_sum + RIDGE, s_diff + (2 * alpha + RIDGE)
    determinant = s_sum * s_diff - s_mixed.square()
    return (s_diff * r_sum + s_sum * r_diff - 2 * s_mixed * r_mixed) / determinant


def _rotated(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the elements (1, 1), (2, 2), (1, 2) of symmetric 2 x 2 matrices in the basis of sum and difference."""
    middle = (matrix[..., 0, 0] + matrix[..., 1, 1]) / 2
    mixed = (matrix[..., 0, 1] + matrix[..., 1, 0]) / 2
    return middle + mixed, middle - mixed, (matrix[..., 0, 0] - matrix[..., 1, 1]) / 2


# ---- evaluating a choice ---------------------------------------------------------------------------------


class Worth(NamedTuple):
    """Reconstruction errors and explained shares of the choices of some classes."""

    errors: Tensor
    """(G,) residual of |t|^2 + |s|^2 per instance, at least 0."""
    shares: Tensor
    """(G, m) for each atom the share of |T|^2 + |S|^2 that no other atom explains, in [0, 1]."""


def worth(teacher: Tensor, student: Tensor, sizes: Tensor, chosen: Tensor, alpha: float) -> Worth:
    """Compute errors and shares of choices; a repeated choice counts once, and its copies have share 0.

    Args:
        teacher: (G, N, C_t) float64 of length 1, rows of zeros for padding.
        student: (G, N, C_s) of the same instances.
        sizes: (G,) instances of each class.
        chosen: (G, m) int64, -1 for none.
        alpha: the paper's lambda, at least 0.
    """
    spaces = teacher, student
    first, copies = _occurrences(chosen)
    there = (first & (chosen >= 0))[..., None]
    picked = [space[_classes(chosen), chosen.clamp_min(0)] * there for space in spaces]
    rows = torch.stack([atoms @ space.mT for atoms, space in zip(picked, spaces, strict=True)], 2)
    inverse = _inverse(_normal_by_atom(picked, alpha))
    responses = rows.flatten(1, 2) @ rows.flatten(1, 2).mT  # (G, 2m, 2m), atom by atom
    energy = spaces[0].square().sum((1, 2)) + spaces[1].square().sum((1, 2))
    explained = (inverse * responses).sum((1, 2))
    # eliminating all others leaves of an atom the 2 x 2 product ((H^-1)_kk)^-1, as in `JointSpace.gains`
    own, answer = _own_blocks(inverse), _own_blocks(inverse @ responses @ inverse)
    lost = torch.linalg.solve(own, answer).diagonal(dim1=2, dim2=3).sum(2)  # (G, m)
    shares = lost / energy.clamp_min(1)[:, None] * (copies == 1) * (chosen >= 0)
    return Worth(((energy - explained) / sizes).clamp_min(0).float(), shares.clamp(0, 1).float())


def _occurrences(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return (G, m) whether a choice is the first of its kind, and how often it occurs."""
    same = chosen[:, :, None] == chosen[:, None, :]
    earlier = torch.ones_like(same[0]).tril(-1)
    return ~(same & earlier).any(2), same.sum(2)


def _normal_by_atom(picked: list[Tensor], alpha: float) -> Tensor:
    """Return the (G, 2m, 2m) normal matrix, the two columns of an atom side by side."""
    classes, m, _ = picked[0].shape
    normal = picked[0].new_zeros(classes, m, 2, m, 2)
    for space, atoms in enumerate(picked):
        normal[:, :, space, :, space] = atoms @ atoms.mT
    normal += torch.eye(m).to(normal)[:, None, :, None] * _tie_matrix(alpha).to(normal)[:, None, :]
    return normal.view(classes, 2 * m, 2 * m)


def _own_blocks(matrix: Tensor) -> Tensor:
    """Return (G, m, 2, 2), the blocks on the diagonal of (G, 2m, 2m)."""
    count = matrix.shape[1] // 2
    return matrix.view(-1, count, 2, count, 2).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
