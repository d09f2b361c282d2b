"""Parts of StridedTransformer and P-STMO: one transformer over all frames of a window, one that narrows it to a frame.

Source: Li, Liu, Ding, Liu, Wang and Yang, "Exploiting Temporal Contexts with Strided Transformer for 3D Human Pose
Estimation", TMM 2022, whose transformers P-STMO takes as they are. Both networks answer for the centre of their window
and are supervised on all of it ("full to single"). Letters: B windows, F frames, L tokens, K keypoints in, J joints
out, C channels, D hidden. Parameter names are those of the public checkpoints.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from common.augment import Batch
from common.models.annotated import SampleNorm, SplitAttention
from common.models.layers import Linear, dropout
from common.models.lifter import Criterion, Lifter, check_sizes, shape_in, usual_heads
from common.recipe import RefinementRecipe
from common.skeleton import Skeleton

POSITIONS = 3  # tables of positions in front of the first strided blocks, as many as the public files have


@dataclass(frozen=True)
class StridedConfig:
    """The sizes of both networks. `hidden` is the width of the feed-forward layers.

    `strides` are those of the strided blocks, which leave one token; where none are given, the published ones of as
    many frames take their place, if there are any. Raises ValueError for sizes that cannot be.
    """

    frames: int
    channels: int = 256
    depth: int = 3
    hidden: int = 512
    strides: tuple[int, ...] = ()
    heads: int = 8

    not_in_a_file: ClassVar[tuple[str, ...]] = ('strides', 'heads')
    known_strides: ClassVar[Mapping[int, tuple[int, ...]]]  # frames -> the published ones

    def __post_init__(self) -> None:
        check_sizes(self, 'frames', 'channels', 'depth', 'hidden', 'heads')
        if self.frames % 2 == 0:
            raise ValueError(f'{self.frames} frames have none in their middle: take an odd number')
        if self.channels % self.heads:
            raise ValueError(f'{self.channels} channels cannot be divided among {self.heads} heads')
        if not self.strides:
            object.__setattr__(self, 'strides', self.known_strides.get(self.frames, ()))
        for stride in self.strides:
            if not isinstance(stride, int) or not 1 <= stride <= self.frames:
                raise ValueError(f'a stride is {stride}, expected a whole number from 1 to the {self.frames} frames')
        if self.strides and math.prod(self.strides) < self.frames:
            raise ValueError(f'strides {told(self.strides)} leave more than one of {self.frames} frames')


def told(strides: tuple[int, ...]) -> str:
    """Return strides as they are written in a line."""
    return ','.join(map(str, strides))


def sizes_in(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the sizes that a public state dict tells, and the usual heads. Raises ValueError for other weights."""
    _, frames, channels = shape_in(state, 'Transformer.pos_embedding', 3)
    hidden, _ = shape_in(state, 'Transformer.model.layers.0.feed_forward.w_1.weight', 2)
    depth = len({key.split('.')[3] for key in state if key.startswith('Transformer.model.layers.')})
    return {'frames': frames, 'channels': channels, 'depth': depth, 'hidden': hidden, 'heads': usual_heads(channels)}


class Pointwise(nn.Conv1d):
    """A convolution of width 1, which is a product at each token, in the dtype of its input."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (B, L, C_in) -> (B, L, C_out)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight[..., 0].to(x.dtype), bias)


class Narrowing(nn.Conv1d):
    """A convolution over each `stride`-th token, from the first one on, and its two neighbours."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__(channels_in, channels_out, 3, stride=stride, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (B, L, C_in) -> (B, ceil(L / stride), C_out), in the dtype of x."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv1d(x.mT, self.weight.to(x.dtype), bias, self.stride, self.padding).mT


