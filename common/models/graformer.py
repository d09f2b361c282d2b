"""GraFormer: 2D keypoints of single frames to 3D poses, by attention, a learned graph and Chebyshev convolutions.

Source: Zhao, Wang and Tian, "GraFormer: Graph-Oriented Transformer for 3D Pose Estimation", CVPR 2022. Letters: B
windows, F frames, K keypoints in, J joints out, N nodes, C channels. Parameter names are those of the published
program, whose checkpoints therefore load as they are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.models.annotated import SampleNorm, SplitAttention
from common.models.layers import Linear, dropout, joints_from_keypoints
from common.models.lifter import Lifter, check_sizes, shape_in
from common.recipe import Published, Recipe
from common.skeleton import Skeleton

ORDER = 3  # Chebyshev polynomials of the graph: T_0, T_1 and T_2
DEGREE_OFFSET = 1e-5  # added to a node's degree in the learned graph
# The rate of the weights of attention and of the convolutions over that of the branches, as published: 0.1 to 0.25.
LESSER_RATE = 0.4


@dataclass(frozen=True)
class GraFormerConfig:
    """The sizes of a GraFormer. Raises ValueError for sizes that cannot be."""

    channels: int = 96
    depth: int = 5
    heads: int = 4

    not_in_a_file = ('heads',)

    def __post_init__(self) -> None:
        check_sizes(self, 'channels', 'depth', 'heads')
        if self.channels % self.heads:
            raise ValueError(f'{self.channels} channels cannot be divided among {self.heads} heads')
        if self.channels < 2:
            raise ValueError('1 channel has no standard deviation: take 2 at least')

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> 'GraFormerConfig':
        """Read the sizes from the shapes of a public state dict, which does not tell the heads: the usual 4.

        Raises ValueError when the weights are not GraFormer's.
        """
        shape_in(state, 'atten_layers.0.feed_forward.A_hat', 2)
        channels = shape_in(state, 'gconv_input.weight', 4)[3]
        heads = math.gcd(channels, cls.heads)  # channels that the usual number does not divide are told so by flags
        return cls(channels, len({key.split('.')[1] for key in state if key.startswith('atten_layers.')}), heads)


def chebyshev(layout: Skeleton) -> torch.Tensor:
    """Return the Chebyshev polynomials (3, N, N) of a layout's graph: T_0 = I, T_1 = I - P, T_2 = 2 T_1 T_1 - T_0.

    P has the bones in both directions and each node's edge to itself; each row is divided by its sum.
    """
    own = np.eye(len(layout))
    graph = own.copy()
    for joint, parent in layout.edges:
        graph[joint, parent] = graph[parent, joint] = 1
    laplacian = own - graph / graph.sum(axis=1, keepdims=True)
    return torch.from_numpy(np.stack([own, laplacian, 2 * laplacian @ laplacian - own])).float()


class ChebConv(nn.Module):
    """The sum over k of T_k X W_k, and a bias."""

    polynomials: torch.Tensor

    def __init__(self, channels_in: int, channels_out: int, polynomials: torch.Tensor):
        """Initialise the weights.

        Args:
            polynomials: (3, N, N) of a graph, kept as a constant.
        """
        super().__init__()
        self.register_buffer('polynomials', polynomials.transpose(0, 1).flatten(0, 1), persistent=False)  # (N*3, N)
        self.weight = nn.Parameter(torch.empty(ORDER, 1, channels_in, channels_out))
        self.bias = nn.Parameter(torch.zeros(1, 1, channels_out))
        nn.init.xavier_normal_(self.weight)  # of four axes, so that std is 1 / sqrt(2 C_in C_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve x (B, F, N, C_in) -> (B, F, N, C_out)."""
        mixed = (self.polynomials.to(x.dtype) @ x).unflatten(2, (-1, ORDER)).flatten(3)  # (B, F, N, 3*C_in)
        return F.linear(mixed, self.weight.flatten(0, 2).T.to(x.dtype), self.bias.flatten().to(x.dtype))


class Rectified(nn.Module):
    """A Chebyshev convolution, ReLU and dropout."""

    def __init__(self, channels: int, polynomials: torch.Tensor, dropout: float):
        super().__init__()
        self.gconv, self.dropout = ChebConv(channels, channels, polynomials), dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (B, F, N, C) -> (B, F, N, C)."""
        return dropout(self.gconv(x).relu(), self.dropout if self.training else 0)


class Convolutions(nn.Module):
    """Two Chebyshev convolutions beside the input."""

    def __init__(self, channels: int, polynomials: torch.Tensor, dropout: float):
        super().__init__()
        self.gconv1 = Rectified(channels, polynomials, dropout)
        self.gconv2 = Rectified(channels, polynomials, dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (B, F, N, C) -> (B, F, N, C)."""
        return x + self.gconv2(self.gconv1(x))


