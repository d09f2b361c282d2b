"""The transformer parts every model here is made of. Tokens stay in one layout, (B, F, J, C), from input to head.

Letters: B windows of a batch, F frames, J joints, C channels, H heads, d = C/H.
Source: the pre-norm block of ViT (Dosovitskiy et al., ICLR 2021) as MixSTE (CVPR 2022) runs it in turn over joints and
over frames; DropPath is stochastic depth (Huang et al., ECCV 2016).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

JOINTS, FRAMES = 'joints', 'frames'
# How a head's tokens are seen when attention runs over an axis. Both are views: no token moves.
AS_HEADS = {JOINTS: 'b f j (h d) -> (b f) h j d', FRAMES: 'b f j (h d) -> b (j h) f d'}
# What shares one draw of DropPath: a frame of a window where blocks run over joints, the track of a joint where they
# run over frames, as in the published code, whose batch axis is B*F or B*J.
DROPPED_TOGETHER = {JOINTS: (0, 1), FRAMES: (0, 2)}


class Attention(nn.Module):
    """Multi-head self-attention over one axis of the tokens, with a packed projection for queries, keys and values."""

    def __init__(self, channels: int, heads: int, over: str, dropout: float = 0.0):
        """over: JOINTS or FRAMES. dropout: rate after the projection. Raises ValueError when the heads do not divide
        the channels."""
        super().__init__()
        if channels % heads:
            raise ValueError(f'{channels} channels cannot be divided among {heads} heads')
        self.heads, self.over, self.dropout = heads, over, dropout
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, F, J, C) -> (B, F, J, C)."""
        # Three products instead of one: each result is contiguous, so that joint and head merge into one axis.
        parts = zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
        q, k, v = (rearrange(F.linear(x, weight, bias), AS_HEADS[self.over], h=self.heads) for weight, bias in parts)
        out = F.scaled_dot_product_attention(q, k, v)
        before, after = AS_HEADS[self.over].split(' -> ')
        out = self.proj(rearrange(out, f'{after} -> {before}', h=self.heads, f=x.shape[1]))
        return dropout(out, self.dropout if self.training else 0)


class Mlp(nn.Module):
    """Linear, exact GELU, Linear; dropout, where there is any, after the GELU and at the end."""

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.dropout = dropout
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., C) -> (..., C)."""
        if not (self.training and self.dropout):
            return self.fc2(F.gelu(self.fc1(x)))
        hidden = self.fc1(x)
        if x.device.type == 'cpu':
            # Far to the left both GELU and its slope are zero: moved there, a value is dropped in both directions at
            # the price of one pass over memory. The second weight takes the scale.
            hidden.detach().masked_fill_(dropped(hidden, self.dropout), -100)
            out = F.linear(F.gelu(hidden), self.fc2.weight / (1 - self.dropout), self.fc2.bias)
        else:
            out = self.fc2(F.dropout(F.gelu(hidden), self.dropout))
        return dropout(out, self.dropout)


def dropped(x: torch.Tensor, rate: float) -> torch.Tensor:
    """A boolean mask in the shape of x, each value True with probability `rate` (to 2^-16), from torch's generator.

    Four draws of 16 bits come out of one number: on a CPU ten times faster than a Bernoulli draw for each.
    """
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-2**63, None)
    return bits.view(torch.int16)[:x.numel()].view(x.shape) < round(rate * 2**16) - 2**15


def dropout(x: torch.Tensor, rate: float) -> torch.Tensor:
    """Each value of x set to 0 with probability `rate`, and scaled up where it stays."""
    if not rate or x.device.type != 'cpu':
        return F.dropout(x, rate)
    return x * (~dropped(x, rate)).to(x.dtype).mul_(1 / (1 - rate))


class DropPath(nn.Module):
    """Stochastic depth: while training, a branch is left out with probability `rate`, and scaled up where it stays.

    Attributes:
        generator: what draws; None for torch's default.
        share: (windows of the whole batch, those before this part of it), when x is a part of a batch that several
            processes work on: draws are made for all of it, so that they do not depend on how it is shared out.
    """

    def __init__(self, rate: float, over: str):
        super().__init__()
        self.rate, self.over = rate, over
        self.generator: torch.Generator | None = None
        self.share: tuple[int, int] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, F, J, C) -> (B, F, J, C); one draw for all tokens of a frame (over joints) or a track (over frames)."""
        if not self.training or self.rate == 0:
            return x
        together = DROPPED_TOGETHER[self.over]
        whole, before = self.share or (len(x), 0)
        shape = [whole, *(n if axis in together else 1 for axis, n in enumerate(x.shape) if axis > 0)]
        draws = torch.rand(shape, device=x.device, generator=self.generator)[before:before + len(x)]
        return x * ((draws >= self.rate) / (1 - self.rate)).to(x.dtype)


class Block(nn.Module):
    """x + DropPath(attention(norm1(x))), then x + DropPath(MLP(norm2(x)))."""

    def __init__(self, attn: Attention, norm1: nn.Module, norm2: nn.Module, mlp: Mlp, drop_path: float):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm1, attn, norm2, mlp
        self.drop_attn = DropPath(drop_path, attn.over)
        self.drop_mlp = DropPath(drop_path, attn.over)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, F, J, C) -> (B, F, J, C)."""
        x = x + self.drop_attn(self.attn(self.norm1(x)))
        return x + self.drop_mlp(self.mlp(self.norm2(x)))
