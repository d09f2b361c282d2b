"""MotionAGFormer: attention beside graph convolutions, each over joints and then over frames.

Source: Mehraban, Adeli and Taati, "MotionAGFormer: Enhancing 3D Human Pose Estimation with a Transformer-GCNFormer
Network", WACV 2024 (arXiv 2310.16288). Letters: B windows, F frames, K keypoints in, J joints out, C channels, R
channels of the representation, n nodes of a graph. Parameter names are those of the public checkpoints, which therefore
load as they are.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from common.models.layers import FRAMES, JOINTS, Attention, LayerNorm, Linear, Mlp
from common.models.lifter import check_sizes, shape_in, usual_heads
from common.models.streams import SCALED, Fusion, Representation, TwoStreams
from common.recipe import Published, Recipe
from common.skeleton import H36M, MPI_INF_3DHP, Skeleton

SCALE = 1e-5  # of each branch at first
# The published graph of joints lacks these links of Human3.6M's bones, in this direction alone: hip to left hip, and
# thorax to both shoulders.
MISSING = ((0, 4), (8, 11), (8, 14))
TF32_BITS = 13  # of a float32 that TF32 rounds off


@dataclass(frozen=True)
class MotionAGFormerConfig:
    """The sizes of a MotionAGFormer. Raises ValueError for sizes that cannot be.

    Attributes:
        frames: length of a window.
        depth: number of layers, of four blocks each.
        mlp_ratio: width of the MLPs over channels.
        representation: channels in front of the last layer.
        neighbours: frames that each frame is linked to in the graph over time, itself among them as a rule.
    """

    frames: int = 243
    channels: int = 128
    depth: int = 16
    heads: int = 8
    mlp_ratio: float = 4.0
    representation: int = 512
    neighbours: int = 2

    not_in_a_file: ClassVar[tuple[str, ...]] = ('heads', 'neighbours')
    named: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        'xs': {'frames': 27, 'channels': 64, 'depth': 12}, 's': {'frames': 81, 'channels': 64, 'depth': 26},
        'b': {'frames': 243, 'channels': 128, 'depth': 16}, 'l': {'frames': 243, 'channels': 128, 'depth': 26}}

    def __post_init__(self) -> None:
        check_sizes(self, 'frames', 'channels', 'depth', 'heads', 'representation', 'neighbours')
        if self.channels % self.heads:
            raise ValueError(f'{self.channels} channels cannot be divided among {self.heads} heads')
        if self.neighbours > self.frames:
            raise ValueError(f'frames is {self.frames}, expected at least {self.neighbours}: each frame is linked to '
                             f'as many')

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> 'MotionAGFormerConfig':
        """Read the sizes from the shapes of a public state dict.

        It does not tell the neighbours, here 2 if there are as many frames; nor the heads, see `usual_heads`. Raises
        ValueError when the weights are not MotionAGFormer's.
        """
        frames, = shape_in(state, 'layers.0.graph_temporal.mixer.batch_norm.weight', 1)
        shape_in(state, 'pos_embed', 3)
        hidden, channels = shape_in(state, 'layers.0.att_spatial.mlp.fc1.weight', 2)
        representation, _ = shape_in(state, 'rep_logit.fc.weight', 2)
        depth = len({key.split('.')[1] for key in state if key.startswith('layers.')})
        return cls(frames, channels, depth, usual_heads(channels), hidden / channels, representation, min(2, frames))


def links(layout: Skeleton) -> torch.Tensor:
    """Return the graph of a layout's keypoints, (K, K) of 0 and 1: row i has a 1 for each j that i reads.

    For Human3.6M the published one, which is short of three links. The published program takes the same numbers for
    MPI-INF-3DHP, whose joints have another order, and its public weights were trained so. For any other layout, which
    nothing is published of, these are its bones, both ways. No keypoint reads itself.
    """
    numbered = layout in (H36M, MPI_INF_3DHP)
    matrix = torch.zeros(len(layout), len(layout))
    for joint, parent in (H36M if numbered else layout).edges:
        matrix[joint, parent] = matrix[parent, joint] = 1
    for row, column in MISSING if numbered else ():
        matrix[row, column] = 0
    return matrix


def normalised(graph: torch.Tensor) -> torch.Tensor:
    """Return the graph (..., n, n) of 0 and 1 with each link divided by √(dᵢ dⱼ), where d are the sums of rows."""
    scale = graph.sum(-1).clamp_min(1).rsqrt()
    return scale[..., :, None] * graph * scale[..., None, :]


def likeness(x: torch.Tensor) -> torch.Tensor:
    """Return the products of each pair of rows, in float32 whatever the precision: (..., n, C) -> (..., n, n).

    They decide which rows are linked, and TF32 would decide by chance where frames are alike.
    """
    if x.is_cuda and x.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
        left, right = in_three_parts(x)
        return left @ right.mT
    return x.float() @ x.float().mT


def in_three_parts(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what TF32 may multiply in place of x and x, right to some 21 bits: (..., C) float32 -> (..., 3C) twice."""
    kept = (x.view(torch.int32) >> TF32_BITS << TF32_BITS).view(torch.float32)  # exact in TF32
    rest = x - kept
    return torch.cat([kept, kept, rest], dim=-1), torch.cat([kept, rest, kept], dim=-1)


