"""Pooling is the exact mean over a box, and levels follow the size of a box."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from gkd_core.distill.features import (
    assign_levels,
    assign_levels_reference,
    covered_shares,
    pool_boxes,
    pool_boxes_on_levels,
    pool_reference,
    pool_reference_on_levels,
)
from gkd_core.distill.grids import Grids, Slots

STRIDE = 8


def batch(seed=0, boxes_per_image=(3, 0, 4), channels=5, height=6, width=9):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(boxes_per_image), channels, height, width, generator=generator)
    corners = torch.rand(sum(boxes_per_image), 2, 2, generator=generator) * 1.4 - 0.2  # some reach outside
    corners = corners.sort(dim=1).values * torch.tensor([width * STRIDE, height * STRIDE])
    image_index = torch.repeat_interleave(torch.arange(len(boxes_per_image)), torch.tensor(boxes_per_image))
    return features, corners.flatten(1), image_index


def overlap(low, high, cell):
    return max(0.0, min(high / STRIDE, cell + 1) - max(low / STRIDE, cell))


def mean_by_loop(feature_map, box):
    """Compute the definition, cell by cell: (C, H, W) and one box to (C,)."""
    x1, y1, x2, y2 = box.tolist()
    total, area = torch.zeros(len(feature_map)), 0.0
    for row in range(feature_map.shape[1]):
        for column in range(feature_map.shape[2]):
            share = overlap(y1, y2, row) * overlap(x1, x2, column)
            total, area = total + share * feature_map[:, row, column], area + share
    return total / area


def reference_by_loop(feature_map, box):
    x1, y1, x2, y2 = (int(abs(side) / STRIDE) for side in box.tolist())
    return feature_map[:, y1 : y2 + 1, x1 : x2 + 1].mean((1, 2))


@pytest.mark.parametrize("seed", range(5))
def test_pooling_equals_a_loop_over_cells(seed):
    features, boxes, image_index = batch(seed)
    inside = boxes.clamp_min(0)  # a loop over cells needs boxes with area on the map
    inside[:, 2:] = torch.maximum(inside[:, 2:], inside[:, :2] + 1)
    inside[:, :2] = torch.minimum(inside[:, :2], torch.tensor([9.0, 6.0]) * STRIDE - 1)

    pooled = pool_boxes(features, inside, image_index, STRIDE)

    expected = [mean_by_loop(features[i], box) for i, box in zip(image_index.tolist(), inside, strict=True)]
    torch.testing.assert_close(pooled, torch.stack(expected))


@pytest.mark.parametrize("seed", range(5))
def test_reference_pooling_equals_slices_with_both_ends(seed):
    features, boxes, image_index = batch(seed)
    boxes = boxes.clamp_min(0)
    boxes[:, :2] = torch.minimum(boxes[:, :2], torch.tensor([9.0, 6.0]) * STRIDE - 1)

    pooled = pool_reference(features, boxes, image_index, STRIDE)

    expected = [
        reference_by_loop(features[i], box) for i, box in zip(image_index.tolist(), boxes, strict=True)
    ]
    torch.testing.assert_close(pooled, torch.stack(expected))


@pytest.mark.parametrize("pool", [pool_boxes, pool_reference])
def test_no_box_gives_nan(pool):
    features = torch.arange(12.0).view(1, 1, 3, 4)
    odd = [
        [9, 9, 9, 9],
        [9, 9, 5, 5],
        [-90, -90, -50, -50],
        [900, 0, 990, 9],
        [3, 990, 5, 999],
        [0, 0, 1e6, 1e6],
    ]

    pooled = pool(features, torch.tensor(odd, dtype=torch.float32), torch.zeros(6, dtype=torch.int64), STRIDE)

    assert pooled.isfinite().all()


odd_sides = st.floats(-1e7, 1e7, width=32) | st.sampled_from([0.0, -0.0, 1e-30, 3e38, -3e38])


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.lists(odd_sides, min_size=4, max_size=4), min_size=1, max_size=5),
    st.sampled_from([4, 8, 7.5]),
    st.sampled_from([pool_boxes, pool_reference]),
)
def test_whatever_the_boxes_pooling_stays_within_the_map(boxes, stride, pool):
    features = torch.arange(24.0).view(2, 1, 3, 4)
    image_index = torch.arange(len(boxes)) % 2

    pooled = pool(features, torch.tensor(boxes), image_index, stride)

    low, high = features.flatten(1).aminmax(dim=1)
    assert ((pooled[:, 0] >= low[image_index] - 1e-4) & (pooled[:, 0] <= high[image_index] + 1e-4)).all()


@pytest.mark.parametrize(
    ("box", "cell"),
    [
        ([17.0, 9.0, 18.0, 10.0], (1, 2)),  # inside one cell
        ([17.0, 9.0, 17.0, 9.0], (1, 2)),  # without area
        ([-40.0, 9.0, -20.0, 10.0], (1, 0)),  # left of the map
        ([90.0, 90.0, 95.0, 99.0], (2, 3)),  # beyond its corner
    ],
)
def test_a_box_too_small_or_outside_takes_the_nearest_cell(box, cell):
    features = torch.arange(12.0).view(1, 1, 3, 4)

    pooled = pool_boxes(features, torch.tensor([box]), torch.tensor([0]), STRIDE)

    assert pooled.item() == features[0, 0, *cell].item()


@settings(deadline=None)
@given(st.floats(-50, 150), st.floats(0, 200), st.sampled_from([4, 8, 7.5]), st.integers(1, 20))
def test_shares_are_a_distribution(low, length, stride, cells):
    box = torch.tensor([[low, low, low + length, low + length / 2]])

    shares = covered_shares(box, Grids.of([stride, 2 * stride], [(cells, 7), (3, cells)], box.device))

    assert shares.shape == (2, 1, 2, max(cells, 7))
    assert shares.min() >= 0
    assert shares.sum(3).flatten().tolist() == pytest.approx([1] * 4, abs=1e-5)
    assert shares[0, 0, 0, 7:].sum() == shares[1, 0, 1, 3:].sum() == 0  # nothing beyond the end of a level


@pytest.mark.parametrize(
    ("one", "many"), [(pool_boxes, pool_boxes_on_levels), (pool_reference, pool_reference_on_levels)]
)
def test_all_levels_of_two_pyramids_are_pooled_as_each_alone(one, many):
    _, boxes, image_index = batch()
    shapes = [(6, 9), (3, 5), (2, 3)]
    pyramids = [[torch.randn(3, channels, *shape) for shape in shapes] for channels in (5, 4)]
    strides = [STRIDE * 2**level for level in range(3)]

    found = many(pyramids, boxes, Slots.of(image_index, 3, 4), Grids.of(strides, shapes, boxes.device))

    for maps, pooled in zip(pyramids, found, strict=True):
        alone = [
            one(*pair, image_index, stride) for *pair, stride in zip(maps, [boxes] * 3, strides, strict=True)
        ]
        torch.testing.assert_close(pooled, torch.stack(alone))


@pytest.mark.parametrize("pool", [pool_boxes, pool_reference])
def test_pooling_follows_the_order_of_boxes(pool):
    features, boxes, image_index = batch()
    order = torch.tensor([6, 0, 3, 1, 5, 2, 4])  # the images are mixed

    pooled = pool(features, boxes, image_index, STRIDE)

    torch.testing.assert_close(pool(features, boxes[order], image_index[order], STRIDE), pooled[order])


def test_spare_slots_change_nothing():
    features, boxes, image_index = batch()

    tight = pool_boxes(features, boxes, image_index, STRIDE, most_per_image=4)

    torch.testing.assert_close(pool_boxes(features, boxes, image_index, STRIDE, most_per_image=7), tight)


@pytest.mark.parametrize("most", [None, 40])
@pytest.mark.parametrize("pool", [pool_boxes, pool_reference])
def test_boxes_pooled_some_at_a_time_are_pooled_alike(monkeypatch, pool, most):
    features, boxes, image_index = batch(boxes_per_image=(40, 0, 25))
    features.requires_grad_()
    weigh = torch.randn(len(boxes), features.shape[1])
    whole = pool(features, boxes, image_index, STRIDE, most)
    (gradient,) = torch.autograd.grad((whole * weigh).sum(), features)
    monkeypatch.setattr("gkd_core.distill.features.WEIGHTS_AT_ONCE", 16 * features[:, 0].numel())

    parts = pool(features, boxes, image_index, STRIDE, most)

    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad((parts * weigh).sum(), features)[0], gradient)


class Largest(TorchDispatchMode):
    """Records the most bytes that one operation returned."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.most = max(self.most, result.nbytes)
        return result