class FeedForward(nn.Module):
    """w_2(dropout(relu(w_1(x)))), where w_2 may keep only each `stride`-th token."""

    def __init__(self, w_1: nn.Module, w_2: nn.Module, rate: float, stride: int = 1):
        super().__init__()
        self.w_1, self.w_2, self.rate, self.stride = w_1, w_2, rate, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (B, L, C) -> (B, ceil(L / stride), C)."""
        return self.w_2(dropout(torch.relu(self.w_1(x)), self.rate if self.training else 0))


class Sublayer(nn.Module):
    """A branch behind a norm, beside the tokens that it keeps."""

    def __init__(self, channels: int, rate: float):
        super().__init__()
        self.norm, self.rate = SampleNorm(channels), rate

    def forward(self, x: torch.Tensor, branch: Callable[[torch.Tensor], torch.Tensor], stride: int = 1) -> torch.Tensor:
        """Return x[:, ::stride] + dropout(branch(norm(x))): x (B, L, C) -> (B, ceil(L / stride), C)."""
        return x[:, ::stride] + dropout(branch(self.norm(x)), self.rate if self.training else 0)


class Block(nn.Module):
    """Attention over all tokens, then a feed-forward layer, which may keep fewer of them."""

    def __init__(self, self_attn: SplitAttention, feed_forward: FeedForward, channels: int, rate: float):
        super().__init__()
        self.self_attn, self.feed_forward = self_attn, feed_forward
        self.sublayer = nn.ModuleList(Sublayer(channels, rate) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (B, L, C) -> (B, ceil(L / stride), C)."""
        x = self.sublayer[0](x, self.self_attn)
        return self.sublayer[1](x, self.feed_forward, self.feed_forward.stride)


