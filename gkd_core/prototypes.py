"""PGM: prototype generation. Pooled features in, prototypes out; no model, no randomness that is not an argument.

A prototype is an instance that both feature spaces know. `select_reference` chooses as the published code
does, `select_orthogonal` (the default) chooses distinct instances that reconstruct their class best,
`select_kmeans` and `select_random` are what both have to beat; `generate` does it for every class of one pyramid
level. Formulas: docs/method.md.

Shapes: N instances, C_t and C_s channels of teacher and student, K prototypes of a class, P of all classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gkd_core.errors import DivergedError
from gkd_core.precision import unit

BANDWIDTH = 0.1
"""Width of the density kernel, in cosine distance."""
QUANTILE = 0.4
"""Share of the instances that the density filter drops in each space."""
EXCHANGE_ROUNDS = 2
RIDGE = 1e-7
"""Added to the diagonal of normal matrices: with alpha 0, or repeated choices, they may be singular."""
KMEANS_ROUNDS = 50
"""At most; a few hundred instances settle within twenty."""
TIE = 1e-9
"""Gains that differ by less, per instance, are equal, and the lowest index wins: rounding must not decide."""


class Prototypes(NamedTuple):
    """The prototypes of one pyramid level, grouped by class."""

    teacher: Tensor
    """(P, C_t) float32, raw features."""
    student: Tensor
    """(P, C_s) float32, raw features."""
    class_start: Tensor
    """(classes + 1,) int64: class c owns rows class_start[c] up to class_start[c + 1]."""

    @property
    def labels(self) -> Tensor:
        """(P,) int64, the class of each row, from 0."""
        rows = torch.arange(len(self.teacher), device=self.class_start.device)
        return torch.bucketize(rows, self.class_start[1:], right=True)


Selection = Callable[[Tensor, Tensor, int, float], Tensor]
"""(teacher (N, C_t), student (N, C_s), K, alpha) -> indices."""


def generate(
    teacher: Tensor,
    student: Tensor,
    labels: Tensor,
    num_classes: int,
    per_class: int,
    alpha: float,
    selection: Selection | None = None,
) -> tuple[Prototypes, Tensor]:
    """Choose the prototypes of every class on one level.

    Args:
        teacher: (N, C_t) pooled features, not normalised.
        student: (N, C_s) pooled features of the same instances.
        labels: (N,) int64, from 0 to num_classes - 1.
        num_classes: classes; one without instances gets no rows.
        per_class: K.
        alpha: the paper's lambda, at least 0.
        selection: `select_orthogonal` (None) or another; one that draws has its generator bound already.

    Returns:
        The prototypes, detached copies, and (P,) int64 the instances that they are.

    Raises:
        DivergedError: a feature is NaN or infinite.
    """
    select = selection or select_orthogonal
    teacher, student = teacher.detach().float(), student.detach().float()
    _require_finite(teacher, "teacher")
    _require_finite(student, "student")
    chosen = []
    for label in range(num_classes):
        members = (labels == label).nonzero().squeeze(1)  # (N_c,)
        found = len(members) > 0
        chosen.append(
            members[select(teacher[members], student[members], per_class, alpha)] if found else members
        )
    indices = torch.cat([labels.new_empty(0, dtype=torch.int64), *chosen])  # (P,)
    ends = torch.tensor([0, *map(len, chosen)], device=labels.device).cumsum(0)
    return Prototypes(teacher[indices], student[indices], ends), indices


def _require_finite(features: Tensor, model: str) -> None:
    broken = int((~features.isfinite().all(1)).sum())
    if broken:
        raise DivergedError(
            f"{broken} of {len(features)} pooled {model} features are NaN or infinite",
            f"The {model} has diverged: lower the learning rate, or check its weights.",
        )


# ---- the reference: density filter and joint matching pursuit ---------------------------------------------


def select_reference(teacher: Tensor, student: Tensor, num_prototypes: int, alpha: float) -> Tensor:
    """Choose as the published code does: joint matching pursuit among the dense instances (PGM of the paper).

    Keeps its habits: a choice may repeat, and thin groups of instances are never chosen. Where the filter
    leaves nobody (1 to 3 instances, or all alike), every instance is a candidate.

    Args:
        teacher: (N, C_t), N >= 1.
        student: (N, C_s).
        num_prototypes: K >= 1.
        alpha: the paper's lambda, at least 0.

    Returns:
        (K,) int64 indices into the N instances, in the order of choice.
    """
    gram_t, gram_s = _gram_matrices(teacher, student, num_prototypes, alpha)
    candidates = dense_candidates(gram_t, gram_s)  # (K_cand,)
    a, b = gram_t[candidates], gram_s[candidates]  # (K_cand, N) correlations of atoms with residuals
    chosen = []
    for _ in range(num_prototypes):
        w_t, w_s = _tied_coefficients(a, b, alpha)
        k = _pursuit_error(a, b, w_t, w_s, alpha).argmin()
        chosen.append(candidates[k])
        a = a - torch.outer(gram_t[candidates, candidates[k]], w_t[k])
        b = b - torch.outer(gram_s[candidates, candidates[k]], w_s[k])
    return torch.stack(chosen)


def dense_candidates(gram_t: Tensor, gram_s: Tensor) -> Tensor:
    """The instances whose density lies above the quantile in both spaces; all of them if there are none.

    Args:
        gram_t: (N, N) cosines between teacher features.
        gram_s: (N, N) cosines between student features.

    Returns:
        (K_cand,) int64 indices, ascending.
    """
    kept = _is_dense(gram_t) & _is_dense(gram_s)
    return (kept | ~kept.any()).nonzero().squeeze(1)


def _is_dense(gram: Tensor) -> Tensor:
    density = (-((1 - gram) / BANDWIDTH).square()).exp().sum(1)  # (N,)
    return density > density.sort().values[int(QUANTILE * len(density))]


def _tied_coefficients(a: Tensor, b: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The minimum of |r_t - w_t d_t|^2 + |r_s - w_s d_s|^2 + alpha (w_t - w_s)^2 for unit atoms."""
    scale = 1 + 2 * alpha
    return ((1 + alpha) * a + alpha * b) / scale, ((1 + alpha) * b + alpha * a) / scale


