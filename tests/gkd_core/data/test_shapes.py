"""The drawn data set: sound, the same for the same seed, with boxes that are tight."""

from pathlib import Path

import numpy as np
import pytest

from gkd_core.config import DataConfig
from gkd_core.data.check import check
from gkd_core.data.shapes import CLASSES, OUTLINES, _boxes, _Drawn, draw_picture, draw_shapes


def test_it_is_a_sound_data_set(tmp_path: Path) -> None:
    draw_shapes(tmp_path, train=40, val=20, size=96, seed=0)
    report = check(DataConfig(path=str(tmp_path)), decode=True)
    assert report.classes == CLASSES == tuple(OUTLINES)
    assert report.warnings == ()
    assert (report.train.images, report.val.images) == (40, 20)
    assert min(report.train.boxes_per_class.values()) >= 5


def test_the_same_seed_draws_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        draw_shapes(tmp_path / name, train=2, val=2, size=64, seed=seed)
    files = {name: _contents(tmp_path / name) for name in "abc"}
    assert files["a"] == files["b"] != files["c"]


def test_a_larger_set_begins_with_the_smaller_one(tmp_path: Path) -> None:
    draw_shapes(tmp_path / "small", train=2, val=1, size=64, seed=0)
    draw_shapes(tmp_path / "large", train=4, val=1, size=64, seed=0)
    small, large = (tmp_path / name / "images" / "train" / "00002.jpg" for name in ("small", "large"))
    assert small.read_bytes() == large.read_bytes()


def test_boxes_are_tight_around_what_shows_and_hidden_objects_have_none() -> None:
    lower, upper, over = (np.zeros((10, 10), np.float32) for _ in range(3))
    lower[2:8, 2:8] = 1
    upper[2:8, 5:10] = 1
    over[:, :9] = 1
    assert _boxes([_Drawn(1, lower), _Drawn(2, upper)]) == [(1, (2, 2, 5, 8)), (2, (5, 2, 10, 8))]
    assert _boxes([_Drawn(1, lower), _Drawn(2, upper), _Drawn(3, over)]) == [(3, (0, 0, 9, 10))]


def test_boxes_lie_inside_the_picture() -> None:
    for seed in range(20):
        picture, boxes = draw_picture(64, np.random.default_rng(seed))
        assert picture.size == (64, 64)
        for label, (x1, y1, x2, y2) in boxes:
            assert 1 <= label <= len(CLASSES)
            assert 0 <= x1 < x2 <= 64
            assert 0 <= y1 < y2 <= 64


@pytest.mark.parametrize("wrong", [{"size": 32}, {"train": 0}, {"val": 0}])
def test_impossible_wishes_are_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="make no data set"):
        draw_shapes(tmp_path, **{"train": 1, "val": 1, "size": 64, "seed": 0, **wrong})


def _contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
