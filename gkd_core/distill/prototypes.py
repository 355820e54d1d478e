"""PGM: prototype generation. Pooled features in, prototypes out; no model, no randomness that is not an argument.

A prototype is an instance with its features in both spaces. `select_reference` chooses as the published code
does, `select_orthogonal` (the default) chooses distinct instances that reconstruct their class best,
`select_kmeans` and `select_random` are baselines; `generate` runs a selection for every class and pyramid level, many
at a time. Formulas: docs/method.md.

Shapes: N instances, C_t and C_s channels of teacher and student, K prototypes of a class, P of all classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gkd_core.compute.full_precision import unit
from gkd_core.distill.joint_space import JointSpace, require_possible, worth
from gkd_core.distill.selection.baselines import select_kmeans, select_random
from gkd_core.distill.selection.orthogonal import pursue
from gkd_core.distill.selection.reference import select_reference
from gkd_core.errors import DivergedError

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


def selection_called(name: str, generator: torch.Generator) -> Selection | None:
    """Return the function that selects, by its name in the config.

    None for `generate`'s own, which takes many classes at once.
    """
    if name in ("kmeans", "random"):
        return partial(select_kmeans if name == "kmeans" else select_random, generator=generator)
    return select_reference if name == "reference" else None


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
        require_possible(teacher[0], student[0], per_class, alpha)
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
        found = pursue(JointSpace.of(*spaces, alpha), classes.sizes, per_class)
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
