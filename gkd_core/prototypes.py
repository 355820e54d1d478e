"""PGM: prototype generation. Pooled features in, prototypes out; no model, no randomness that is not an argument.

A prototype is an instance that both feature spaces know. `select_reference` chooses as the published code
does, `select_orthogonal` (the default) chooses distinct instances that reconstruct their class best,
`select_kmeans` and `select_random` are what both have to beat; `generate` does it for every class of one pyramid
level. Formulas: docs/method.md.

Shapes: N instances, C_t and C_s channels of teacher and student, K prototypes of a class, P of all classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gkd_core.errors import DivergedError
from gkd_core.joint_space import Atoms, JointSpace, Worth, worth
from gkd_core.precision import unit

BANDWIDTH = 0.1
"""Width of the density kernel, in cosine distance."""
QUANTILE = 0.4
"""Share of the instances that the density filter drops in each space."""
EXCHANGE_ROUNDS = 2
KMEANS_ROUNDS = 50
"""At most; a few hundred instances settle within twenty."""
TIE = 1e-9
"""Gains that differ by less, per instance, are equal, and the lowest index wins: rounding must not decide."""
COSINES_AT_ONCE = 2**16
"""Cosines between instances that are in memory at a time: half a MiB, which a processor's cache holds."""
ROWS_AT_ONCE = {"cpu": 2**11, "cuda": 2**18}
"""Instances, with padding, whose classes are chosen from together: on a GPU many, to have few and large steps."""


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
    teacher, student = teacher.detach().float(), student.detach().float()
    _require_finite(teacher, "teacher")
    _require_finite(student, "student")
    if len(labels):
        _require_possible(teacher, student, per_class, alpha)
    chosen: list[Tensor] = [labels.new_empty(0, dtype=torch.int64)] * num_classes
    for batch in _classes_of(labels, num_classes):
        choices = (
            _choose_each(selection, batch, teacher, student, per_class, alpha)
            if selection
            else _pursue(batch.space(teacher, student, alpha), batch.sizes, per_class)
        )
        for row, (label, choice) in enumerate(zip(batch.labels, choices, strict=True)):
            chosen[label] = batch.instances[row, choice[choice >= 0]]
    indices = torch.cat([labels.new_empty(0, dtype=torch.int64), *chosen])  # (P,)
    ends = torch.tensor([0, *map(len, chosen)], device=labels.device).cumsum(0)
    return Prototypes(teacher[indices], student[indices], ends), indices


class _Classes(NamedTuple):
    """Some classes of like size, to be chosen from together."""

    labels: list[int]
    counts: list[int]
    instances: Tensor
    """(G, N) int64, -1 for padding."""

    @property
    def sizes(self) -> Tensor:
        """(G,) instances of each."""
        return torch.tensor(self.counts, device=self.instances.device)

    def padded(self, features: Tensor) -> Tensor:
        """(G, N, C) of (M, C) features of all instances."""
        return features[self.instances.clamp_min(0)] * (self.instances >= 0)[..., None]

    def space(self, teacher: Tensor, student: Tensor, alpha: float) -> JointSpace:
        return JointSpace.of(self.padded(teacher), self.padded(student), alpha)


