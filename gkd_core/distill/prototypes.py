"""PGM: prototype generation. Pooled features in, prototypes out; no model, no randomness that is not an argument.

A prototype is an instance with its features in both spaces. `select_reference` chooses as the published code
does, `select_orthogonal` (the default) chooses distinct instances that reconstruct their class best,
`select_kmeans` and `select_random` are baselines; `generate` runs a selection for every class and pyramid level, many
at a time. Formulas: docs/method.md.

Shapes: N instances, C_t and C_s channels of teacher and student, K prototypes of a class, P of all classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gkd_core.compute.full_precision import unit
from gkd_core.config import STRONGEST_TIE
from gkd_core.distill.joint_space import Atoms, JointSpace, Worth, worth
from gkd_core.errors import DivergedError

BANDWIDTH = 0.1
"""Width of the density kernel, in cosine distance."""
QUANTILE = 0.4
"""Share of the instances that the density filter drops in each space."""
EXCHANGE_ROUNDS = 2
KMEANS_ROUNDS = 50
"""Iterations at most; a few hundred instances converge within twenty."""
TIE = 1e-9
"""Gains that differ by less, per instance, are equal, and the lowest index is taken: rounding must not decide."""
COSINES_AT_ONCE = 2**17
"""How many cosines between instances are in memory at a time: 1 MiB, which fits a CPU's cache a few times."""
ROWS_AT_ONCE = {"cpu": 2**12, "cuda": 2**18}
"""Instances, with padding, of the classes that are processed together: on a GPU many, for few and large kernels."""


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
        """Return (P,) int64, the class of each row, from 0."""
        rows = torch.arange(self.teacher.shape[-2], device=self.class_start.device)
        return torch.bucketize(rows, self.class_start[1:], right=True)

    @classmethod
    def together(cls, levels: Sequence[Prototypes]) -> Prototypes:
        """Stack those of all levels, (L, P, C) each; every level has as many of each class."""
        teacher, student, starts = zip(*levels, strict=True)
        return cls(torch.stack(teacher), torch.stack(student), starts[0])


class Chosen(NamedTuple):
    """The prototypes of one pyramid level, as a choice among instances, and how well they reconstruct them."""

    prototypes: Prototypes
    indices: Tensor
    """(P,) int64, which of the instances they are, class by class."""
    error: Tensor
    """Scalar: joint reconstruction error per instance; that of each class, weighted by its instances."""
    shares: Tensor
    """(P,) `explained_shares` of each within its class."""

    def to(self, device: torch.device | str) -> Chosen:
        """Return all of it on a device."""
        prototypes = Prototypes(*(tensor.to(device) for tensor in self.prototypes))
        return Chosen(prototypes, *(tensor.to(device) for tensor in self[1:]))


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
    between: Callable[[], object] = lambda: None,
) -> list[Chosen]:
    """Choose the prototypes of every class on every level, many classes and levels at a time.

    Args:
        teacher: (L, N, C_t) pooled features, not normalised.
        student: (L, N, C_s) pooled features of the same instances.
        labels: (N,) int64, from 0 to num_classes - 1.
        num_classes: classes; one without instances gets no rows.
        per_class: K.
        alpha: the paper's lambda, in 0..1e6.
        selection: `select_orthogonal` (None) or another; a random one has its generator bound already.
        between: called between groups of classes; may raise to end the work.

    Returns:
        The choice of each level; prototypes are detached copies.

    Raises:
        DivergedError: a feature is NaN or infinite.
    """
    teacher, student = teacher.detach().float(), student.detach().float()
    _require_finite(teacher, "teacher")
    _require_finite(student, "student")
    levels, count = teacher.shape[:2]
    if count:
        _require_possible(teacher[0], student[0], per_class, alpha)
    rows = teacher.flatten(0, 1), student.flatten(0, 1)
    on_level = torch.arange(levels, device=labels.device)[:, None]
    nothing = _Choice(labels.new_empty(0), rows[0].new_empty(0), rows[0].new_zeros(()))
    choices = [nothing] * (levels * num_classes)
    for batch in _classes_of((labels + num_classes * on_level).flatten(), len(choices)):
        between()
        for label, choice in zip(
            batch.labels, _chosen_from(batch, rows, per_class, alpha, selection), strict=True
        ):
            choices[label] = choice
    return [
        _combine_classes(rows, choices[level * num_classes :][:num_classes], level * count, count)
        for level in range(levels)
    ]


class _Choice(NamedTuple):
    """The choice for one class on one level."""

    rows: Tensor
    """(K,) int64, rows among the instances of all levels."""
    shares: Tensor
    """(K,) float32."""
    error: Tensor
    """Scalar: joint reconstruction error, of all instances together."""


class _Classes(NamedTuple):
    """Some classes of similar size, processed together; a class on another level counts as another class."""

    labels: list[int]
    counts: list[int]
    instances: Tensor
    """(G, N) int64, rows of the instances of each class, -1 for padding."""

    @property
    def sizes(self) -> Tensor:
        """Return (G,), the number of instances of each."""
        return torch.tensor(self.counts, device=self.instances.device)

    def directions(self, features: Tensor) -> Tensor:
        """Return (G, N, C) float64 features of length 1, or 0 for padding, of features (M, C) of all instances."""
        padded = features[self.instances.clamp_min(0)].double()
        return unit(padded.masked_fill_((self.instances < 0)[..., None], 0.0))


def _classes_of(labels: Tensor, num_classes: int) -> Iterator[_Classes]:
    """Yield every class that has instances once, the largest first; synchronises once with the device."""
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


