"""Robustness is 1 where both models agree, falls where they do not, and never carries a gradient."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_core.distill.losses import positions, robustness
from gkd_core.distill.prototypes import Prototypes


def omega_of(student, teacher, labels, known):
    """Return omega from features instead of positions."""
    return robustness(positions(student, teacher, known), labels, known)


def prototypes(class_start=(0, 3, 3, 5), teacher_dim=6, student_dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = class_start[-1]
    return Prototypes(
        torch.randn(rows, teacher_dim, generator=generator),
        torch.randn(rows, student_dim, generator=generator),
        torch.tensor(class_start),
    )


def instances(seed=1, count=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=generator), torch.randn(count, 6, generator=generator)


def test_robustness_is_its_formula_instance_by_instance():
    student, teacher = instances()
    labels, known = torch.tensor([0, 2, 0, 2, 2, 0, 0, 2]), prototypes()
    expected = []
    for s, t, label in zip(student, teacher, labels.tolist(), strict=True):
        own = slice(*known.class_start[label : label + 2].tolist())
        near_s = torch.cosine_similarity(s, known.student[own]).max()
        near_t = torch.cosine_similarity(t, known.teacher[own]).max()
        expected.append((1 - (near_s - near_t).abs()).clamp(0, 1))

    torch.testing.assert_close(omega_of(student, teacher, labels, known), torch.stack(expected))


def test_the_same_model_twice_is_fully_robust():
    student, _ = instances()
    known = prototypes(student_dim=4)
    same = Prototypes(known.student, known.student, known.class_start)

    assert torch.equal(omega_of(student, student, torch.zeros(8, dtype=torch.int64), same), torch.ones(8))


def test_nothing_is_known_against_a_class_without_prototypes():
    student, teacher = instances()
    labels = torch.tensor([1, 0, 1, 0, 1, 0, 1, 0])  # class 1 has no rows

    weights = omega_of(student, teacher, labels, prototypes())

    assert torch.equal(weights[labels == 1], torch.ones(4))
    assert (weights[labels == 0] < 1).all()
    assert torch.equal(omega_of(student, teacher, labels, prototypes((0, 0, 0, 0))), torch.ones(8))


def test_opposite_views_weigh_nothing():
    known = Prototypes(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0, 1]))

    weights = omega_of(torch.tensor([[-1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), known)

    assert weights.tolist() == [0.0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-2, 1e3), st.floats(1e-2, 1e3))
def test_weights_stay_in_range_and_ignore_the_length_of_features(seed, scale_s, scale_t):
    student, teacher = instances(seed)
    labels = torch.arange(8) % 3

    weights = omega_of(student, teacher, labels, prototypes())

    assert ((weights >= 0) & (weights <= 1)).all()
    scaled = omega_of(scale_s * student, scale_t * teacher, labels, prototypes())
    torch.testing.assert_close(scaled, weights, atol=1e-5, rtol=1e-5)


def test_weights_are_detached_and_full_precision():
    student, teacher = instances()
    half = student.half().requires_grad_()

    weights = omega_of(half, teacher.half(), torch.zeros(8, dtype=torch.int64), prototypes())

    assert not weights.requires_grad
    assert weights.dtype is torch.float32


def test_no_instances_have_no_weights():
    weights = omega_of(torch.rand(0, 4), torch.rand(0, 6), torch.zeros(0, dtype=torch.int64), prototypes())

    assert weights.shape == (0,)