def test_thousands_of_boxes_take_little_memory():
    features, boxes, image_index = batch(boxes_per_image=(1500,) * 4, channels=2, height=80, width=80)
    kept = 0

    def keep(tensor):
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with Largest() as seen, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        pool_boxes(features.requires_grad_(), boxes, image_index, STRIDE, 1500).sum().backward()

    assert seen.most <= 4 * 2**23  # all weights at once would be 154 MB
    assert kept < 20e6


@pytest.mark.parametrize("pool", [pool_boxes, pool_reference])
def test_pooling_has_the_right_gradient(pool):
    features, boxes, image_index = batch(channels=2, height=3, width=4)
    features = features.double().requires_grad_()

    assert torch.autograd.gradcheck(lambda maps: pool(maps, boxes.double(), image_index, STRIDE), features)


@pytest.mark.parametrize("pool", [pool_boxes, pool_reference])
def test_no_boxes_keep_a_gradient_path(pool):
    features = torch.rand(2, 3, 4, 4, requires_grad=True)

    pooled = pool(features, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), STRIDE)
    pooled.sum().backward()

    assert pooled.shape == (0, 3)
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_half_precision_maps_are_averaged_in_float32():
    features, boxes, image_index = batch()
    half = features.half()

    torch.testing.assert_close(
        pool_boxes(half, boxes, image_index, STRIDE), pool_boxes(half.float(), boxes, image_index, STRIDE)
    )