def _classes_of(labels: Tensor, num_classes: int) -> Iterator[_Classes]:
    """Every class that has instances once, the largest first; one look at the device."""
    counts = labels.bincount(minlength=num_classes).tolist()
    members = labels.argsort(stable=True).split(counts)
    waiting = sorted(
        (label for label in range(num_classes) if counts[label]), key=lambda label: -counts[label]
    )
    while waiting:
        together = max(1, ROWS_AT_ONCE[labels.device.type] // counts[waiting[0]])
        now, waiting = waiting[:together], waiting[together:]
        instances = pad_sequence([members[label] for label in now], batch_first=True, padding_value=-1)
        yield _Classes(now, [counts[label] for label in now], instances)


def _choose_each(
    select: Selection, classes: _Classes, teacher: Tensor, student: Tensor, per_class: int, alpha: float
) -> Iterator[Tensor]:
    for row, count in enumerate(classes.counts):
        own = classes.instances[row, :count]
        yield select(teacher[own], student[own], per_class, alpha)


def value(
    teacher: Tensor, student: Tensor, labels: Tensor, indices: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """What the choices on a level are worth.

    Args:
        teacher: (N, C_t) pooled features.
        student: (N, C_s) of the same instances.
        labels: (N,) int64, from 0.
        indices: (P,) the choices, class by class, as `generate` gives them.
        alpha: the paper's lambda, at least 0.

    Returns:
        Joint reconstruction error per instance over all classes, a scalar, and (P,) `explained_shares` of each
        choice within its class.
    """
    classes = int(labels.max()) + 1 if len(labels) else 0
    slot = _place_in_class(labels)
    own = slot[indices].split(labels[indices].bincount(minlength=classes).tolist())
    total, shares = teacher.new_zeros(()), [teacher.new_empty(0)] * classes
    for batch in _classes_of(labels, classes):
        chosen = pad_sequence([own[label] for label in batch.labels], batch_first=True, padding_value=-1)
        found = worth(batch.padded(teacher), batch.padded(student), batch.sizes, chosen, alpha)
        total = total + (found.errors * batch.sizes).sum()
        for label, row in zip(batch.labels, found.shares, strict=True):
            shares[label] = row[: len(own[label])]
    return total / max(1, len(labels)), torch.cat([teacher.new_empty(0), *shares])


def _place_in_class(labels: Tensor) -> Tensor:
    """(N,) how many earlier instances have the same class."""
    order = labels.argsort(stable=True)
    in_order = labels[order]
    place = torch.arange(len(labels), device=labels.device) - torch.searchsorted(in_order, in_order)
    return torch.empty_like(place).scatter_(0, order, place)


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
    _require_possible(teacher, student, num_prototypes, alpha)
    t, s = _unit_features(teacher, student)
    survey = Survey.of(t, s)
    candidates = survey.dense()  # (K_cand,)
    pursuit = _Pursuit((t, s), candidates, survey, alpha)
    chosen = []
    for _ in range(num_prototypes):
        k = pursuit.errors().argmin()
        chosen.append(candidates[k])
        pursuit.subtract(k)
    return torch.stack(chosen)


class Survey(NamedTuple):
    """What all cosines between instances add up to, each (N,) over the other instance."""

    density_t: Tensor
    """Sum of exp(-((1 - cosine) / bandwidth)^2) in the teacher's space."""
    density_s: Tensor
    """The same in the student's."""
    squares_t: Tensor
    """Sum of squared cosines."""
    squares_s: Tensor
    product: Tensor
    """Sum of cosine in one space times cosine in the other."""

    @classmethod
    def of(cls, teacher: Tensor, student: Tensor) -> Survey:
        """Look at every pair once, a few rows at a time.

        Args:
            teacher: (N, C_t) float64 of length 1.
            student: (N, C_s) likewise.
        """
        count = len(teacher)
        totals = teacher.new_zeros(len(cls._fields), count)
        size = max(64, COSINES_AT_ONCE // count)
        for first in range(0, count, size):
            rows = slice(first, first + size)
            cosines = [space[rows] @ space[first:].T for space in (teacher, student)]
            for total, values in zip(totals, _per_pair(*cosines), strict=True):
                total[rows] += values.sum(1)
                total[first + size :] += values[:, size:].sum(0)
        return cls(*totals)

    def dense(self) -> Tensor:
        """(K_cand,) ascending: who lies above the quantile of density in both spaces; everybody if nobody does."""
        kept = _is_dense(self.density_t) & _is_dense(self.density_s)
        return (kept | ~kept.any()).nonzero().squeeze(1)


def _per_pair(cosines_t: Tensor, cosines_s: Tensor) -> Iterator[Tensor]:
    """In the order of `Survey`; the cosines are used up."""
    squares_t, squares_s, product = cosines_t.square(), cosines_s.square(), cosines_t * cosines_s
    for cosines in (cosines_t, cosines_s):
        yield cosines.sub_(1).div_(BANDWIDTH).square_().neg_().exp_()
    yield from (squares_t, squares_s, product)


def _is_dense(density: Tensor) -> Tensor:
    return density > density.sort().values[int(QUANTILE * len(density))]


class _Pursuit:
    """Joint matching pursuit without residuals: of each candidate's correlations a and b with the residuals of all
    instances only the sums of squares and of products are kept, and what was subtracted is known by its steps.

    Error of a candidate, up to a constant: -sum_i (a_i w_t,i + b_i w_s,i) = -(p (A + B) + 2 q C), with A, B and C the
    sums over all instances of a^2, b^2 and a b, and w_t = p a + q b, w_s = p b + q a the best tied coefficients.
    """

    def __init__(
        self, spaces: tuple[Tensor, Tensor], candidates: Tensor, survey: Survey, alpha: float
    ) -> None:
        """Begin with the features, (N, C) in each space, as residuals."""
        self.spaces, self.atoms = spaces, [space[candidates] for space in spaces]
        self.p, self.q = (1 + alpha) / (1 + 2 * alpha), alpha / (1 + 2 * alpha)
        self.squares = [survey.squares_t[candidates], survey.squares_s[candidates]]  # A and B, (K_cand,)
        self.product = survey.product[candidates]  # C, (K_cand,)
        self.steps: list[tuple[Tensor, Tensor]] = []
        """Of each space the (K_cand,) cosines with a chosen atom and the (N,) coefficients, step by step."""

    def errors(self) -> Tensor:
        """(K_cand,)."""
        return -(self.p * (self.squares[0] + self.squares[1]) + 2 * self.q * self.product)

    def subtract(self, k: Tensor) -> None:
        """Take a candidate's share from the residuals."""
        a, b = self._correlations(0, k), self._correlations(1, k)
        w_t, w_s = self.p * a + self.q * b, self.p * b + self.q * a
        g, h = (atoms @ atoms[k] for atoms in self.atoms)  # (K_cand,)
        a_t, a_s = self._products(0, torch.stack([w_t, w_s], 1))
        b_t, b_s = self._products(1, torch.stack([w_t, w_s], 1))
        self.squares[0] += g * (g * (w_t @ w_t) - 2 * a_t)
        self.squares[1] += h * (h * (w_s @ w_s) - 2 * b_s)
        self.product += g * h * (w_t @ w_s) - h * a_s - g * b_t
        self.steps.append((torch.stack([g, h]), torch.stack([w_t, w_s])))

    def _correlations(self, space: int, k: Tensor) -> Tensor:
        """(N,) of a candidate with the residuals."""
        found = self.spaces[space] @ self.atoms[space][k]
        for cosines, coefficients in self.steps:
            found = found - cosines[space, k] * coefficients[space]
        return found

    def _products(self, space: int, weights: Tensor) -> Tensor:
        """(2, K_cand) of each candidate's correlations with weights (N, 2)."""
        found = self.atoms[space] @ (self.spaces[space].T @ weights)
        for cosines, coefficients in self.steps:
            found = found - torch.outer(cosines[space], coefficients[space] @ weights)
        return found.T


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
    _require_possible(teacher, student, num_prototypes, alpha)
    space = JointSpace.of(teacher[None], student[None], alpha)
    chosen = _pursue(space, torch.tensor([len(teacher)], device=teacher.device), num_prototypes)[0]
    return chosen[chosen >= 0]


def _pursue(space: JointSpace, sizes: Tensor, num_prototypes: int) -> Tensor:
    """(G, m) distinct choices of each class in the order of choice, m the most that one has; -1 behind the last.

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
    """(G,) the instance that adds most to what the chosen ones explain, and what each (G, N) would add.

    Who is chosen already, or padding, would add -1.
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
    return _worth_of_one(teacher, student, indices, alpha).errors[0]


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
    return _worth_of_one(teacher, student, indices, alpha).shares[0]


def _worth_of_one(teacher: Tensor, student: Tensor, indices: Tensor, alpha: float) -> Worth:
    _require_possible(teacher, student, 1, alpha)
    sizes = torch.tensor([len(teacher)], device=teacher.device)
    return worth(teacher[None], student[None], sizes, indices[None], alpha)


# ---- both spaces at once ---------------------------------------------------------------------------------


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
