"""Several processes that train as one: rank helpers that do the right thing with one process, and a global BatchNorm.

Processes are started by torchrun; NCCL carries tensors between CUDA devices and Gloo between CPUs. Letters: R ranks.
"""

import contextlib
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from common.errors import FlagError


@dataclass(frozen=True)
class World:
    """The processes of a run, and this one among them."""

    rank: int = 0
    size: int = 1
    control: dist.ProcessGroup | None = None  # carries host-side agreement, on the CPU, beside the device's own group

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, count: int) -> tuple[int, int]:
        """[begin, end) of this rank's part of `count` things: parts are contiguous and differ by one at the most."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor summed over ranks, in place, on its device."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def largest(self, value: int) -> int:
        """The largest of the ranks' numbers, agreed on by the hosts without waiting for any device."""
        if self.size == 1:
            return value
        number = torch.tensor(value)
        dist.all_reduce(number, op=dist.ReduceOp.MAX, group=self.control)
        return int(number)

    def gather(self, value) -> list | None:
        """The ranks' Python values, in order, on the first rank; None on the others."""
        if self.size == 1:
            return [value]
        values = [None] * self.size if self.first else None
        dist.gather_object(value, values, group=self.control)
        return values

    def told(self, value):
        """The first rank's Python value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, group=self.control)
        return box[0]

    def sum_gradients(self, model: nn.Module) -> None:
        """Sum the parameters' gradients over ranks, all in one message."""
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
    """The sum over ranks, whose gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d whose training statistics are those of the ranks' rows together, however many each of them has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, C) -> (N, C); N may differ between ranks and be 0. Statistics are float32 whatever x is."""
        if not self.training:
            return super().forward(x)
        dtype, x = x.dtype, x.to(self.weight.dtype)
        # Two messages rather than one: squares of centred values keep their digits, squares of raw ones do not.
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
    """Turn every BatchNorm1d of the model into a GlobalBatchNorm1d; parameters, buffers and their names stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = GlobalBatchNorm1d
            module.forward = torch.compiler.disable(module.forward)  # messages between processes are not compiled


ALONE = World()


@contextlib.contextmanager
def join(device_type: str):
    """The world this process belongs to: torchrun's, or one process. Raises FlagError where torchrun asks too much."""
    if 'RANK' not in os.environ or (int(os.environ.get('WORLD_SIZE', 1)) == 1 and device_type == 'cpu'):
        yield World()
        return
    rank, size, local = (int(os.environ[name]) for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'))
    if device_type == 'cuda':
        if local >= torch.cuda.device_count():
            raise FlagError(f'torchrun starts process {local} here, but there are {torch.cuda.device_count()} CUDA '
                            f'devices: use --nproc_per_node={torch.cuda.device_count()}')
        torch.cuda.set_device(local)
    dist.init_process_group('nccl' if device_type == 'cuda' else 'gloo', timeout=timedelta(minutes=30))
    try:
        control = dist.new_group(backend='gloo')
        yield World(rank, size, control)
        dist.barrier(group=control)  # a rank that left before the others had its last message would leave them waiting
    finally:
        dist.destroy_process_group()
