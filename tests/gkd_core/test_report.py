"""What a report says in words."""

import pytest

from gkd_core.report import verdict


@pytest.mark.parametrize(
    ("ap", "low", "high", "pictures", "words"),
    [
        (0.02, 0.01, 0.03, 87, "gained +0.020 AP"),
        (-0.02, -0.03, -0.01, 87, "lost -0.020 AP"),
        (0.02, -0.01, 0.05, 87, "No difference that these pictures can show"),
        (0.02, 0.02, 0.02, 1, "1 validation pictures are too few to tell"),
    ],
)
def test_a_difference_is_called_what_its_interval_allows(
    ap: float, low: float, high: float, pictures: int, words: str
) -> None:
    assert words in verdict(ap, low, high, pictures)