def _pursuit_error(a: Tensor, b: Tensor, w_t: Tensor, w_s: Tensor, alpha: float) -> Tensor:
    """(K_cand,) error of each candidate over all instances, up to a constant."""
    return (w_t * (w_t - 2 * a) + w_s * (w_s - 2 * b) + alpha * (w_t - w_s).square()).sum(1)


# ---- the default: orthogonal pursuit in the joint space, then exchanges -----------------------------------


def select_orthogonal(teacher: Tensor, student: Tensor, num_prototypes: int, alpha: float) -> Tensor:
    """Choose distinct instances with a low `joint_reconstruction_error`.

    Each step takes the instance that lowers the error most when the coefficients of all choices are fitted
    anew; then every choice may be exchanged, one at a time, for a better one. All instances are candidates.
    Ties go to the lowest index.

    Args:
        teacher: (N, C_t), N >= 1.
        student: (N, C_s).
        num_prototypes: K >= 1.
        alpha: the paper's lambda, at least 0.

    Returns:
        (min(K, N),) int64 distinct indices into the N instances.
    """
    space = _JointSpace.of(*_gram_matrices(teacher, student, num_prototypes, alpha), alpha)
    chosen: list[int] = []
    for _ in range(min(num_prototypes, len(teacher))):
        chosen.append(space.best_addition(chosen)[0])
    for _ in range(EXCHANGE_ROUNDS):
        before = list(chosen)
        for position in range(len(chosen)):
            _exchange(space, chosen, position)
        if chosen == before:
            break
    return torch.tensor(chosen, device=teacher.device)


