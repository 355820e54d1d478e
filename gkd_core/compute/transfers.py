"""Sending tensors to a GPU in few transfers, none of which waits for what the GPU is doing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Send tensors of one type to a device, with one transfer for all of them, that the caller does not wait for.

    Args:
        tensors: of one type, in main memory.
        device: where to; on a CPU nothing moves.
    """
    if device.type == "cpu":
        return list(tensors)
    if len(tensors) == 1:
        return [_sent(tensors[0], device)]
    moved = _sent(torch.cat([tensor.flatten() for tensor in tensors]), device)
    sizes = [tensor.numel() for tensor in tensors]
    return [part.view(tensor.shape) for part, tensor in zip(moved.split(sizes), tensors, strict=True)]


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """Begin to copy a tensor to main memory; its values may be read after the next operator that waits.

    PyTorch copies into pinned memory here, and on one stream: whoever waits for what was asked later has it too.
    """
    return tensor.to("cpu", non_blocking=True)


def pictures_on(device: torch.device, images: Sequence[Tensor]) -> list[Tensor]:
    """Send pictures (3, H, W) of bytes in one transfer that nobody waits for; as float32 in 0..1."""
    return [picture.float() / 255 for picture in to_device(images, device)]
