"""The text of a report."""

import pytest

from gkd_core.config import DataConfig
from gkd_core.runs.report import headline, verdict


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


def data(kind: str) -> DataConfig:
    split = {"images": "images", "annotations": "annotations"}
    return DataConfig.model_validate({"format": kind, "train": split, "val": split})


def test_the_numbers_shown_first_are_those_of_the_format_and_what_ranked_the_epochs() -> None:
    assert headline(data("coco")) == ("AP", "AP50", "AP75")
    assert headline(data("voc")) == ("AP", "AP50", "VOC07", "VOC12")
    assert headline(data("voc"), "VOC07") == headline(data("voc"))
    assert headline(data("yolo"), "APs") == ("AP", "AP50", "AP75", "APs")
