"""Selections that others are compared with: random instances, and the medoids of k-means."""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_core.distill.joint_space import require_possible, unit_features

KMEANS_ROUNDS = 50
"""Iterations at most; a few hundred instances converge within twenty."""


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
    require_possible(teacher, student, num_prototypes, alpha)
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
    require_possible(teacher, student, num_prototypes, alpha)
    points = torch.cat(unit_features(teacher, student), 1)  # (N, C_t + C_s)
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