def _chosen_from(
    classes: _Classes,
    rows: tuple[Tensor, Tensor],
    per_class: int,
    alpha: float,
    selection: Selection | None,
) -> Iterator[_Choice]:
    """Choose from some classes, and compute how well the choices reconstruct them.

    Args:
        classes: those to choose from.
        rows: features of all instances, (M, C_t) and (M, C_s).
        per_class: K.
        alpha: the paper's lambda.
        selection: as in `generate`.
    """
    spaces = classes.directions(rows[0]), classes.directions(rows[1])
    if selection is None:
        found = _pursue(JointSpace.of(*spaces, alpha), classes.sizes, per_class)
        lengths = [min(per_class, count) for count in classes.counts]
    else:
        each = [
            selection(rows[0][own], rows[1][own], per_class, alpha)
            for own in (classes.instances[at, :count] for at, count in enumerate(classes.counts))
        ]
        found, lengths = pad_sequence(each, batch_first=True, padding_value=-1), [len(row) for row in each]
    errors, shares = worth(*spaces, classes.sizes, found, alpha)
    chosen = classes.instances.gather(1, found.clamp_min(0))
    totals = errors * classes.sizes
    for at, length in enumerate(lengths):
        yield _Choice(chosen[at, :length], shares[at, :length], totals[at])


def _combine_classes(
    rows: tuple[Tensor, Tensor], choices: Sequence[_Choice], first: int, count: int
) -> Chosen:
    """Combine the choices of a level's classes to the choice of the level.

    Args:
        rows: features of all instances of all levels.
        choices: of each class.
        first: where the level's instances begin.
        count: of the level's instances.
    """
    chosen = torch.cat([choice.rows for choice in choices])
    ends = torch.tensor([0, *(len(choice.rows) for choice in choices)], device=chosen.device).cumsum(0)
    error = torch.stack([choice.error for choice in choices]).sum() / max(1, count)
    shares = torch.cat([choice.shares for choice in choices])
    return Chosen(Prototypes(rows[0][chosen], rows[1][chosen], ends), chosen - first, error, shares)


def _require_finite(features: Tensor, model: str) -> None:
    broken = int((~features.isfinite().all(2)).sum())
    if broken:
        raise DivergedError(
            f"{broken} of {features.shape[:2].numel()} pooled {model} features are NaN or infinite",
            f"The {model} has diverged: lower the learning rate, or check its weights.",
        )


# ---- the reference: density filter and joint matching pursuit --------------------------------------------


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
    _require_possible(teacher, student, num_prototypes, alpha)
    t, s = _unit_features(teacher, student)
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


# ---- the default: orthogonal pursuit in the joint space, then exchanges ----------------------------------


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
    _require_possible(teacher, student, num_prototypes, alpha)
    t, s = _unit_features(teacher, student)
    space = JointSpace.of(t[None], s[None], alpha)
    chosen = _pursue(space, torch.tensor([len(teacher)], device=teacher.device), num_prototypes)[0]
    return chosen[chosen >= 0]


def _pursue(space: JointSpace, sizes: Tensor, num_prototypes: int) -> Tensor:
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


# ---- baselines -------------------------------------------------------------------------------------------


def select_random(
    teacher: Tensor, student: Tensor, num_prototypes: int, alpha: float, generator: torch.Generator
) -> Tensor:
    """Choose distinct instances at random.

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
    """Choose the medoids of k-means in the joint normalised space [t, s].

    For each centre it takes the nearest instance that is left.

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
    """Draw (count,) distinct points as k-means++ does.

    Each has odds in proportion to its squared distance from those before.
    """
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    squared = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for _ in range(count - 1):
        newest = (points - points[chosen[-1]]).square().sum(1).cpu()
        squared = torch.minimum(squared, newest)
        odds = squared.clamp_min(1e-12).index_fill(0, torch.tensor(chosen), 0.0)  # copies last, never twice
        chosen.append(int(odds.multinomial(1, generator=generator)))
    return torch.tensor(chosen, device=points.device)


def _means_of_clusters(points: Tensor, centres: Tensor) -> Tensor:
    """Return (K, C) the mean of the points nearest to each centre; a centre without points stays."""
    nearest = torch.cdist(points, centres).argmin(1)
    member = torch.nn.functional.one_hot(nearest, len(centres)).to(points)  # (N, K)
    size = member.sum(0)[:, None]
    return torch.where(size > 0, member.T @ points / size.clamp_min(1), centres)


def _nearest_distinct(distances: Tensor) -> Tensor:
    """Return (K,) for each column of (N, K) distances in turn the nearest row that no earlier column has."""
    chosen: list[int] = []
    for column in distances.T:
        free = column.clone()
        free[chosen] = torch.inf
        chosen.append(int(free.argmin()))
    return torch.tensor(chosen, device=distances.device)


# ---- evaluating a choice ---------------------------------------------------------------------------------


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
    _require_possible(teacher, student, 1, alpha)
    t, s = _unit_features(teacher, student)
    return worth(t[None], s[None], torch.tensor([len(t)], device=t.device), indices[None], alpha)


# ---- features of both spaces -----------------------------------------------------------------------------


def _unit_features(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Return features of length 1 in both spaces, in float64: near ties must be decided alike on every device."""
    return unit(teacher.detach().double()), unit(student.detach().double())


def _require_possible(teacher: Tensor, student: Tensor, k: int, alpha: float) -> None:
    if len(teacher) != len(student) or len(teacher) == 0:
        raise ValueError(
            f"{len(teacher)} teacher and {len(student)} student features: need the same number, >= 1"
        )
    if k < 1 or not 0 <= alpha <= STRONGEST_TIE:
        raise ValueError(
            f"num_prototypes {k} and alpha {alpha}: need at least 1 and at least 0, at most {STRONGEST_TIE:g}"
        )
