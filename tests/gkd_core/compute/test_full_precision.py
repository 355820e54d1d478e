"""The mathematics of the losses stays in full precision under autocast and with half-precision inputs."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from gkd_core.compute.full_precision import full_precision, unit


@full_precision
def product(left, right):
    return left @ right


def test_autocast_does_not_reach_inside():
    left, right = torch.rand(4, 8), torch.rand(8, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (left @ right).dtype is torch.bfloat16  # what would happen without the decorator
        assert torch.equal(product(left, right), product(left, right).float())
        assert product(left, right).dtype is torch.float32


def test_half_precision_is_widened_and_double_kept():
    for given_dtype, inside in (
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64,) * 2,
    ):
        assert (
            product(torch.ones(2, 2, dtype=given_dtype), right=torch.ones(2, 2, dtype=given_dtype)).dtype
            is inside
        )


@given(st.floats(1e-3, 1e6))
def test_direction_does_not_depend_on_length(scale):
    vectors = torch.tensor([[3.0, 4.0], [-1.0, 2.0]], dtype=torch.float64)

    torch.testing.assert_close(unit(scale * vectors), unit(vectors))
    torch.testing.assert_close(unit(vectors).norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_a_zero_vector_stays_zero_and_gets_no_gradient():
    vectors = torch.tensor([[0.0, 0.0], [1.0, 1.0]], requires_grad=True)

    unit(vectors)[:, 0].sum().backward()

    assert torch.equal(unit(vectors)[0], torch.zeros(2))
    assert torch.equal(vectors.grad[0], torch.zeros(2))
    assert vectors.grad[1].abs().sum() > 0
