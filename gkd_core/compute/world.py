"""Data-parallel training: several processes that train one model, each on a GPU of its own; on a CPU for tests.

Every process runs the whole flow on its share of each batch. After a step all of them hold the same bits: gradients
are averaged (all-reduce), and what only one can decide (whether to stop, which images are broken, which prototypes)
the first process (rank 0) decides and broadcasts. It alone writes files and events. With one process nothing here
does anything.

The mean of the processes' losses is the loss of the whole batch only if each is divided by the same number, so a loss
that is a mean over rows is scaled by `World.share` of its rows. docs/decisions/0056 and 0064 say
why not DistributedDataParallel.

Shapes: P values of a vector; other shapes are documented at each function.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import zip_longest
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gkd_core.errors import Problem, SpecError
from gkd_core.process.launch import RENDEZVOUS

PATIENCE = timedelta(hours=2)
"""Timeout of collective operations: the first process decodes every image alone while the others wait. A process that
died is noticed at once by its closed connections, whatever this timeout."""

_T = TypeVar("_T")


class Share(NamedTuple):
    """The part of a list of batches, distributed round-robin, that one process computes."""

    positions: list[int]
    """The items of its batches, in order."""
    idle: int
    """How many batches fewer it has than the first process."""


@dataclass(frozen=True)
class World:
    """The processes that train together, seen from one of them."""

    device: torch.device
    """Where this process computes."""
    rank: int = 0
    """Which one this is."""
    size: int = 1
    """How many there are."""

    @classmethod
    def join(cls, processes: int, device: torch.device) -> World:
        """Connect to the other processes of this run; do nothing with one process.

        Args:
            processes: how many there should be.
            device: where to compute; "cuda" becomes the GPU of this process.

        Raises:
            SpecError: fewer GPUs than processes, or this process was started alone.
        """
        if processes == 1:
            return cls(device)
        rank = _rank_among(processes)
        if device.type == "cuda":
            _require_gpus(processes)
            device = torch.device("cuda", rank)
            torch.cuda.set_device(device)
        _init_process_group(rank, processes, device)
        return cls(device, rank, processes)

    def leave(self) -> World:
        """Disconnect from the others after all have reached this point; this process then is a world of its own."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()
        return replace(self, rank=0, size=1)

    @property
    def first(self) -> bool:
        """Return whether this is the first process (rank 0), which writes, reports and decides."""
        return self.rank == 0

    # ---- broadcast from the first ------------------------------------------------------------------------

    def from_first(self, make: Callable[[], _T]) -> _T:
        """Return in every process what `make` returns in the first one; the others do not call it.

        It is sent pickled: tensors from the CPU only.
        """
        if self.size == 1:
            return make()
        box = [make() if self.first else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[return-value]  # the first process put a value of this type there

    def start_alike(self, module: nn.Module) -> None:
        """Broadcast the first process's weights and buffers to every process."""
        if self.size == 1:
            return
        for tensor in (*module.parameters(), *module.buffers()):
            own = tensor.data.contiguous()  # of weights in another memory order this is a copy
            dist.broadcast(own, src=0)
            tensor.data.copy_(own)

    # ---- distributing and gathering ----------------------------------------------------------------------

    def gathered(self, value: _T) -> list[_T]:
        """Return the values of all processes by rank, in every process.

        They are sent pickled: tensors from the CPU only.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def in_turn(self, items: Sequence[_T]) -> list[_T]:
        """Return all items, one of each process in turn: their common order, where each has every `size`-th."""
        rounds = zip_longest(*self.gathered([[item] for item in items]), fillvalue=[])
        return [item for turn in rounds for part in turn for item in part]

    def deal(self, count: int, size: int) -> Share:
        """Distribute `count` items round-robin in whole batches of `size`.

        Batches are never split: each holds the same images as with one process, which are padded to each other.
        """
        batches = [range(start, min(start + size, count)) for start in range(0, count, size)]
        mine, firsts = batches[self.rank :: self.size], batches[:: self.size]
        return Share([position for batch in mine for position in batch], len(firsts) - len(mine))

    # ---- reductions over all -----------------------------------------------------------------------------

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, without gradient."""
        values = values.detach().clone()
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over all processes, without gradient."""
        return self.total(values) / self.size

    def largest(self, *values: int) -> tuple[int, ...]:
        """Return the maximum of each value over all processes."""
        if self.size == 1:
            return values
        found = torch.tensor(values)  # on the CPU: no synchronisation with a GPU
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return tuple(found.tolist())

    def share(self, rows: Tensor) -> Tensor:
        """Return the factor that makes the mean of the processes' losses the loss of the whole batch.

        Each loss is a sum divided by max(1, `rows`); after multiplication with this factor, the mean over all
        processes is the sum over all of them divided by max(1, all rows).

        Args:
            rows: (P,) of this process; need not be whole numbers.

        Returns:
            (P,) float32, without gradient; ones where there is one process.
        """
        rows = rows.detach().float()
        if self.size == 1:
            return torch.ones_like(rows)
        return rows.clamp_min(1) * self.size / self.total(rows).clamp_min(1)

    def average_gradients(
        self, parameters: Iterable[nn.Parameter], losses: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Average (all-reduce) the gradients, and the losses, over all processes in one exchange.

        A parameter without gradient in every process keeps none; in some of them only, it counts as 0 there.

        Args:
            parameters: what is trained; the same in every process.
            losses: named scalars, the same names in every process.

        Returns:
            The named means, without gradient.
        """
        if self.size == 1:
            return losses
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        flat = torch.cat(
            [
                *(_gradient(parameter).reshape(-1) for parameter in trained),
                torch.tensor([parameter.grad is not None for parameter in trained]).to(self.device),
                *(losses[name].detach().reshape(1) for name in sorted(losses)),
            ]
        )
        dist.all_reduce(flat)
        flat /= self.size
        sizes = [parameter.numel() for parameter in trained]
        *gradients, present, values = flat.split([*sizes, len(trained), len(losses)])
        _write_gradients(trained, gradients, present)
        return dict(zip(sorted(losses), values, strict=True))


def synchronise_norms(network: Any, world: World) -> Any:
    """Make batch norms that learn compute their statistics over the images of all processes.

    Raises:
        SpecError: on a CPU, where torch has no such norm.
    """
    if world.size == 1 or not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    if world.device.type == "cpu":
        message = "on a CPU several processes cannot learn one batch norm"
        hint = "Set norm to group or frozen, or ask for a single process."
        raise SpecError([Problem(loc=("norm",), message=message, hint=hint)])
    if any(type(module).__module__.startswith("timm.") for module in network.modules()):
        from timm.layers import (
            convert_sync_batchnorm,  # torch's conversion would lose the activations that timm's norms carry
        )

        return convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)