@torch.no_grad()
def nearest(x: torch.Tensor, count: int) -> torch.Tensor:
    """Return the normalised graph that links each row to those with the `count` largest products: (..., n, n).

    Rows that tie with the last of them are linked too. It is a choice, through which no gradient passes.
    """
    products = likeness(x)
    least = products.topk(count, dim=-1).values[..., -1:]
    return normalised((products >= least).float()).to(x.dtype)


class GraphMixer(nn.Module):
    """relu(n + batch_norm(Â V n + U n)) of normed tokens n, with a graph Â over joints or frames.

    The batch norm has a weight for each node, and statistics over all else, channels included.
    """

    def __init__(self, channels: int, nodes: int):
        super().__init__()
        self.U, self.V = (Linear(channels, channels) for _ in range(2))
        for linear in (self.U, self.V):
            nn.init.normal_(linear.weight, std=math.sqrt(2 / channels))
        self.batch_norm = nn.BatchNorm1d(nodes)


class JointGraph(GraphMixer):
    """The graph of the joints of a frame, which is fixed."""

    graph: torch.Tensor

    def __init__(self, channels: int, graph: torch.Tensor):
        super().__init__(channels, len(graph))
        self.register_buffer('graph', normalised(graph), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix normed tokens x (B, F, K, C) -> (B, F, K, C)."""
        mixed = self.U(x) + torch.matmul(self.graph.to(x.dtype), self.V(x))
        return torch.relu(x + self.batch_norm(mixed.flatten(0, 1)).view_as(x))


class FrameGraph(GraphMixer):
    """The graph of the frames of a track, which are linked to those most like them."""

    def __init__(self, channels: int, frames: int, neighbours: int):
        super().__init__(channels, frames)
        self.neighbours = neighbours

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix normed tokens x (B, F, K, C) -> (B, F, K, C)."""
        graph = nearest(x.transpose(1, 2), self.neighbours)  # (B, K, F, F)
        mixed = self.U(x) + torch.matmul(graph, self.V(x).transpose(1, 2)).transpose(1, 2)
        return torch.relu(x + self.batch_norm(mixed.flatten(2)).view_as(x))  # keypoints beside channels


class Block(nn.Module):
    """A mixer of tokens and an MLP, each behind a norm, scaled channel by channel, and beside its input."""

    def __init__(self, channels: int, hidden: int, mixer: nn.Module):
        super().__init__()
        self.norm1, self.norm2 = (LayerNorm(channels) for _ in range(2))
        self.mixer, self.mlp = mixer, Mlp(channels, hidden)
        self.layer_scale_1, self.layer_scale_2 = (nn.Parameter(torch.full((channels,), SCALE)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to tokens x (B, F, K, C) -> (B, F, K, C)."""
        x = torch.addcmul(x, self.layer_scale_1.to(x.dtype), self.mixer(self.norm1(x)))
        return torch.addcmul(x, self.layer_scale_2.to(x.dtype), self.mlp(self.norm2(x)))


class Layer(nn.Module):
    """The four blocks of both streams, and their fusion."""

    def __init__(self, config: MotionAGFormerConfig, graph: torch.Tensor):
        super().__init__()
        channels, hidden = config.channels, round(config.channels * config.mlp_ratio)
        self.att_spatial, self.att_temporal = (
            Block(channels, hidden, Attention(channels, config.heads, over, qkv_bias=False))
            for over in (JOINTS, FRAMES))
        self.graph_spatial = Block(channels, hidden, JointGraph(channels, graph))
        self.graph_temporal = Block(channels, hidden, FrameGraph(channels, config.frames, config.neighbours))
        self.fusion = Fusion(channels)

    def forward(self, x: torch.Tensor, through: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Apply to tokens x (B, F, K, C) -> (B, F, K, C), with `Lifter.through` calling the blocks that it may.

        It may not those with a batch norm: computed twice, that would count every step twice.
        """
        attended = through(self.att_temporal, through(self.att_spatial, x))
        return self.fusion(attended, self.graph_temporal(self.graph_spatial(x)))


class MotionAGFormer(TwoStreams):
    """(B, F, K, 3) keypoints with confidence -> (B, F, J, 3): see `TwoStreams`."""

    title = 'MotionAGFormer'
    Config = MotionAGFormerConfig
    recipe = Recipe(epochs=60, batch=16 * 243, windows=16, stride_limit=243, optimizer='adamw', lr=5e-4, lr_decay=0.99,
                    weight_decay=0.01, loss='motion', objective='plain', root='zero', seed=0)
    public_keys = ('pos_embed', 'layers.0.att_spatial.norm1.weight')
    paper = 'Mehraban, Adeli and Taati, WACV 2024'
    results = tuple(
        Published(keypoints, frames, mpjpe, None, 'leaderboard', f'size {size}, {SCALED}')
        for keypoints, size, frames, mpjpe in (
            ('Stacked Hourglass', 'xs', 27, 45.1), ('Stacked Hourglass', 's', 81, 42.5),
            ('Stacked Hourglass', 'b', 243, 38.4), ('Stacked Hourglass', 'l', 243, 38.4),
            ('gt', 'xs', 27, 28.1), ('gt', 's', 81, 26.5), ('gt', 'b', 243, 19.4)))

    def __init__(self, config: MotionAGFormerConfig, skeleton: Skeleton, layout: Skeleton):
        """Build the model with fresh weights."""
        super().__init__(config, skeleton, layout, eps=1e-5)
        graph = links(layout)
        self.layers = nn.ModuleList(Layer(config, graph) for _ in range(config.depth))
        self.rep_logit = Representation(config.channels, config.representation)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Embed keypoints (B, F, K, 3) as tokens (B, F, K, C). Raises ValueError for other shapes than the model's."""
        if x.ndim == 4 and x.shape[1] != self.frames:
            raise ValueError(f'expected windows of {self.frames} frames, got {x.shape[1]}')
        return super().embed(x)

    def streams(self, x: torch.Tensor) -> torch.Tensor:
        """Put tokens through all layers: x (B, F, K, C) -> (B, F, K, C)."""
        for layer in self.layers:
            x = layer(x, self.through)
        return x

    def represent(self, x: torch.Tensor) -> torch.Tensor:
        """Make the representation of normalised tokens: x (B, F, J, C) -> (B, F, J, R)."""
        return self.rep_logit(x)
