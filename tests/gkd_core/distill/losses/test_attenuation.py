"""How global and local losses decrease over a training."""

from itertools import pairwise

import pytest

from gkd_core.distill.losses.attenuation import attenuation


@pytest.mark.parametrize("form", ["linear", "cosine"])
def test_it_falls_from_one_to_zero_and_is_half_way_in_the_middle(form):
    factors = [attenuation(form, epoch, 10) for epoch in range(11)]

    assert factors[0] == 1
    assert factors[-1] == pytest.approx(0)
    assert factors[5] == pytest.approx(0.5)
    assert all(earlier > later for earlier, later in pairwise(factors))


def test_the_linear_one_is_the_published_one():
    assert [attenuation("linear", epoch, 4) for epoch in range(4)] == [1, 0.75, 0.5, 0.25]


def test_a_cosine_stays_high_for_longer_and_fades_faster():
    assert attenuation("cosine", 2, 10) > attenuation("linear", 2, 10)
    assert attenuation("cosine", 8, 10) < attenuation("linear", 8, 10)


def test_a_constant_one_never_fades():
    assert {attenuation("constant", epoch, 10) for epoch in range(10)} == {1.0}
