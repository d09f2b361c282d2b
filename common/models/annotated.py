"""Layers of the Annotated Transformer, under its names, which GraFormer, StridedTransformer and P-STMO are built of.

They differ from those of `common.models.layers` in the norm's eps, in projections that are not packed, and in dropout
of the weights of attention. Letters: N windows, or windows and frames, L tokens of a sequence, C channels, H heads.
Source: Rush, "The Annotated Transformer", 2018, after Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
"""

import torch
from einops import rearrange
from torch import nn

from common.models.layers import Linear, attend, dropout


class SampleNorm(nn.Module):
    """a_2 * (x - mean) / (s + 1e-6) + b_2, where s is the standard deviation of a sample, over C - 1."""

    def __init__(self, channels: int):
        super().__init__()
        self.a_2 = nn.Parameter(torch.ones(channels))
        self.b_2 = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x (..., C) -> (..., C); statistics are float32 at least."""
        wide = x.to(self.a_2.dtype)
        if not wide.shape[0]:  # a process that got no windows: torch would warn of what it has no values for
            return (self.a_2 * wide + self.b_2).to(x.dtype)
        std, mean = torch.std_mean(wide, dim=-1, keepdim=True)
        return (self.a_2 * (wide - mean) / (std + 1e-6) + self.b_2).to(x.dtype)


class SplitAttention(nn.Module):
    """Multi-head self-attention whose query, key, value and output projections are `linears` 0 to 3."""

    def __init__(self, channels: int, heads: int, dropout: float = 0.0):
        """Make the projections, all four with the same weights at first, as the published programs copy them.

        Args:
            dropout: rate on the weights of attention.

        Raises ValueError where the channels cannot be divided among the heads.
        """
        super().__init__()
        if channels % heads:
            raise ValueError(f'{channels} channels cannot be divided among {heads} heads')
        self.heads, self.dropout = heads, dropout
        self.linears = nn.ModuleList(Linear(channels, channels) for _ in range(4))
        for linear in self.linears[1:]:
            linear.load_state_dict(self.linears[0].state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over L: x (N, L, C) -> (N, L, C)."""
        q, k, v = (rearrange(linear(x), 'n l (h d) -> n h l d', h=self.heads) for linear in self.linears[:3])
        if self.training and self.dropout:
            weights = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1)
            out = dropout(weights, self.dropout) @ v
        else:
            out = attend(q.contiguous(), k.contiguous(), v.contiguous())
        return self.linears[3](rearrange(out, 'n h l d -> n l (h d)'))
