"""The objects on which teacher and student agree least."""

import torch

from gkd_core.distill.instances import Pooled
from gkd_core.distill.losses import positions, robustness
from gkd_core.distill.outliers import least_alike, own_levels
from gkd_core.distill.prototypes import Prototypes


def pooled(seed: int = 0, count: int = 30) -> Pooled:
    """Return two levels, three classes, the last without prototypes."""
    random = torch.Generator().manual_seed(seed)
    return Pooled(
        teacher=[torch.randn(count, 8, generator=random) for _ in range(2)],
        student=[torch.randn(count, 6, generator=random) for _ in range(2)],
        labels=torch.arange(count) % 3,
        image_ids=torch.arange(count),
        boxes=torch.tensor([[0.0, 0, 10, 10]]).repeat(count, 1),
        rows=torch.zeros(count, dtype=torch.int64),
        sides=torch.full((count,), 10.0),
    )


def chosen(instances: Pooled) -> list[Prototypes]:
    rows = torch.tensor([0, 3, 1, 4])  # two of each of the first two classes
    start = torch.tensor([0, 2, 4, 4])
    levels = zip(instances.teacher, instances.student, strict=True)
    return [Prototypes(teacher[rows], student[rows], start) for teacher, student in levels]


def test_the_lowest_come_first_each_by_its_own_level() -> None:
    instances = pooled()
    prototypes = chosen(instances)
    levels = torch.arange(30) % 2
    by_level = torch.stack(
        [
            robustness(positions(student, teacher, level), instances.labels, level)
            for student, teacher, level in zip(instances.student, instances.teacher, prototypes, strict=True)
        ]
    )
    own = by_level[levels, torch.arange(30)]
    found = least_alike(instances, prototypes, levels, count=7)
    torch.testing.assert_close(torch.tensor([one.robustness for one in found]), own.sort().values[:7])
    assert [one.instance for one in found] == own.argsort()[:7].tolist()
    assert [one.level for one in found] == [one.instance % 2 for one in found]


def test_prototypes_themselves_and_classes_without_any_are_seen_alike() -> None:
    instances = pooled()
    found = least_alike(instances, chosen(instances), torch.zeros(30, dtype=torch.int64), count=30)
    alike = {one.instance for one in found if one.robustness > 1 - 1e-6}
    assert alike >= {0, 3, 1, 4} | set(range(2, 30, 3))


def test_a_level_is_that_of_the_resized_picture() -> None:
    boxes = torch.tensor([[0.0, 0, 100, 100]]).repeat(2, 1)
    levels = own_levels(boxes, torch.tensor([640, 6400]), 640, (8, 16, 32), 4.0)
    assert levels.tolist() == [1, 0]  # 100 pixels, and 10


def test_no_objects_have_no_outliers() -> None:
    assert least_alike(pooled(count=0), chosen(pooled()), torch.zeros(0, dtype=torch.int64)) == []
