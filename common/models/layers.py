"""The transformer parts every model here is made of. Tokens stay in one layout, (B, F, J, C), from input to head.

Layers compute in the dtype of the tokens they are given; weights are stored as they are trained, in float32.
Letters: B windows of a batch, F frames, J joints, C channels, H heads, d = C/H.
Source: the pre-norm block of ViT (Dosovitskiy et al., ICLR 2021) as MixSTE (CVPR 2022) runs it in turn over joints and
over frames; DropPath is stochastic depth (Huang et al., ECCV 2016).
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.utils.checkpoint import checkpoint

JOINTS, FRAMES = 'joints', 'frames'
# How a head's tokens are seen when attention runs over an axis. Both are views: no token moves.
AS_HEADS = {JOINTS: 'b f j (h d) -> (b f) h j d', FRAMES: 'b f j (h d) -> b (j h) f d'}
# On a CPU plain products beat the fused kernel where rows of tokens are short and heads narrow, by measurement
# (benchmarks/RESULTS.md). In bf16 they are taken for short rows whatever the heads: not measured.
SHORT, NARROW = 32, 32
GRID_LIMIT = 65535  # of CUDA's fused kernels along the axis of sequences


class PoseModel(nn.Module):
    """What every model here is, for the engine that runs it.

    Attributes:
        tokens: the dtype of tokens between embedding and head; None for that of the weights. Keypoints are embedded,
            and poses made of tokens, in that of the weights.
        recompute: whether training forgets what happens inside a block and computes it again on the way back.
    """

    tokens: torch.dtype | None = None
    recompute = False

    def through(self, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """A block's output for tokens x."""
        return checkpoint(block, x, use_reentrant=False) if self.recompute and self.training else block(x)


class Linear(nn.Linear):
    """A linear layer in the dtype of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., C_in) -> (..., C_out)."""
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class LayerNorm(nn.LayerNorm):
    """Layer normalisation in the dtype of its input; the statistics of a bfloat16 input are float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., C) -> (..., C)."""
        if x.device.type == 'cpu':  # takes float32 weights beside bfloat16 tokens, and keeps its statistics then
            return super().forward(x)
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q kᵀ / √d) v for sequences of L tokens, (N, H, L, d) three times -> (N, H, L, d)."""
    if not len(q):
        return v  # a process without windows; not every fused kernel takes none
    length, width = q.shape[-2:]
    if q.device.type == 'cpu' and length <= SHORT and (width <= NARROW or q.dtype is torch.bfloat16):
        return (q * width ** -0.5 @ k.mT).softmax(-1) @ v
    if len(q) > GRID_LIMIT:
        pieces = zip(*(part.split(GRID_LIMIT) for part in (q, k, v)), strict=True)
        return torch.cat([F.scaled_dot_product_attention(*piece) for piece in pieces])
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head self-attention over one axis of the tokens, with a packed projection for queries, keys and values."""

    def __init__(self, channels: int, heads: int, over: str, dropout: float = 0.0):
        """over: JOINTS or FRAMES. dropout: rate after the projection. Raises ValueError when the heads do not divide
        the channels."""
        super().__init__()
        if channels % heads:
            raise ValueError(f'{channels} channels cannot be divided among {heads} heads')
        self.heads, self.over, self.dropout = heads, over, dropout
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, F, J, C) -> (B, F, J, C)."""
        # Three products instead of one: each result is contiguous, so that joint and head merge into one axis.
        parts = zip(self.qkv.weight.to(x.dtype).chunk(3), self.qkv.bias.to(x.dtype).chunk(3), strict=True)
        out = attend(*(rearrange(F.linear(x, *part), AS_HEADS[self.over], h=self.heads) for part in parts))
        before, after = AS_HEADS[self.over].split(' -> ')
        out = self.proj(rearrange(out, f'{after} -> {before}', h=self.heads, f=x.shape[1]))
        return dropout(out, self.dropout if self.training else 0)


class LinearOfGelu(torch.autograd.Function):
    """linear(gelu(x)). Of the two widest tensors of a block it keeps one for the way back, x, where autograd keeps two,
    and computes the other again: one more pass over memory."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """x (..., C_in), weight (C_out, C_in), bias (C_out,) -> (..., C_out)."""
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx, slope: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The slopes of x, weight and bias."""
        x, weight = ctx.saved_tensors
        rows = slope.flatten(0, -2)
        of_weight = rows.T @ F.gelu(x).flatten(0, -2)
        return torch.ops.aten.gelu_backward(slope @ weight, x), of_weight, rows.sum(0)


