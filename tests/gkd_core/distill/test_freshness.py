"""How often the student's features of the prototypes are refreshed, and what a refresh replaces."""

import pytest
import torch
from torch.nn import functional

from gkd_core.config import PrototypesConfig
from gkd_core.distill.freshness import TURNED, first_interval, with_newer_features
from gkd_core.distill.instances import Pooled
from gkd_core.distill.prototypes import Prototypes

AUTO = PrototypesConfig()


def test_a_refresh_runs_at_most_as_many_pictures_as_the_steps_before_it_trained_on() -> None:
    interval = first_interval(100, pictures=90, batch_size=4, wanted=AUTO)
    assert (interval.last, interval.steps) == (100, 23)
    for _ in range(5):
        interval = interval.after(interval.last + interval.steps, cosine=-1.0, wanted=AUTO)
    assert interval.steps == 23


def test_it_is_due_once_its_steps_are_over() -> None:
    interval = first_interval(100, pictures=90, batch_size=4, wanted=AUTO)
    assert [step for step in range(100, 130) if interval.is_due(step)][:2] == [123, 124]


@pytest.mark.parametrize(
    ("cosine", "steps"), [(1 - TURNED, 100), (1.0, 200), (1 - TURNED * 1.25, 80), (0.0, 50), (0.95, 200)]
)
def test_features_that_turn_faster_are_refreshed_more_often(cosine: float, steps: int) -> None:
    interval = first_interval(0, pictures=10, batch_size=4, wanted=AUTO)._replace(steps=100)
    assert interval.after(100, cosine, AUTO) == (100, steps, interval.least)


def test_a_number_of_steps_stays() -> None:
    wanted = PrototypesConfig(refresh=5)
    interval = first_interval(0, pictures=1000, batch_size=1, wanted=wanted)
    assert interval.after(5, 0.0, wanted).steps == interval.steps == 5


def test_a_bank_costs_nothing_and_keeps_its_pace() -> None:
    wanted = PrototypesConfig(source="bank")
    interval = first_interval(0, pictures=40, batch_size=4, wanted=wanted)
    assert interval.after(10, 0.0, wanted).steps == interval.steps == 10


def test_nothing_is_refreshed_where_nobody_wants_it() -> None:
    interval = first_interval(0, pictures=10, batch_size=4, wanted=PrototypesConfig(refresh=None))
    assert not interval.is_due(10**6)


# ---- newer features --------------------------------------------------------------------------------------

LEVELS = 2


def pooled_objects(seed: int) -> Pooled:
    """Return features of three objects, as a pass pools them."""
    draw = torch.Generator().manual_seed(seed)
    return Pooled(
        teacher=[torch.randn(3, 16, generator=draw) for _ in range(LEVELS)],
        student=[torch.randn(3, 8, generator=draw) for _ in range(LEVELS)],
        labels=torch.tensor([0, 0, 1]),
        image_ids=torch.tensor([7, 7, 9]),
        boxes=torch.zeros(3, 4),
        rows=torch.tensor([0, 1, 0]),
        sides=torch.full((3,), 50.0),
    )


@pytest.mark.parametrize("both", [False, True])
def test_newer_features_are_those_of_the_same_objects(both: bool) -> None:
    old, new = pooled_objects(0), pooled_objects(1)
    order = torch.tensor([2, 0])
    chosen = [torch.tensor([[9, 0], [7, 0]])] * LEVELS
    prototypes = [
        Prototypes(t[order], s[order], torch.tensor([0, 1, 2]))
        for t, s in zip(old.teacher, old.student, strict=True)
    ]
    newer, cosine = with_newer_features(prototypes, chosen, new, both=both)
    for level, each in enumerate(newer):
        assert torch.equal(each.student, new.student[level][order])
        assert torch.equal(each.teacher, (new if both else old).teacher[level][order])
    before, now = torch.cat([s[order] for s in old.student]), torch.cat([s[order] for s in new.student])
    assert cosine == pytest.approx(float(functional.cosine_similarity(before, now).mean()), abs=1e-6)
    assert with_newer_features(newer, chosen, new)[1] == pytest.approx(1)


def test_without_prototypes_nothing_turns() -> None:
    empty = Prototypes(torch.zeros(0, 16), torch.zeros(0, 8), torch.zeros(3, dtype=torch.int64))
    nothing = torch.zeros(0, 2, dtype=torch.int64)
    newer, cosine = with_newer_features([empty] * LEVELS, [nothing] * LEVELS, pooled_objects(0))
    assert cosine == 1
    assert [len(each.student) for each in newer] == [0, 0]