class UnusedNorm(nn.Module):
    """The norm that stands at the end of each stack in public files and that no published code applies."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer('a_2', torch.ones(channels))
        self.register_buffer('b_2', torch.zeros(channels))


class Stack(nn.Module):
    """Blocks one after the other."""

    def __init__(self, blocks: list[Block], channels: int):
        super().__init__()
        self.layers = nn.ModuleList(blocks)
        self.norm = UnusedNorm(channels)


def vanilla_blocks(depth: int, channels: int, hidden: int, heads: int, rate: float) -> list[Block]:
    """Return blocks that keep all tokens, with the same weights at first, as the published programs copy them."""
    feed_forward = FeedForward(Linear(channels, hidden), Linear(hidden, channels), rate)
    block = Block(SplitAttention(channels, heads, rate), feed_forward, channels, rate)
    return [block, *(copy.deepcopy(block) for _ in range(depth - 1))]


class Vanilla(nn.Module):
    """The transformer over all frames: positions and blocks."""

    def __init__(self, frames: int, depth: int, channels: int, hidden: int, heads: int, rate: float):
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, frames, channels))
        self.model = Stack(vanilla_blocks(depth, channels, hidden, heads, rate), channels)


class Strided(nn.Module):
    """The transformer that narrows all frames to one: a block a stride, the first three with positions before them."""

    def __init__(self, frames: int, strides: tuple[int, ...], channels: int, hidden: int, heads: int, rate: float):
        """Initialise the weights: those of attention are the same in all blocks at first, as published."""
        super().__init__()
        attention = SplitAttention(channels, heads, rate)
        self.model = Stack([
            Block(copy.deepcopy(attention), FeedForward(Pointwise(channels, hidden),
                                                        Narrowing(hidden, channels, stride), rate, stride),
                  channels, rate)
            for stride in strides], channels)
        for index in range(POSITIONS):
            table = torch.randn(1, frames, channels)
            if index < len(strides):
                self.model.register_parameter(f'pos_embedding_{index + 1}', nn.Parameter(table))
            else:  # no block reads it
                self.model.register_buffer(f'pos_embedding_{index + 1}', table)

    def positions(self, block: int, tokens: int) -> torch.Tensor | None:
        """Return what is added to the tokens before a block, (1, tokens, C); None where nothing is."""
        if block >= POSITIONS:
            return None
        return self.model.get_parameter(f'pos_embedding_{block + 1}')[:, :tokens]


def head(channels: int, coordinates: int) -> nn.Sequential:
    """Return what makes coordinates of channels: (B, C, L) -> (B, coordinates, L)."""
    return nn.Sequential(nn.BatchNorm1d(channels), nn.Conv1d(channels, coordinates, 1))


class FullToSingle(Lifter):
    """(B, F, K, 2) normalised screen coordinates -> (B, 1, J, 3) metres, root-relative: the pose of the centre.

    A model of this kind says in `embed` how keypoints become tokens, and makes `encoder` for it.
    """

    refinement = RefinementRecipe(base=0, symmetry=0)
    fewest = 2  # the batch norm before the centre's head sees one position of each window

    def __init__(self, config: StridedConfig, skeleton: Skeleton, layout: Skeleton, dropout: float):
        """Build the two transformers and the head of each with fresh weights.

        Raises ValueError for frames without published strides, where none are given.
        """
        super().__init__(config)
        if not config.strides:
            known = '; '.join(f'{frames}: {told(strides)}' for frames, strides in config.known_strides.items())
            raise ValueError(f'no strides are published for {self.frames} frames: give them, such as 3,3,3 for 27, or '
                             f'take as many frames as are published ({known})')
        self.supervised = range(self.frames)
        self.keypoints, self.joints = len(layout), len(skeleton)
        sizes = config.channels, config.hidden, config.heads, dropout
        self.Transformer = Vanilla(config.frames, config.depth, *sizes)
        self.Transformer_reduce = Strided(config.frames, config.strides, *sizes)
        self.fcn_1, self.fcn = (head(config.channels, 3 * self.joints) for _ in range(2))

    @classmethod
    def window(cls, config: Any) -> tuple[int, range]:
        """Return the frames of a window, and its middle one as the one that comes out."""
        middle = (config.frames - 1) // 2
        return config.frames, range(middle, middle + 1)

    @classmethod
    def keypoints_of(cls, state: Mapping[str, torch.Tensor]) -> int:
        """Return for how many keypoints a public state dict was made: two coordinates each."""
        return super().keypoints_of(state) // 2

    def embed(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Make a token of the keypoints of each frame: (B, 2 * K, F) -> (B, F, C)."""
        raise NotImplementedError

    def forward(self, keypoints: torch.Tensor, every: bool = False) -> Any:
        """Lift keypoints (B, F, K, 2) to the centre's pose (B, 1, J, 3).

        With `every`, the poses of all frames by the first head, (B, F, J, 3), come before it. Raises ValueError for
        another F or K than the model's.
        """
        tokens = self._tokens(keypoints)
        centre = self._centre(tokens)
        return (self._poses(self.fcn_1, tokens), centre) if every else centre

    def loss(self, batch: Batch, criterion: Criterion) -> torch.Tensor:
        """Return the criterion of all frames, and that of the centre."""
        every, centre = self(batch.keypoints, every=True)  # a call of the module, which is what is compiled
        return criterion(every, batch.truth) + criterion(centre, batch.truth[:, self.answers.start:self.answers.stop])

    def _tokens(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Return what the first transformer makes of keypoints (B, F, K, 2): (B, F, C)."""
        if keypoints.shape[1:] != (self.frames, self.keypoints, 2):
            raise ValueError(f'expected keypoints (B, {self.frames}, {self.keypoints}, 2), got '
                             f'{tuple(keypoints.shape)}')
        x = self.embed(keypoints.flatten(2).mT) + self.Transformer.pos_embedding
        x = x.to(self.tokens or x.dtype)
        for block in self.Transformer.model.layers:
            x = self.through(block, x)
        return x

    def _centre(self, x: torch.Tensor) -> torch.Tensor:
        """Return the centre's pose (B, 1, J, 3) of the first transformer's tokens (B, F, C)."""
        for index, block in enumerate(self.Transformer_reduce.model.layers):
            positions = self.Transformer_reduce.positions(index, x.shape[1])
            x = self.through(block, x if positions is None else x + positions.to(x.dtype))
        return self._poses(self.fcn, x)

    def _poses(self, to_poses: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
        """Return poses (B, L, J, 3) of tokens (B, L, C), with one of the heads."""
        return to_poses(x.to(self.Transformer.pos_embedding.dtype).mT).mT.unflatten(-1, (self.joints, 3))
