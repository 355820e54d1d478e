"""Both global losses compare the positions of instances among the prototypes, and nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_core.distill.losses import global_loss, global_projection_loss, positions
from gkd_core.distill.prototypes import Prototypes


def in_cosines(student, teacher, weights, known):
    return global_loss(positions(student, teacher, known), weights)


def in_projections(student, teacher, weights, known):
    return global_projection_loss(positions(student, teacher, known), weights)


LOSSES = [in_cosines, in_projections]


def case(seed=0, count=5, rows=7, teacher_dim=6, student_dim=4):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(count, student_dim, generator=generator)
    teacher = torch.randn(count, teacher_dim, generator=generator)
    weights = torch.rand(count, generator=generator)
    known = Prototypes(
        torch.randn(rows, teacher_dim, generator=generator),
        torch.randn(rows, student_dim, generator=generator),
        torch.tensor([0, rows]),
    )
    return student, teacher, weights, known


def cosines(features, rows):
    return torch.cosine_similarity(features[:, None], rows[None], dim=2)


def test_the_cosine_form_is_its_formula():
    student, teacher, weights, known = case()
    g_s, g_t = cosines(student, known.student), cosines(teacher, known.teacher)
    difference = (weights[:, None] * (g_s - g_t)).abs()
    expected = torch.where(difference < 1, difference.square() / 2, difference - 0.5).mean()

    assert difference.max() > 1 > difference.min()  # both branches are seen
    torch.testing.assert_close(in_cosines(student, teacher, weights, known), expected)


def test_the_projection_form_is_its_formula():
    student, teacher, weights, known = case()
    squared = (cosines(student, known.student) - cosines(teacher, known.teacher)).square()

    expected = (weights[:, None] * squared).sum() / (2 * len(student))

    torch.testing.assert_close(in_projections(student, teacher, weights, known), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_same_model_twice_loses_nothing(loss):
    student, _, weights, known = case()
    same = Prototypes(known.student, known.student, known.class_start)

    assert loss(student, student, weights, same) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_reaches_the_student_and_nobody_else(loss):
    tensors = [tensor.requires_grad_() for tensor in case()[:3]]
    known = Prototypes(*(rows.requires_grad_() for rows in case()[3][:2]), torch.tensor([0, 7]))

    loss(*tensors, known).backward()

    student, *others = tensors
    assert student.grad.abs().sum() > 0
    assert all(tensor.grad is None for tensor in (*others, known.teacher, known.student))


@pytest.mark.parametrize("loss", LOSSES)
def test_descending_brings_the_student_to_the_teachers_position(loss):
    student, teacher, weights, known = case(count=3, rows=3)
    student.requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.05)
    first = loss(student, teacher, weights, known).item()
    for _ in range(100):
        optimizer.zero_grad()
        loss(student, teacher, weights, known).backward()
        optimizer.step()

    assert loss(student, teacher, weights, known).item() < first / 2


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("count", "rows"), [(0, 7), (5, 0), (0, 0)])
def test_nothing_to_compare_is_zero_with_a_gradient_path(loss, count, rows):
    student, teacher, weights, known = case(count=count, rows=rows)
    student.requires_grad_()

    value = loss(student, teacher, weights, known)
    value.backward()

    assert value == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-2, 1e3))
def test_order_of_instances_and_length_of_features_do_not_matter(loss, seed, scale):
    student, teacher, weights, known = case(seed)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))

    moved = loss(scale * student[order], teacher[order] / scale, weights[order], known)

    torch.testing.assert_close(moved, loss(student, teacher, weights, known), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_instance_of_weight_zero_is_silent(loss):
    student, teacher, weights, known = case()
    weights[2] = 0
    student.requires_grad_()

    loss(student, teacher, weights, known).backward()

    assert torch.equal(student.grad[2], torch.zeros(4))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_teacher_in_inference_mode_and_autocast_change_nothing(loss):
    student, teacher, weights, known = case()
    plain = loss(student, teacher, weights, known)
    with torch.inference_mode():
        quiet = teacher.clone()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student.requires_grad_(), quiet, weights, known)
    value.backward()

    assert torch.equal(value, plain)
