"""Which boxes are pooled for prototypes; each picture is run once."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gkd_core.config import PrototypesConfig
from gkd_core.data.loading import EvalSample
from gkd_core.data.records import ImageRecord
from gkd_core.distill.instances import Choice, InstancePool, choose_instances


def record(
    boxes: Sequence[Sequence[float]], labels: Sequence[int], crowd: Sequence[bool] | None = None
) -> ImageRecord:
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return ImageRecord(
        image_id=len(boxes),
        path=Path("x.jpg"),
        width=200,
        height=100,
        boxes=array,
        labels=np.array(labels, dtype=np.int64),
        crowd=np.array(crowd if crowd is not None else [False] * len(labels), dtype=np.bool_),
        area=np.ones(len(labels), dtype=np.float32),
    )


LARGE, TINY = [0.0, 0, 60, 60], [0.0, 0, 10, 60]


def choose(images: list[ImageRecord], classes: int = 2, **changes: float) -> dict[int, list[int]]:
    config = PrototypesConfig.model_validate({"min_box_side": 8, **changes})
    choice: Choice = choose_instances(images, classes, 100, config, seed=0)
    return {position: rows.tolist() for position, rows in choice.items()}


def test_large_boxes_of_every_class_are_taken() -> None:
    assert choose([record([LARGE, LARGE], [1, 2]), record([LARGE], [2])]) == {0: [0, 1], 1: [0]}


def test_small_boxes_count_in_pixels_of_the_resized_picture() -> None:
    picture = record([LARGE, TINY], [1, 1])  # 200 pixels become 100: the small one is 5 wide
    assert choose([picture]) == {0: [0]}
    assert choose([picture], min_box_side=5) == {0: [0, 1]}


def test_a_class_that_has_only_small_boxes_keeps_them() -> None:
    assert choose([record([LARGE, TINY], [1, 2])]) == {0: [0, 1]}


def test_crowds_are_never_pooled() -> None:
    assert choose([record([LARGE, LARGE], [1, 1], [True, False])]) == {0: [1]}


def test_pictures_without_a_chosen_box_are_not_run() -> None:
    assert choose([record([], []), record([LARGE], [1]), record([], [])]) == {1: [0]}


def test_a_class_gives_no_more_than_the_limit_and_the_seed_decides_which() -> None:
    images = [record([LARGE] * 10, [1] * 10) for _ in range(5)]
    config = PrototypesConfig(max_instances=7)
    first, again, other = (choose_instances(images, 1, 100, config, seed) for seed in (0, 0, 1))
    assert sum(map(len, first.values())) == 7
    assert all(np.array_equal(first[position], again[position]) for position in first)
    assert {p: r.tolist() for p, r in first.items()} != {p: r.tolist() for p, r in other.items()}


# ---- the pass --------------------------------------------------------------------------------------------


class Flat(torch.nn.Module):
    """A detector whose two maps hold a constant, and that counts how often it runs."""

    def __init__(self, value: float, channels: int) -> None:
        super().__init__()
        self.value, self.channels, self.runs = value, channels, 0
        self.backbone = self._maps

    def transform(self, pictures: list[Tensor]) -> tuple["Flat", None]:
        self.tensors, self.image_sizes = torch.stack(pictures), [(8, 8)] * len(pictures)
        return self, None

    def _maps(self, batch: Tensor) -> dict[str, Tensor]:
        self.runs += 1
        return {str(size): torch.full((len(batch), self.channels, size, size), self.value) for size in (4, 2)}


def mean_pooling(features: Tensor, boxes: Tensor, image_index: Tensor, stride: float, most: int) -> Tensor:
    return features[image_index].mean((2, 3)) + boxes[:, :1]


@pytest.fixture
def pool() -> InstancePool:
    return InstancePool(Flat(1.0, 3), Flat(2.0, 5), [0, 1], [1], [4], mean_pooling, torch.device("cpu"))


def sample(scale: float) -> EvalSample:
    return EvalSample(
        torch.zeros(3, 8, 8, dtype=torch.uint8), 3, (scale, scale), torch.zeros(0, 4), torch.zeros(0)
    )


def test_boxes_are_scaled_with_their_picture_and_each_detector_runs_once_a_batch(pool: InstancePool) -> None:
    pool.teacher_levels = [1]
    picture = record([[10, 0, 50, 50], [20, 0, 50, 50]], [2, 1])
    pool.add([sample(0.5), sample(0.25)], [(picture, np.array([1])), (picture, np.array([0, 1]))])
    pooled = pool.finish()
    assert pooled.boxes[:, 0].tolist() == [20, 10, 20]
    assert pooled.labels.tolist() == [0, 1, 0]
    assert pooled.teacher[0][:, 0].tolist() == [11, 3.5, 6]
    assert pooled.student[0].shape == (3, 5)
    assert pool.teacher.runs == pool.student.runs == 1


def test_a_later_pass_over_the_same_boxes_runs_the_student_alone(pool: InstancePool) -> None:
    pool.teacher_levels = [0]
    chosen = [(record([LARGE], [1]), np.array([0]))]
    pool.add([sample(1.0)], chosen)
    first = pool.finish()
    again = replace(pool, known=first, _parts=[])
    again.student.value = 7.0

    again.add([sample(1.0)], chosen)

    found = again.finish()
    assert torch.equal(found.teacher[0], first.teacher[0])
    assert (found.student[0] == first.student[0] + 5).all()
    assert (again.teacher.runs, again.student.runs) == (1, 2)


def test_a_later_pass_over_other_boxes_is_refused(pool: InstancePool) -> None:
    pool.teacher_levels = [0]
    both = record([LARGE, LARGE], [1, 1])
    pool.add([sample(1.0)], [(both, np.array([0]))])
    again = replace(pool, known=pool.finish(), _parts=[])
    again.add([sample(1.0)], [(both, np.array([1]))])

    with pytest.raises(ValueError, match="other boxes"):
        again.finish()


def test_batches_are_joined_in_order(pool: InstancePool) -> None:
    pool.teacher_levels = [0]
    for left in (10.0, 20.0):
        pool.add([sample(1.0)], [(record([[left, 0, 50, 50]], [1]), np.array([0]))])
    assert pool.finish().boxes[:, 0].tolist() == [10, 20]