class Mlp(nn.Module):
    """Linear, exact GELU, Linear; dropout, where there is any, after the GELU and at the end."""

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.dropout = dropout
        self.fc1 = Linear(channels, hidden)
        self.fc2 = Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., C) -> (..., C)."""
        if not (self.training and self.dropout):
            return LinearOfGelu.apply(self.fc1(x), self.fc2.weight.to(x.dtype), self.fc2.bias.to(x.dtype))
        hidden = self.fc1(x)
        if x.device.type == 'cpu':
            # Far to the left both GELU and its slope are zero: moved there, a value is dropped in both directions at
            # the price of one pass over memory. The second weight takes the scale.
            hidden.detach().masked_fill_(dropped(hidden, self.dropout), -100)
            weight = (self.fc2.weight / (1 - self.dropout)).to(x.dtype)
            out = F.linear(F.gelu(hidden), weight, self.fc2.bias.to(x.dtype))
        else:
            out = self.fc2(F.dropout(F.gelu(hidden), self.dropout))
        return dropout(out, self.dropout)


def dropped(x: torch.Tensor, rate: float) -> torch.Tensor:
    """A boolean mask in the shape of x, each value True with probability `rate` (to 2^-16), from torch's generator.

    Four draws of 16 bits come out of one number: on a CPU ten times faster than a Bernoulli draw for each.
    """
    bits = torch.randint(-2**63, 2**63 - 1, (-(-x.numel() // 4),), dtype=torch.int64, device=x.device)
    return bits.view(torch.int16)[:x.numel()].view(x.shape) < round(rate * 2**16) - 2**15


def dropout(x: torch.Tensor, rate: float) -> torch.Tensor:
    """Each value of x set to 0 with probability `rate`, and scaled up where it stays."""
    if not rate or x.device.type != 'cpu':
        return F.dropout(x, rate)
    return x * ~dropped(x, rate) * (1 / (1 - rate))


class DropPath(nn.Module):
    """Stochastic depth: while training, a branch is left out with probability `rate`, and scaled up where it stays.

    Attributes:
        kept: what `draw` drew for the next forward pass: whether the branch stays, (B, F, 1, 1) over joints, one draw
            for all tokens of a frame, or (B, 1, J, 1) over frames, one for those of a track. None: forward draws,
            from torch's default generator.
    """

    def __init__(self, rate: float, over: str):
        super().__init__()
        self.rate, self.over = rate, over
        self.kept: torch.Tensor | None = None

    def shape(self, windows: int, frames: int, joints: int) -> tuple[int, int, int, int]:
        """The shape of the draws for tokens (B, F, J, C): the published code's batch axis is B*F or B*J."""
        return (windows, frames, 1, 1) if self.over == JOINTS else (windows, 1, joints, 1)

    def forward(self, x: torch.Tensor, beside: torch.Tensor | None = None) -> torch.Tensor:
        """x (B, F, J, C) -> (B, F, J, C), added to what it is the branch of, where that is given."""
        if not self.training or self.rate == 0:
            return x if beside is None else beside + x
        kept = torch.rand(self.shape(*x.shape[:3]), device=x.device) >= self.rate if self.kept is None else self.kept
        # Exact in any dtype; the scale, which bfloat16 would round, is a number of Python's.
        kept, scale = kept.to(x.dtype), 1 / (1 - self.rate)
        return x * kept * scale if beside is None else torch.addcmul(beside, x, kept, value=scale)


def draw(paths: list[DropPath], windows: int, frames: int, joints: int, generator: torch.Generator,
         part: slice = slice(None)) -> None:
    """Draw what drop paths drop in one forward pass: draws of all windows, of which those of the part are kept.

    A process that works on some windows of a batch so drops what a single process would.
    """
    shapes = [path.shape(windows, frames, joints) for path in paths]
    draws = torch.rand(sum(math.prod(shape) for shape in shapes), device=generator.device, generator=generator)
    for path, shape, mine in zip(paths, shapes, draws.split([math.prod(shape) for shape in shapes]), strict=True):
        path.kept = mine.view(shape)[part] >= path.rate


class Block(nn.Module):
    """x + DropPath(attention(norm1(x))), then x + DropPath(MLP(norm2(x)))."""

    def __init__(self, attn: Attention, norm1: nn.Module, norm2: nn.Module, mlp: Mlp, drop_path: float):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm1, attn, norm2, mlp
        self.drop_attn = DropPath(drop_path, attn.over)
        self.drop_mlp = DropPath(drop_path, attn.over)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, F, J, C) -> (B, F, J, C)."""
        x = self.drop_attn(self.attn(self.norm1(x)), beside=x)
        return self.drop_mlp(self.mlp(self.norm2(x)), beside=x)
