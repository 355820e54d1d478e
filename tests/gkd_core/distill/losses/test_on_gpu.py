"""The losses of a training step never wait for the GPU and have the same values as on the CPU."""

import pytest
import torch

from gkd_core.distill.features import assign_levels, assign_levels_reference, pool_boxes, pool_reference
from gkd_core.distill.losses import (
    foreground_mask,
    foreground_mask_reference,
    global_loss,
    global_projection_loss,
    local_losses,
    local_losses_reference,
    positions,
    response_sigmoid,
    response_softmax,
    robustness,
)
from gkd_core.distill.prototypes import Prototypes

DEFAULT = (assign_levels, pool_boxes, foreground_mask, local_losses, global_loss)
REFERENCE = (
    lambda boxes, strides: assign_levels_reference(boxes, len(strides)),
    pool_reference,
    foreground_mask_reference,
    local_losses_reference,
    global_projection_loss,
)


def inputs():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 16, 12, 12, generator=generator) for _ in range(2))
    boxes = torch.rand(7, 2, 2, generator=generator).sort(dim=1).values.flatten(1) * 96
    rows = torch.randn(2, 9, 16, generator=generator)
    indices = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [2, 0, 1, 2, 0, 1, 2]])
    return student, teacher, boxes, *indices, *rows, torch.tensor([0, 3, 6, 9])


def step(parts, student, teacher, boxes, image_index, labels, rows_t, rows_s, class_start):
    levels, pool, mask, local, in_space = parts
    known = Prototypes(rows_t, rows_s, class_start)
    pooled_s, pooled_t = (pool(maps, boxes, image_index, 8) for maps in (student, teacher))
    places = positions(pooled_s, pooled_t, known)
    omega = robustness(places, labels, known)
    painted = mask(boxes, omega, image_index, levels(boxes, (8, 16)) == 0, 8, (2, 12, 12))
    response = response_softmax(pooled_s, pooled_t, omega) + response_sigmoid(pooled_s, pooled_t, omega)
    return in_space(places, omega) + sum(local(student, teacher, painted)) + response


@pytest.mark.parametrize("parts", [DEFAULT, REFERENCE], ids=["default", "reference"])
def test_a_step_on_the_meta_device_needs_no_value(parts):
    # A meta tensor has shapes and no values, so that `.item()` fails anywhere.
    student, *others = (tensor.to("meta") for tensor in inputs())

    loss = step(parts, student.requires_grad_(), *others)
    loss.backward()

    assert loss.shape == ()
    assert student.grad.shape == student.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("parts", [DEFAULT, REFERENCE], ids=["default", "reference"])
def test_a_step_on_the_gpu_does_not_wait_and_agrees_with_the_cpu(parts):
    on_cpu = step(parts, *inputs())
    student, *others = (tensor.cuda() for tensor in inputs())
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu = step(parts, student.requires_grad_(), *others)
        on_gpu.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")

    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-5, atol=1e-5)