def _exchange(space: _JointSpace, chosen: list[int], position: int) -> None:
    """Replace one choice in place if another instance lowers the error more."""
    others = chosen[:position] + chosen[position + 1 :]
    candidate, gains = space.best_addition(others)
    if gains[candidate] > gains[chosen[position]] + TIE * len(gains):
        chosen[position] = candidate


# ---- rivals: what a choice has to beat ---------------------------------------------------------------------


def select_random(
    teacher: Tensor, student: Tensor, num_prototypes: int, alpha: float, generator: torch.Generator
) -> Tensor:
    """Choose distinct instances by lot.

    Args:
        teacher: (N, C_t), N >= 1.
        student: (N, C_s).
        num_prototypes: K >= 1.
        alpha: as in the other selections; plays no part.
        generator: on the CPU.

    Returns:
        (min(K, N),) int64 distinct indices.
    """
    _require_possible(teacher, student, num_prototypes, alpha)
    return torch.randperm(len(teacher), generator=generator)[:num_prototypes].to(teacher.device)


def select_kmeans(
    teacher: Tensor, student: Tensor, num_prototypes: int, alpha: float, generator: torch.Generator
) -> Tensor:
    """Choose the medoids of k-means in the joint normalised space [t, s]: of each centre the nearest instance left.

    Args:
        teacher: (N, C_t), N >= 1.
        student: (N, C_s).
        num_prototypes: K >= 1.
        alpha: as in the other selections; plays no part.
        generator: on the CPU; draws the first centres as k-means++ does (Arthur and Vassilvitskii 2007).

    Returns:
        (min(K, N),) int64 distinct indices.
    """
    _require_possible(teacher, student, num_prototypes, alpha)
    points = torch.cat(_unit_features(teacher, student), 1)  # (N, C_t + C_s)
    centres = points[_spread_out(points, min(num_prototypes, len(points)), generator)]
    for _ in range(KMEANS_ROUNDS):
        before, centres = centres, _means_of_clusters(points, centres)
        if torch.equal(before, centres):
            break
    return _nearest_distinct(torch.cdist(points, centres))


