"""The bank: features that training steps pool anyway become the candidates for prototypes."""

from typing import Any

import torch
from torch import Tensor

from gkd_core.distill.bank import Bank
from gkd_core.distill.instances import Pooled

SMALL, LARGE = [0.0, 0, 4, 50], [0.0, 0, 50, 50]


def pooled(labels: list[int], sides: list[float] | None = None) -> Pooled:
    """Return instances: i is row i of picture 100 + i, with features 0 and 0.5."""
    count = len(labels)
    return Pooled(
        teacher=[torch.full((count, 3), 0.5)],
        student=[torch.zeros(count, 2)],
        labels=torch.tensor(labels),
        image_ids=100 + torch.arange(count),
        boxes=torch.zeros(count, 4),
        rows=torch.arange(count),
        sides=torch.tensor(sides or [50.0] * count),
    )


def target(instances: list[int], boxes: list[list[float]] | None = None) -> dict[str, Tensor]:
    """Return a picture that shows these instances, as a mosaic does."""
    origins = torch.tensor([[100 + i, i] for i in instances]).reshape(-1, 2)
    return {"boxes": torch.tensor(boxes or [LARGE] * len(instances)).reshape(-1, 4), "origins": origins}


def features(*values: float) -> list[tuple[Tensor, Tensor]]:
    column = torch.tensor(values)[:, None]
    return [(column.expand(-1, 2), column.expand(-1, 3) + 0.5)]


def values(found: Pooled) -> dict[int, float]:
    """Return the student's feature by instance."""
    assert torch.equal(found.teacher[0][:, 0], found.student[0][:, 0] + 0.5)
    return dict(zip(found.rows.tolist(), found.student[0][:, 0].tolist(), strict=True))


def bank_of(labels: list[int], **options: Any) -> Bank:
    return Bank(pooled(labels, **options), min_box_side=8, epoch=-1)


def test_a_step_replaces_the_features_of_its_boxes_and_no_others() -> None:
    bank = bank_of([0, 0, 0])
    bank.keep(features(1.0, 2.0), [target([2]), target([0])], epoch=0)
    assert values(bank.pooled(at_least=2)) == {0: 2.0, 2: 1.0}


def test_boxes_that_were_not_chosen_are_left_alone() -> None:
    bank = bank_of([0, 0])
    bank.keep(features(1.0, 2.0), [target([7, 1])], epoch=0)
    assert values(bank.pooled(at_least=1)) == {1: 2.0}


def test_of_a_box_that_a_batch_shows_twice_the_later_one_stays() -> None:
    bank = bank_of([0])
    bank.keep(features(1.0, 2.0), [target([0]), target([0])], epoch=0)
    assert values(bank.pooled(at_least=1)) == {0: 2.0}


def test_a_batch_without_objects_changes_nothing() -> None:
    bank = bank_of([0])
    bank.keep([(torch.zeros(0, 2), torch.zeros(0, 3))], [target([])], epoch=0)
    assert bank.state()["epochs"].tolist() == [-1]


def test_a_class_gives_what_the_last_epoch_showed_of_it() -> None:
    bank = bank_of([0, 0, 0, 1])
    bank.keep(features(1.0, 2.0, 3.0), [target([0, 1, 3])], epoch=0)
    bank.keep(features(4.0, 5.0), [target([1, 2])], epoch=1)
    assert values(bank.pooled(at_least=2)) == {1: 4.0, 2: 5.0, 3: 3.0}


def test_where_the_last_epoch_showed_too_few_older_ones_help_out() -> None:
    bank = bank_of([0, 0, 0, 0])
    bank.keep(features(1.0, 2.0, 3.0), [target([0, 1, 2])], epoch=0)
    bank.keep(features(4.0), [target([1])], epoch=1)
    assert values(bank.pooled(at_least=2)) == {0: 1.0, 1: 4.0, 2: 3.0}


def test_what_augmentation_made_too_small_is_not_kept() -> None:
    bank = bank_of([0, 0])
    bank.keep(features(1.0, 2.0), [target([0, 1], [SMALL, LARGE])], epoch=0)
    assert values(bank.pooled(at_least=1)) == {1: 2.0}


def test_a_class_that_has_only_small_boxes_keeps_them() -> None:
    bank = bank_of([0, 1], sides=[50.0, 5.0])
    bank.keep(features(1.0), [target([1], [SMALL])], epoch=0)
    assert values(bank.pooled(at_least=1))[1] == 1.0


def test_a_bank_that_was_saved_goes_on_where_it_stood() -> None:
    bank = bank_of([0, 1], sides=[50.0, 5.0])
    bank.keep(features(1.0), [target([0])], epoch=3)
    again = Bank.of_state(bank.state(), torch.device("cpu"))
    for one in (bank, again):
        one.keep(features(2.0), [target([1], [SMALL])], epoch=4)
    assert values(again.pooled(at_least=5)) == values(bank.pooled(at_least=5)) == {0: 1.0, 1: 2.0}


def test_keeping_never_waits_for_the_gpu() -> None:
    # A meta tensor has shapes and no values, so that `.item()` fails anywhere.
    bank = Bank(pooled([0, 1]).to(torch.device("meta")), min_box_side=8, epoch=-1)
    bank.keep([(s.to("meta"), t.to("meta")) for s, t in features(1.0, 2.0)], [target([1, 0])], epoch=0)
    assert bank.state()["epochs"].tolist() == [0, 0]
