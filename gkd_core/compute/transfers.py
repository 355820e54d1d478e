"""Asynchronous transfers of tensors to and from a GPU: few, and none waits for the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


def to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Send tensors of one type to a device, in one asynchronous transfer for all of them.

    Args:
        tensors: of one type, in main memory.
        device: where to; on a CPU nothing moves.
    """
    if device.type == "cpu":
        return list(tensors)
    if len(tensors) == 1:
        return [_copy_async(tensors[0], device)]
    moved = _copy_async(torch.cat([tensor.flatten() for tensor in tensors]), device)
    sizes = [tensor.numel() for tensor in tensors]
    return [part.view(tensor.shape) for part, tensor in zip(moved.split(sizes), tensors, strict=True)]


def _copy_async(tensor: Tensor, device: torch.device) -> Tensor:
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """Start an asynchronous copy of a tensor to main memory; read it after the next synchronising operation.

    PyTorch copies into pinned memory on one stream: after a wait for any later operation this copy is complete too.
    """
    return tensor.to("cpu", non_blocking=True)


def pictures_on(device: torch.device, images: Sequence[Tensor]) -> list[Tensor]:
    """Send images (3, H, W) of bytes to a device in one asynchronous transfer; return them as float32 in 0..1."""
    return [picture.float() / 255 for picture in to_device(images, device)]


class Zoomed(Protocol):
    """A sample that may carry its picture with more pixels."""

    @property
    def zoomed(self) -> Tensor | None:
        """Return (3, H, W) uint8, if there is one."""
        ...


def zoomed_on(device: torch.device, samples: Sequence[Zoomed]) -> list[Tensor]:
    """Send the zoomed pictures of samples to a device, as `pictures_on` does.

    Raises:
        ValueError: a sample has none.
    """
    zoomed = [sample.zoomed for sample in samples]
    found = [picture for picture in zoomed if picture is not None]
    if len(found) < len(zoomed):
        raise ValueError(
            "the teacher sees larger pictures, and samples carry none: load them with its `zoom`"
        )
    return pictures_on(device, found)