def _spread_out(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) distinct points, each drawn with odds that grow with its squared distance from those before."""
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    squared = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for _ in range(count - 1):
        newest = (points - points[chosen[-1]]).square().sum(1).cpu()
        squared = torch.minimum(squared, newest)
        odds = squared.clamp_min(1e-12).index_fill(0, torch.tensor(chosen), 0.0)  # copies last, never twice
        chosen.append(int(odds.multinomial(1, generator=generator)))
    return torch.tensor(chosen, device=points.device)


def _means_of_clusters(points: Tensor, centres: Tensor) -> Tensor:
    """(K, C) the mean of the points nearest to each centre; a centre without points stays."""
    nearest = torch.cdist(points, centres).argmin(1)
    member = torch.nn.functional.one_hot(nearest, len(centres)).to(points)  # (N, K)
    size = member.sum(0)[:, None]
    return torch.where(size > 0, member.T @ points / size.clamp_min(1), centres)


def _nearest_distinct(distances: Tensor) -> Tensor:
    """(K,) for each column in turn the row with the least distance that no earlier one has; distances are (N, K)."""
    chosen: list[int] = []
    for column in distances.T:
        free = column.clone()
        free[chosen] = torch.inf
        chosen.append(int(free.argmin()))
    return torch.tensor(chosen, device=distances.device)


# ---- what a choice is worth ------------------------------------------------------------------------------


def joint_reconstruction_error(teacher: Tensor, student: Tensor, indices: Tensor, alpha: float) -> Tensor:
    """How badly the chosen instances reconstruct all of them, per instance, in both spaces at once.

    min over W_t, W_s of |T - W_t P_t|^2 + |S - W_s P_s|^2 + alpha |W_t - W_s|^2, divided by N, on normalised
    features: 2 when nothing is explained, 0 when everything is. A repeated choice counts once: the second
    copy is no further basis vector.

    Args:
        teacher: (N, C_t), N >= 1.
        student: (N, C_s).
        indices: (K,) int64 choices, repeats allowed.
        alpha: the paper's lambda, at least 0.

    Returns:
        Scalar float32.
    """
    normal, responses, energy = _least_squares(teacher, student, indices.unique(), alpha)
    explained = torch.linalg.solve(normal, responses).diagonal().sum()
    return ((energy - explained) / len(teacher)).clamp_min(0).float()


def explained_shares(teacher: Tensor, student: Tensor, indices: Tensor, alpha: float) -> Tensor:
    """What each chosen instance adds to the others: the share of |T|^2 + |S|^2 that nobody would explain without it.

    With E the joint reconstruction error, (E without it - E) N / (|T|^2 + |S|^2), on normalised features. What
    several explain alike counts for none of them, so shares need not add up; of a choice that occurs twice
    neither is missed.

    Args:
        teacher: (N, C_t) of one class, N >= 1.
        student: (N, C_s).
        indices: (K,) int64 choices, repeats allowed.
        alpha: the paper's lambda, at least 0.

    Returns:
        (K,) float32 in [0, 1].
    """
    distinct, place, copies = indices.unique(return_inverse=True, return_counts=True)
    normal, responses, energy = _least_squares(teacher, student, distinct, alpha)
    inverse = torch.linalg.inv(normal)
    # eliminating all others leaves of an atom the 2 x 2 product ((H^-1)_kk)^-1, as in `_JointSpace.gains`
    lost = torch.linalg.solve(_own_blocks(inverse), _own_blocks(inverse @ responses @ inverse))
    shares = lost.diagonal(dim1=1, dim2=2).sum(1) / energy.clamp_min(1)
    return (shares * (copies == 1)).clamp(0, 1).float()[place]


def _least_squares(
    teacher: Tensor, student: Tensor, chosen: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normal matrix (2m, 2m) and responses (2m, 2m) of m atoms, each in both spaces, and what there is to explain."""
    _require_possible(teacher, student, 1, alpha)
    unit_t, unit_s = _unit_features(teacher, student)
    correlations = torch.stack([unit_t[chosen] @ unit_t.T, unit_s[chosen] @ unit_s.T], 1)  # (m, 2, N)
    spaces = torch.eye(2).to(correlations)[:, None, :]
    products = (correlations[:, :, chosen, None] * spaces).flatten(2).flatten(0, 1)  # (2m, 2m)
    ties = torch.kron(torch.eye(len(chosen)).to(correlations), _tie(alpha).to(correlations))
    rows = correlations.flatten(0, 1)  # (2m, N)
    return products + ties, rows @ rows.T, unit_t.square().sum() + unit_s.square().sum()


def _own_blocks(matrix: Tensor) -> Tensor:
    """(m, 2, 2) the blocks on the diagonal of (2m, 2m)."""
    count = len(matrix) // 2
    return matrix.view(count, 2, count, 2).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


# ---- both spaces at once ---------------------------------------------------------------------------------


def _gram_matrices(teacher: Tensor, student: Tensor, k: int, alpha: float) -> tuple[Tensor, Tensor]:
    """(N, N) cosines in both spaces."""
    _require_possible(teacher, student, k, alpha)
    unit_t, unit_s = _unit_features(teacher, student)
    return unit_t @ unit_t.T, unit_s @ unit_s.T


