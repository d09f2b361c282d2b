"""Several processes that train as one: communication that is skipped with one process, and a global BatchNorm.

Processes are started by torchrun. NCCL carries tensors between CUDA devices, Gloo between CPUs.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn

from common.errors import ContractError, FlagError

AGREEMENT = timedelta(seconds=3)  # how long ranks that fail wait to hear of each other


@dataclass(frozen=True)
class World:
    """The processes of a run, and the place of this one among them.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
        control: the group in which hosts agree, on the CPU, beside the device's own group; None with one process.
    """

    rank: int = 0
    size: int = 1
    control: dist.ProcessGroup | None = None
    store: dist.Store | None = None

    @property
    def first(self) -> bool:
        """Return True in the process that writes files and messages."""
        return self.rank == 0

    def share(self, count: int) -> tuple[int, int]:
        """Return [begin, end) of this rank's part of `count` items; parts are contiguous and differ by at most one."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over ranks, in place, on its device, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def largest(self, value: int) -> int:
        """Return the largest of the ranks' numbers, agreed on by the hosts without waiting for a device."""
        if self.size == 1:
            return value
        number = torch.tensor(value)
        dist.all_reduce(number, op=dist.ReduceOp.MAX, group=self.control)
        return int(number)

    def said_by_first(self, message: str) -> bool:
        """Return True if the first rank fails with the same message and says it, so that this one need not.

        To be called by a rank that fails. The first one waits until the others have heard it, or for a moment where
        they are busy with something else.
        """
        if self.store is None:
            return False
        try:
            if self.first:
                self.store.set('failed', message)
                self.store.wait([f'heard {rank}' for rank in range(1, self.size)], AGREEMENT)
                return False
            self.store.wait(['failed'], AGREEMENT)
            said = self.store.get('failed').decode()
            self.store.set(f'heard {self.rank}', '')
        except RuntimeError:  # nobody came to the meeting, or its host has gone
            return False
        return said == message

    def gather(self, value: Any) -> list | None:
        """Return the ranks' Python values, in order, on the first rank, and None on the others."""
        if self.size == 1:
            return [value]
        values = [None] * self.size if self.first else None
        dist.gather_object(value, values, group=self.control)
        return values

    def told(self, value: Any) -> Any:
        """Return the first rank's Python value on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, group=self.control)
        return box[0]

    def sum_gradients(self, model: nn.Module) -> None:
        """Sum the parameters' gradients over ranks, in a single message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        torch._foreach_copy_(gradients, [piece.view_as(g) for g, piece in
                                         zip(gradients, flat.split([g.numel() for g in gradients]), strict=True)])

    def same_weights(self, model: nn.Module) -> None:
        """Give every rank the first rank's parameters and buffers."""
        if self.size > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.data, 0)


class _GlobalSum(torch.autograd.Function):
    """Sum over ranks; the gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d whose training statistics are over the values of all ranks, however many each of them has.

    It needs running statistics, momentum, weight and bias, which a BatchNorm1d has by default.
    """

    num_batches_tracked: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor
    momentum: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x (N, C) or (N, C, L). N may differ between ranks and be 0. Statistics are float32, whatever x is.

        Positions L count as rows.
        """
        if not self.training:
            return super().forward(x)
        rows = x.mT.flatten(0, 1) if x.ndim == 3 else x
        normalised = self._normalise(rows)
        return normalised.view(len(x), x.shape[2], x.shape[1]).mT if x.ndim == 3 else normalised

    def _normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise rows x (N, C) by the statistics of all ranks' rows, and take these into the running ones."""
        dtype, x = x.dtype, x.to(self.weight.dtype)
        # Two messages, because squares of raw values, which one message would allow, lose digits.
        sums = _GlobalSum.apply(torch.cat([x.sum(dim=0), x.new_full((1,), len(x))]))
        count = sums[-1].detach()
        centred = x - sums[:-1] / count
        variance = _GlobalSum.apply(centred.square().sum(dim=0)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(sums[:-1] / count, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return (centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias).to(dtype)


def make_batch_norms_global(model: nn.Module) -> None:
    """Turn every BatchNorm1d of a model into a GlobalBatchNorm1d, keeping parameters, buffers and their names."""
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = GlobalBatchNorm1d
            # Messages between processes cannot be compiled.
            module.__dict__['forward'] = torch.compiler.disable(module.forward)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ContractError(f'{type(model).__name__} has a {type(module).__name__}, whose statistics would be '
                                f'those of each process by itself: several processes train with BatchNorm1d alone')


ALONE = World()


def _places() -> tuple[int, int, int]:
    """Return rank, number of processes and rank on this machine, as torchrun says them. Raises FlagError."""
    names = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')
    said = [os.environ.get(name, '') for name in names]
    if not all(number.isdecimal() for number in said) or int(said[0]) >= int(said[1]):
        told = ', '.join(f'{name}={number!r:.30}' for name, number in zip(names, said, strict=True))
        raise FlagError(f'the environment says {told}, which no torchrun does: unset RANK for a single process')
    return int(said[0]), int(said[1]), int(said[2])


@contextlib.contextmanager
def join(device_type: str) -> Iterator[World]:
    """Yield the world that this process belongs to: torchrun's, or this process alone.

    Raises FlagError where torchrun starts more processes than there are CUDA devices.
    """
    if 'RANK' not in os.environ or (os.environ.get('WORLD_SIZE', '1') == '1' and device_type == 'cpu'):
        yield World()
        return
    rank, size, local = _places()
    if device_type == 'cuda':
        if local >= torch.cuda.device_count():
            raise FlagError(f'torchrun starts process {local} here, but there are {torch.cuda.device_count()} CUDA '
                            f'devices: use --nproc_per_node={torch.cuda.device_count()}')
        torch.cuda.set_device(local)
    try:
        store, _, _ = next(dist.rendezvous('env://'))
    except ValueError as error:
        raise FlagError(f'the processes cannot find each other ({str(error).splitlines()[0]}): start them with '
                        f'torchrun, or unset RANK for a single one') from None
    dist.init_process_group('nccl' if device_type == 'cuda' else 'gloo', store=dist.PrefixStore('group', store),
                            rank=rank, world_size=size, timeout=timedelta(minutes=30))
    try:
        control = cast(dist.ProcessGroup, dist.new_group(backend='gloo'))  # every rank is a member
        yield World(rank, size, control, dist.PrefixStore('failures', store))
        dist.barrier(group=control)  # a rank must not leave before the others have its last message
    finally:
        dist.destroy_process_group()