def keep_norms_apart(network: Any, world: World) -> Any:
    """Make the batch norms of a copy local to this process, for passes in which processes do not run in step."""
    synchronised = [module for module in network.modules() if isinstance(module, nn.SyncBatchNorm)]
    if world.size > 1 and synchronised:
        alone, _ = dist.new_subgroups(1)
        for module in synchronised:
            module.process_group = alone
    return network


# ---- connecting ------------------------------------------------------------------------------------------


def _rank_among(processes: int) -> int:
    """Return this process's rank, as torchrun or `gkd_core.process.launch` sets it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == processes:
        return int(os.environ["RANK"])
    message = f"the config is for {processes} processes, and {size} of them was started"
    hint = "Start it with `python -m gkd_core.train`, which starts the others, or torchrun with that many."
    raise SpecError([Problem(loc=("processes",), message=message, hint=hint)])


def _require_gpus(processes: int) -> None:
    found = torch.cuda.device_count()
    if found < processes:
        message = f"{processes} GPUs are asked for, and torch sees {found} on this machine"
        hint = f"Ask for resources.gpus {found}, or look at CUDA_VISIBLE_DEVICES of the worker."
        raise SpecError([Problem(loc=("processes",), message=message, hint=hint)])


def _init_process_group(rank: int, size: int, device: torch.device) -> None:
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    file = os.environ.get(RENDEZVOUS)
    where = f"file://{file}" if file else "env://"  # a file, because a TCP port would be open to others
    dist.init_process_group(backend, where, rank=rank, world_size=size, timeout=PATIENCE)


# ---- gradients -------------------------------------------------------------------------------------------


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _write_gradients(trained: Sequence[nn.Parameter], gradients: Sequence[Tensor], present: Tensor) -> None:
    """Write averaged gradients where any process has one."""
    somewhere = [True] * len(trained)
    if any(parameter.grad is None for parameter in trained):  # reading `present` synchronises with a GPU
        somewhere = present.bool().tolist()
    for parameter, gradient, wanted in zip(trained, gradients, somewhere, strict=True):
        if parameter.grad is not None:
            parameter.grad.copy_(gradient.view_as(parameter))
        elif wanted:
            parameter.grad = gradient.view_as(parameter).clone()