def _unit_features(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Directions in both spaces, in float64: near ties must fall alike on every device."""
    return unit(teacher.detach().double()), unit(student.detach().double())


def _require_possible(teacher: Tensor, student: Tensor, k: int, alpha: float) -> None:
    if len(teacher) != len(student) or len(teacher) == 0:
        raise ValueError(
            f"{len(teacher)} teacher and {len(student)} student features: need the same number, >= 1"
        )
    if k < 1 or alpha < 0:
        raise ValueError(f"num_prototypes {k} and alpha {alpha}: need at least 1 and at least 0")


def _tie(alpha: float) -> Tensor:
    """(2, 2) what alpha adds to an atom's own products, and the ridge."""
    ones = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    return alpha * ones + RIDGE * torch.eye(2, dtype=torch.float64)


class _JointSpace(NamedTuple):
    """Least squares in both spaces at once, seen through Gram matrices.

    Atom k is a pair of columns, t_k in the teacher's space and s_k in the student's, whose coefficients are
    tied by alpha. Instance i is the target (t_i, s_i). Axis "2" below is (teacher, student).
    """

    grams: Tensor
    """(2, N, N) products of atoms in each space; also of atoms with targets."""
    self_product: Tensor
    """(N, 2, 2) products of each atom's two columns, untied: diagonal."""
    self_response: Tensor
    """(N, 2, 2) products of each atom's two rows of correlations with all targets."""
    tie: Tensor
    """(2, 2) what alpha adds to an atom's own products."""
    known: dict[int, Tensor]
    """(N, 2, 2) `responses` of the atoms tried so far: exchanges ask for the same ones over and over."""

    @classmethod
    def of(cls, gram_t: Tensor, gram_s: Tensor, alpha: float) -> _JointSpace:
        grams = torch.stack([gram_t, gram_s])
        tie = _tie(alpha).to(grams)
        self_product = torch.diag_embed(grams.diagonal(dim1=1, dim2=2).T)
        return cls(grams, self_product, torch.einsum("ani,bni->nab", grams, grams), tie, {})

    def columns(self, chosen: list[int]) -> Tensor:
        """(N, 2, 2m) products of all atoms' columns with those of the m chosen."""
        return torch.diag_embed(self.grams[:, :, chosen].permute(1, 2, 0)).transpose(1, 2).flatten(2)

    def responses(self, chosen: list[int]) -> Tensor:
        """(N, 2, 2m) products of all atoms' correlations with the targets and those of the m chosen."""
        for k in set(chosen) - self.known.keys():
            self.known[k] = torch.einsum("ani,bi->nab", self.grams, self.grams[:, k])
        return torch.cat([self.known[k] for k in chosen], dim=2)

    def normal_matrix(self, columns: Tensor, chosen: list[int]) -> Tensor:
        """(2m, 2m) normal matrix of the least squares over the chosen atoms."""
        ties = torch.kron(torch.eye(len(chosen)).to(self.tie), self.tie)
        return columns[chosen].flatten(0, 1) + ties

    def best_addition(self, chosen: list[int]) -> tuple[int, Tensor]:
        """The atom that adds most to what the chosen ones explain, and what each (N,) would add."""
        gains = self.gains(chosen)
        gains[chosen] = -1.0
        best = gains.max()
        return int((gains >= best - TIE * len(gains)).int().argmax()), gains

    def gains(self, chosen: list[int]) -> Tensor:
        """(N,) how much more is explained when an atom is added and all coefficients are fitted anew.

        The Schur complement of the chosen atoms leaves of each atom a 2 x 2 product S and, over all targets, a
        2 x 2 response R; the gain is trace(S^-1 R).
        """
        product, response = self.self_product, self.self_response
        if chosen:
            columns, responses = self.columns(chosen), self.responses(chosen)
            normal = self.normal_matrix(columns, chosen)
            fit = torch.linalg.solve(normal, columns.flatten(0, 1), left=False).view_as(columns)  # (N, 2, 2m)
            crossed = fit @ responses.mT
            inner = responses[chosen].flatten(0, 1)  # (2m, 2m)
            product = product - fit @ columns.mT
            response = response - crossed - crossed.mT + fit @ inner @ fit.mT
        solved: Tensor = torch.linalg.solve(product + self.tie, response)
        return solved.diagonal(dim1=1, dim2=2).sum(1)
