"""Transformer layers for all models. Tokens stay in one layout, (B, F, J, C), from input to head.

Layers compute in the dtype of their input tokens; weights are stored in float32, as they are trained.
Letters: B windows of a batch, F frames, J joints, C channels, H heads, d = C/H.
Source: the pre-norm block of ViT (Dosovitskiy et al., ICLR 2021), which MixSTE (CVPR 2022) applies to joints and frames
in turn; DropPath is stochastic depth (Huang et al., ECCV 2016).
"""

import math
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from common.skeleton import Skeleton, correspondence

JOINTS, FRAMES, WINDOWS = 'joints', 'frames', 'windows'
# Tokens as heads for attention over an axis. Both are views of the same memory.
AS_HEADS = {JOINTS: 'b f j (h d) -> (b f) h j d', FRAMES: 'b f j (h d) -> b (j h) f d'}
# On a CPU, plain products are faster than the fused kernel for short sequences and narrow heads, and in bf16 wherever a
# gradient follows (measured, see benchmarks/RESULTS.md).
SHORT, NARROW = 32, 32
GRID_LIMIT = 65535  # sequences that a fused kernel of CUDA takes at most


def in_dtype(bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Return a bias in a dtype; None where there is none."""
    return None if bias is None else bias.to(dtype)


class Linear(nn.Linear):
    """A linear layer that computes in the dtype of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (..., C_in) -> (..., C_out)."""
        return F.linear(x, self.weight.to(x.dtype), in_dtype(self.bias, x.dtype))


class LayerNorm(nn.LayerNorm):
    """Layer normalisation in the dtype of its input; statistics of bfloat16 input are float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x (..., C) -> (..., C)."""
        if x.device.type == 'cpu':  # accepts float32 weights with bfloat16 tokens, and then uses float32 statistics
            return super().forward(x)
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float | None = None) -> torch.Tensor:
    """Compute softmax(scale q kᵀ) v for sequences of L tokens, (N, H, L, d) three times -> (N, H, L, d).

    The scale is 1 / √d unless it is given.
    """
    if not q.shape[0]:
        return v  # a process that got no windows: not every fused kernel accepts an empty batch
    length, width = q.shape[-2:]
    plain = q.requires_grad if q.dtype is torch.bfloat16 else length <= SHORT and width <= NARROW
    if q.device.type == 'cpu' and plain:
        return (q * (width ** -0.5 if scale is None else scale) @ k.mT).softmax(-1) @ v
    if q.device.type != 'cpu' and q.shape[0] > GRID_LIMIT:
        pieces = zip(*(part.split(GRID_LIMIT) for part in (q, k, v)), strict=True)
        return torch.cat([F.scaled_dot_product_attention(a, b, c, scale=scale) for a, b, c in pieces])
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


class Attention(nn.Module):
    """Multi-head self-attention over one axis of the tokens, with a packed projection for queries, keys and values."""

    def __init__(self, channels: int, heads: int, over: str, dropout: float = 0.0, qkv_bias: bool = True):
        """Make the projections.

        Args:
            over: JOINTS or FRAMES, the axis to attend over.
            dropout: rate after the output projection.
            qkv_bias: whether queries, keys and values have a bias.

        Raises ValueError where the channels cannot be divided among the heads.
        """
        super().__init__()
        if channels % heads:
            raise ValueError(f'{channels} channels cannot be divided among {heads} heads')
        self.heads, self.over, self.dropout = heads, over, dropout
        self.qkv = Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend: x (B, F, J, C) -> (B, F, J, C)."""
        # Three products instead of one make each result contiguous, so that joint and head merge into one axis.
        biases = (None,) * 3 if self.qkv.bias is None else self.qkv.bias.to(x.dtype).chunk(3)
        parts = zip(self.qkv.weight.to(x.dtype).chunk(3), biases, strict=True)
        out = attend(*(rearrange(F.linear(x, *part), AS_HEADS[self.over], h=self.heads) for part in parts))
        before, after = AS_HEADS[self.over].split(' -> ')
        out = self.proj(rearrange(out, f'{after} -> {before}', h=self.heads, f=x.shape[1]))
        return dropout(out, self.dropout if self.training else 0)


class LinearOfGelu(torch.autograd.Function):
    """linear(gelu(x)), which saves only x for the backward pass and recomputes gelu(x).

    Autograd would save both, the two widest tensors of a block. The price is one more pass over memory.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Compute x (..., C_in), weight (C_out, C_in), bias (C_out,), if any -> (..., C_out)."""
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        rows = slope.flatten(0, -2)
        of_weight = rows.T @ F.gelu(x).flatten(0, -2)
        return torch.ops.aten.gelu_backward(slope @ weight, x), of_weight, rows.sum(0) if ctx.biased else None


class Mlp(nn.Module):
    """Linear, exact GELU, Linear; dropout, if any, after the GELU and at the end."""

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0, bias: bool = True):
        super().__init__()
        self.dropout = dropout
        self.fc1 = Linear(channels, hidden, bias)
        self.fc2 = Linear(hidden, channels, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (..., C) -> (..., C)."""
        bias = in_dtype(self.fc2.bias, x.dtype)
        if not (self.training and self.dropout):
            return LinearOfGelu.apply(self.fc1(x), self.fc2.weight.to(x.dtype), bias)
        hidden = self.fc1(x)
        if x.device.type == 'cpu':
            # GELU and its gradient are zero at -100, so moving a value there drops it in both passes, at the price of
            # one pass over memory. The second weight includes the scale of dropout.
            hidden.detach().masked_fill_(dropped(hidden, self.dropout), -100)
            weight = (self.fc2.weight / (1 - self.dropout)).to(x.dtype)
            out = F.linear(F.gelu(hidden), weight, bias)
        else:
            out = self.fc2(F.dropout(F.gelu(hidden), self.dropout))
        return dropout(out, self.dropout)


def dropped(x: torch.Tensor, rate: float) -> torch.Tensor:
    """Draw a boolean mask shaped as x, each value True with probability `rate` (to 2^-16), with torch's generator.

    One random number gives four draws of 16 bits, on a CPU ten times faster than a Bernoulli draw for each value.
    """
    bits = torch.randint(-2**63, 2**63 - 1, (-(-x.numel() // 4),), dtype=torch.int64, device=x.device)
    return bits.view(torch.int16)[:x.numel()].view(x.shape) < round(rate * 2**16) - 2**15


def dropout(x: torch.Tensor, rate: float) -> torch.Tensor:
    """Set each value of x to 0 with probability `rate`, and scale the others by 1 / (1 - rate)."""
    if not rate or x.device.type != 'cpu':
        return F.dropout(x, rate)
    return x * ~dropped(x, rate) * (1 / (1 - rate))


class DropPath(nn.Module):
    """Stochastic depth: in training, drop a branch with probability `rate`, and scale it by 1 / (1 - rate) otherwise.

    Attributes:
        over: what a draw goes through: JOINTS, one for all tokens of a frame; FRAMES, one for all tokens of a track;
            WINDOWS, one for all tokens of a window.
        kept: draws of `draw` for the next forward pass, True where the branch is kept: (B, F, 1, 1) over joints,
            (B, 1, J, 1) over frames, (B, 1, 1, 1) over windows. None: `forward` draws from torch's default generator.
    """

    def __init__(self, rate: float, over: str):
        super().__init__()
        self.rate, self.over = rate, over
        self.kept: torch.Tensor | None = None

    def shape(self, windows: int, frames: int, joints: int) -> tuple[int, int, int, int]:
        """Return the shape of the draws for tokens (B, F, J, C): the published code draws for a batch of B*F, B*J or B.

        Over windows it does not depend on F and J, which a model is then free to lay its tokens out by.
        """
        if self.over == WINDOWS:
            return windows, 1, 1, 1
        return (windows, frames, 1, 1) if self.over == JOINTS else (windows, 1, joints, 1)

    def forward(self, x: torch.Tensor, beside: torch.Tensor | None = None) -> torch.Tensor:
        """Drop or scale a branch x (B, F, J, C) -> (B, F, J, C), and add it to `beside` where that is given."""
        if not self.training or self.rate == 0:
            return x if beside is None else beside + x
        kept = torch.rand(self.shape(*x.shape[:3]), device=x.device) >= self.rate if self.kept is None else self.kept
        # 0 and 1 are exact in any dtype; the scale stays a Python number, because bfloat16 would round it.
        kept, scale = kept.to(x.dtype), 1 / (1 - self.rate)
        return x * kept * scale if beside is None else torch.addcmul(beside, x, kept, value=scale)


def draw(paths: list[DropPath], windows: int, frames: int, joints: int, generator: torch.Generator,
         part: slice = slice(None)) -> None:
    """Draw what drop paths drop in one forward pass.

    Draws are made for all windows of a batch, of which a process keeps its own, so that several processes drop what a
    single one would.

    Args:
        windows, frames, joints: size of the whole batch.
        part: the windows of this process.
    """
    shapes = [path.shape(windows, frames, joints) for path in paths]
    draws = torch.rand(sum(math.prod(shape) for shape in shapes), device=generator.device, generator=generator)
    for path, shape, mine in zip(paths, shapes, draws.split([math.prod(shape) for shape in shapes]), strict=True):
        path.kept = mine.view(shape)[part] >= path.rate


AttentionT = TypeVar('AttentionT', bound=Attention)


class Block(nn.Module, Generic[AttentionT]):
    """x + DropPath(attention(norm1(x))), then x + DropPath(MLP(norm2(x)))."""

    def __init__(self, attn: AttentionT, norm1: nn.Module, norm2: nn.Module, mlp: Mlp, drop_path: float,
                 drop_over: str | None = None):
        """Put the parts together.

        Args:
            drop_path: rate of both drop paths. drop_over: what they draw over; None for what attention runs over.
        """
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm1, attn, norm2, mlp
        self.drop_attn, self.drop_mlp = (DropPath(drop_path, drop_over or attn.over) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to tokens x (B, F, J, C) -> (B, F, J, C)."""
        x = self.drop_attn(self.attn(self.norm1(x)), beside=x)
        return self.drop_mlp(self.mlp(self.norm2(x)), beside=x)


def joints_from_keypoints(skeleton: Skeleton, layout: Skeleton) -> nn.Parameter | None:
    """Return the weights (J, K) that make joints from keypoints, by name at first; None where the two are the same."""
    return None if layout == skeleton else nn.Parameter(torch.from_numpy(correspondence(skeleton, layout)))
