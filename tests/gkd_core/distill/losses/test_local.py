"""Masks show where instances are; the local losses compare the maps there and elsewhere."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_core.distill.losses import (
    foreground_mask,
    foreground_mask_reference,
    local_losses,
    local_losses_reference,
)

STRIDE = 8
SHAPE = (2, 6, 5)  # B, H, W: pictures of 40 x 48 pixels
MASKS = [foreground_mask, foreground_mask_reference]
LOSSES = [local_losses, local_losses_reference]


def paint(mask, boxes, weights, image_index=None, on_level=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    image_index = [0] * len(boxes) if image_index is None else image_index
    on_level = [True] * len(boxes) if on_level is None else on_level
    return mask(
        boxes,
        torch.tensor(weights, dtype=torch.float32),
        torch.tensor(image_index, dtype=torch.int64),
        torch.tensor(on_level, dtype=torch.bool),
        STRIDE,
        SHAPE,
    )


def maps(seed=0, channels=3):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, channels, 6, 5, generator=generator) for _ in range(2))


# ---- masks -----------------------------------------------------------------------------------------------


def test_a_cell_is_foreground_when_its_centre_lies_in_the_box():
    mask = paint(foreground_mask, [[3, 5, 21, 20]], [0.5])  # centres at 4, 12, 20, ...

    expected = torch.zeros(SHAPE)
    expected[0, 1:2, 0:3] = 0.5
    assert torch.equal(mask, expected)


def test_the_reference_paints_half_open_ranges():
    mask = paint(foreground_mask_reference, [[3, 5, 21, 20]], [0.5])

    expected = torch.zeros(SHAPE)
    expected[0, 0:2, 0:2] = 0.5
    assert torch.equal(mask, expected)


def test_where_boxes_overlap_the_larger_weight_stays_and_in_the_reference_the_later():
    boxes, weights = [[0, 0, 24, 24], [8, 8, 40, 40]], [0.9, 0.4]

    assert paint(foreground_mask, boxes, weights)[0, 1, 1] == pytest.approx(0.9)
    assert paint(foreground_mask_reference, boxes, weights)[0, 1, 1] == pytest.approx(0.4)


@pytest.mark.parametrize("mask", MASKS)
def test_boxes_stay_in_their_image_and_on_their_level(mask):
    painted = paint(mask, [[0, 0, 16, 16], [16, 16, 32, 32]], [0.5, 0.7], [1, 1], [True, False])

    assert painted[0].sum() == 0
    assert painted[1, :2, :2].eq(0.5).all()
    assert painted[1].count_nonzero() == 4


def test_a_box_of_another_level_does_not_hide_a_box_in_the_reference():
    painted = paint(
        foreground_mask_reference, [[0, 0, 16, 16], [0, 0, 16, 16]], [0.5, 0.7], None, [True, False]
    )

    assert painted[0, 0, 0] == 0.5


@pytest.mark.parametrize("mask", MASKS)
@settings(max_examples=50, deadline=None)
@given(x=st.floats(-60, 90), y=st.floats(-60, 90), width=st.floats(0, 60), height=st.floats(0, 60))
def test_every_box_has_a_cell_and_its_weight(mask, x, y, width, height):
    painted = paint(mask, [[x, y, x + width, y + height]], [0.25])

    assert painted[0].count_nonzero() >= 1
    assert painted.unique().tolist() in ([0.0, 0.25], [0.25])


def test_the_order_of_boxes_does_not_matter_by_default():
    boxes, weights = [[0, 0, 24, 24], [8, 8, 40, 40], [30, 2, 39, 44]], [0.9, 0.4, 0.6]

    assert torch.equal(
        paint(foreground_mask, boxes, weights), paint(foreground_mask, boxes[::-1], weights[::-1])
    )


def test_an_instance_of_weight_zero_is_still_no_background():
    assert paint(foreground_mask, [[0, 0, 16, 16]], [0.0])[0, 0, 0] > 0


@pytest.mark.parametrize("mask", MASKS)
def test_no_boxes_leave_an_empty_mask(mask):
    painted = paint(mask, [], [])

    assert torch.equal(painted, torch.zeros(SHAPE))


# ---- losses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("losses", LOSSES)
def test_both_parts_are_their_formulas(losses):
    student, teacher = maps()
    mask = paint(foreground_mask, [[0, 0, 24, 24], [8, 8, 40, 40]], [0.9, 0.4], [0, 1])
    squared = (student - teacher).square().sum(1)
    size = mask.sum() if losses is local_losses_reference else (mask > 0).sum()

    found = losses(student, teacher, mask)

    torch.testing.assert_close(found.foreground, (squared * mask).sum() / (2 * 3 * size))
    torch.testing.assert_close(found.background, squared[mask == 0].mean() / (2 * 3))


def test_doubt_about_every_instance_lowers_the_default_foreground_and_not_the_reference():
    student, teacher = maps()
    sure, unsure = (paint(foreground_mask, [[0, 0, 24, 40]], [weight]) for weight in (1.0, 0.5))

    assert local_losses(student, teacher, unsure).foreground.item() == pytest.approx(
        local_losses(student, teacher, sure).foreground.item() / 2
    )
    assert local_losses_reference(student, teacher, unsure).foreground.item() == pytest.approx(
        local_losses_reference(student, teacher, sure).foreground.item()
    )


@pytest.mark.parametrize("losses", LOSSES)
def test_the_same_maps_lose_nothing(losses):
    student, _ = maps()

    assert losses(student, student, paint(foreground_mask, [[0, 0, 24, 24]], [0.9])) == (0, 0)


@pytest.mark.parametrize("losses", LOSSES)
def test_each_part_sends_its_gradient_to_its_own_cells(losses):
    student, teacher = maps()
    mask = paint(foreground_mask, [[0, 0, 24, 24]], [0.9])
    cells = (mask > 0)[:, None].expand_as(student)

    found = losses(student.requires_grad_(), teacher, mask)

    (foreground,) = torch.autograd.grad(found.foreground, student, retain_graph=True)
    (background,) = torch.autograd.grad(found.background, student)
    assert torch.equal(foreground != 0, cells)
    assert torch.equal(background != 0, ~cells)


@pytest.mark.parametrize("losses", LOSSES)
def test_the_gradient_reaches_the_student_and_nobody_else(losses):
    student, teacher = maps()
    mask = paint(foreground_mask, [[0, 0, 24, 24]], [0.9])
    tensors = [tensor.requires_grad_() for tensor in (student, teacher, mask)]

    sum(losses(*tensors)).backward()

    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert mask.grad is None


@pytest.mark.parametrize("losses", LOSSES)
def test_without_instances_the_foreground_is_zero_with_a_gradient_path(losses):
    student, teacher = maps()
    student.requires_grad_()

    found = losses(student, teacher, torch.zeros(SHAPE))
    found.foreground.backward(retain_graph=True)

    assert found.foreground == 0
    assert torch.equal(student.grad, torch.zeros_like(student))
    assert found.background > 0


@pytest.mark.parametrize("losses", LOSSES)
def test_the_order_of_images_does_not_matter(losses):
    student, teacher = maps()
    mask = paint(foreground_mask, [[0, 0, 24, 24]], [0.9])

    for part, flipped in zip(
        losses(student, teacher, mask), losses(student.flip(0), teacher.flip(0), mask.flip(0)), strict=True
    ):
        torch.testing.assert_close(flipped, part)


@pytest.mark.parametrize("losses", LOSSES)
def test_half_precision_maps_are_compared_in_float32(losses):
    student, teacher = (1000 * each.half() for each in maps())  # their squares overflow in half precision
    mask = paint(foreground_mask, [[0, 0, 24, 24]], [0.9])

    assert all(part.isfinite() and part.dtype is torch.float32 for part in losses(student, teacher, mask))


@pytest.mark.parametrize("losses", LOSSES)
def test_a_teacher_in_inference_mode_is_welcome(losses):
    student, teacher = maps()
    with torch.inference_mode():
        quiet = teacher.clone()

    sum(losses(student.requires_grad_(), quiet, torch.zeros(SHAPE))).backward()

    assert student.grad.abs().sum() > 0
