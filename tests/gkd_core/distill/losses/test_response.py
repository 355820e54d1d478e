"""The response losses are divergences between softened scores."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, kl_divergence

from gkd_core.distill.losses import (
    response_sigmoid,
    response_sigmoid_reference,
    response_softmax,
    response_softmax_reference,
)

LOSSES = [response_softmax, response_sigmoid]


def case(seed=0, count=6, classes=4):
    generator = torch.Generator().manual_seed(seed)
    logits = [3 * torch.randn(count, classes, generator=generator) for _ in range(2)]
    return *logits, torch.rand(count, generator=generator)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_softmax_is_the_divergence_of_categories(temperature):
    student, teacher, weights = case()
    divergence = kl_divergence(
        Categorical(logits=teacher / temperature), Categorical(logits=student / temperature)
    )

    expected = temperature**2 * (weights * divergence).mean()

    torch.testing.assert_close(response_softmax(student, teacher, weights, temperature), expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_sigmoid_is_the_divergence_of_yes_and_no(temperature):
    student, teacher, weights = case()
    divergence = kl_divergence(
        Bernoulli(logits=teacher / temperature), Bernoulli(logits=student / temperature)
    )

    expected = temperature**2 * (weights * divergence.sum(1)).mean()

    torch.testing.assert_close(response_sigmoid(student, teacher, weights, temperature), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_same_scores_lose_nothing(loss):
    student, _, weights = case()

    assert loss(student, student, weights) == 0


def test_softmax_ignores_a_shift_of_all_scores_and_sigmoid_does_not():
    student, _, weights = case()

    assert response_softmax(student + 3, student, weights).item() == pytest.approx(0, abs=1e-6)
    assert response_sigmoid(student + 3, student, weights) > 0.1


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 8))
def test_it_is_never_negative_and_order_does_not_matter(loss, seed, temperature):
    student, teacher, weights = case(seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))

    value = loss(student, teacher, weights, temperature)

    assert value >= 0
    torch.testing.assert_close(loss(student[order], teacher[order], weights[order], temperature), value)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_reaches_the_student_and_nobody_else(loss):
    student, teacher, weights = (tensor.requires_grad_() for tensor in case())

    loss(student, teacher, weights).backward()

    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert weights.grad is None


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_right(loss):
    student, teacher, weights = (tensor.double() for tensor in case())

    assert torch.autograd.gradcheck(lambda logits: loss(logits, teacher, weights), student.requires_grad_())


@pytest.mark.parametrize("loss", LOSSES)
def test_no_proposals_are_zero_with_a_gradient_path(loss):
    student, teacher, weights = case(count=0)
    student.requires_grad_()

    value = loss(student, teacher, weights)
    value.backward()

    assert value == 0
    assert student.grad.shape == (0, 4)


@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_scores_stay_finite_also_in_half_precision(loss):
    student = torch.tensor([[6e4, -6e4], [-6e4, 6e4]]).half().requires_grad_()

    value = loss(student, -student.detach(), torch.ones(2))
    value.backward()

    assert value.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_teacher_in_inference_mode_is_welcome(loss):
    student, teacher, weights = case()
    with torch.inference_mode():
        quiet = teacher.clone()

    loss(student.requires_grad_(), quiet, weights).backward()

    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("classes", [3, 20, 80])
def test_classes_that_nobody_speaks_of_leave_the_gradient_of_the_others_as_it_is(classes):
    student, teacher, weights = case(classes=3)
    agreed = torch.full((len(weights), classes - 3), -5.0)
    wide = torch.cat([student, agreed], 1).requires_grad_()
    narrow = student.clone().requires_grad_()
    response_sigmoid(wide, torch.cat([teacher, agreed], 1), weights).backward()
    response_sigmoid(narrow, teacher, weights).backward()
    torch.testing.assert_close(wide.grad[:, :3], narrow.grad)


def test_the_published_forms_are_means_over_classes():
    student, teacher, weights = case(classes=5)
    for summed, published in (
        (response_softmax, response_softmax_reference),
        (response_sigmoid, response_sigmoid_reference),
    ):
        expected = summed(student, teacher, weights) / 5
        torch.testing.assert_close(published(student, teacher, weights), expected)