class Fc(nn.Module):
    """A linear layer under the name that it has in public files."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.fc = Linear(channels_in, channels_out)


class LearnedGraph(nn.Module):
    """Two linear layers, each after a product with a graph that is learned: its edges have any weight."""

    def __init__(self, channels: int, nodes: int):
        super().__init__()
        self.A_hat = nn.Parameter(torch.eye(nodes))
        self.gconv1, self.gconv2 = Fc(channels, 2 * channels), Fc(2 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (B, F, N, C) -> (B, F, N, C)."""
        scale = (self.A_hat.sum(0) + DEGREE_OFFSET).rsqrt()
        graph = (scale[:, None] * self.A_hat * scale).to(x.dtype)
        return self.gconv2.fc(graph @ self.gconv1.fc(graph @ x).relu())


class Sublayer(nn.Module):
    """A norm, a branch and its dropout, beside the input."""

    def __init__(self, channels: int, dropout: float):
        super().__init__()
        self.norm, self.dropout = SampleNorm(channels), dropout

    def forward(self, x: torch.Tensor, branch: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Apply to x (B, F, N, C) -> (B, F, N, C)."""
        return x + dropout(branch(self.norm(x)), self.dropout if self.training else 0)


class AttentionLayer(nn.Module):
    """Attention over the nodes of a frame, then the learned graph."""

    def __init__(self, channels: int, heads: int, nodes: int, dropout: float):
        super().__init__()
        self.self_attn = SplitAttention(channels, heads, LESSER_RATE * dropout)
        self.feed_forward = LearnedGraph(channels, nodes)
        self.sublayer = nn.ModuleList(Sublayer(channels, dropout) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (B, F, N, C) -> (B, F, N, C)."""
        attention, graph = self.sublayer
        x = attention(x, lambda normed: self.self_attn(normed.flatten(0, 1)).view_as(x))
        return graph(x, self.feed_forward)


class GraFormer(Lifter):
    """(B, F, K, 2) normalised screen coordinates -> (B, F, J, 3) metres, root-relative, camera axes; each frame by
    itself."""

    title = 'GraFormer'
    paper = 'Zhao et al., CVPR 2022'
    Config = GraFormerConfig
    recipe = Recipe(epochs=100, batch=64, optimizer='adam', lr=1e-3, lr_decay=0.9, lr_decay_steps=50_000, clip=1.0,
                    dropout=0.25, loss='mse', objective='plain', root='zero', seed=1234, augment=False, flip=False,
                    joints='h36m16')
    public_keys = ('atten_layers.0.feed_forward.A_hat', 'gconv_input.weight')
    results = (
        Published(keypoints='gt', frames=1, mpjpe=35.2, p_mpjpe=None, source='paper',
                  remark='users of its code reach 36.9 at best'),
        Published(keypoints='cpn_ft_h36m_dbb', frames=1, mpjpe=51.8, p_mpjpe=None, source='paper'),
    )

    def __init__(self, config: GraFormerConfig, skeleton: Skeleton, layout: Skeleton, dropout: float = 0.25):
        """Build the model with fresh weights; all attentions start alike, and all learned graphs.

        Args:
            dropout: rate of single values of the branches of attention and learned graph. That of the weights of
                attention and of the convolutions is 0.4 times as high.
        """
        super().__init__(config)
        channels, depth = config.channels, config.depth
        self.keypoints = len(layout)
        polynomials = chebyshev(layout)
        self.gconv_input = ChebConv(2, channels, polynomials)
        self.atten_layers = nn.ModuleList(
            AttentionLayer(channels, config.heads, len(layout), dropout) for _ in range(depth))
        for layer in self.atten_layers[1:]:
            layer.load_state_dict(self.atten_layers[0].state_dict())
        self.gconv_layers = nn.ModuleList(
            Convolutions(channels, polynomials, LESSER_RATE * dropout) for _ in range(depth))
        self.correspondence = joints_from_keypoints(skeleton, layout)
        self.gconv_output = ChebConv(channels, 3, chebyshev(skeleton))

    def forward(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Lift keypoints (B, F, K, 2) -> (B, F, J, 3). Raises ValueError for another K than the model's."""
        if keypoints.ndim != 4 or keypoints.shape[2:] != (self.keypoints, 2):
            raise ValueError(f'expected keypoints (B, F, {self.keypoints}, 2), got {tuple(keypoints.shape)}')
        x = self.gconv_input(keypoints)  # (B, F, K, C) from here on
        x = x.to(self.tokens or x.dtype)
        for attention, convolutions in zip(self.atten_layers, self.gconv_layers, strict=True):
            x = self.through(convolutions, self.through(attention, x))
        x = x.to(self.gconv_output.weight.dtype)
        if self.correspondence is not None:
            x = torch.matmul(self.correspondence, x)  # (J, K) @ (B, F, K, C)
        return self.gconv_output(x)