# ---- levels ----------------------------------------------------------------------------------------------

STRIDES = (8, 16, 32, 64, 128)


def square(side):
    return [100.0, 100.0, 100.0 + side, 100.0 + side]


@pytest.mark.parametrize(
    ("side", "level"),
    [(0, 0), (1, 0), (32, 0), (63, 0), (64, 1), (127, 1), (128, 2), (256, 3), (511, 3), (512, 4), (9000, 4)],
)
def test_a_level_starts_at_four_of_its_cells(side, level):
    assert assign_levels(torch.tensor([square(side)]), STRIDES).tolist() == [level]


@settings(deadline=None, max_examples=200)
@given(st.lists(odd_sides, min_size=4, max_size=4), st.integers(1, 5), st.sampled_from([4.0, 14.0]))
def test_whatever_the_box_it_has_a_level(box, levels, cells):
    (level,) = assign_levels(torch.tensor([box]), STRIDES[:levels], cells).tolist()
    strides = torch.tensor(STRIDES[:levels], dtype=torch.float32)
    assert assign_levels(torch.tensor([box]), strides, cells).tolist() == [level]

    assert 0 <= level < levels


def test_two_stage_detectors_ask_for_fourteen_cells():
    boxes = torch.tensor([square(side) for side in (111, 112, 223, 224, 448)])

    assert assign_levels(boxes, (4, 8, 16, 32), cells=14).tolist() == [0, 1, 1, 2, 3]


def test_one_level_takes_everything():
    assert assign_levels(torch.tensor([square(4), square(400)]), (32,)).tolist() == [0, 0]


@given(st.floats(0, 2000), st.floats(0, 2000), st.integers(1, 6))
def test_the_reference_level_is_its_formula(width, height, levels):
    box = torch.tensor([[10.0, 20.0, 10.0 + width, 20.0 + height]], dtype=torch.float64)
    level = math.floor(math.log2(math.sqrt((width + 1) * (height + 1)) / 56 + 1e-6))

    assert assign_levels_reference(box, levels).item() == min(max(level, 0), levels - 1)


def test_no_boxes_have_no_levels():
    assert assign_levels(torch.zeros(0, 4), STRIDES).shape == (0,)
    assert assign_levels_reference(torch.zeros(0, 4), 5).dtype is torch.int64
