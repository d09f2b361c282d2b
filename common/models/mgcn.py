"""Modulated GCN: 2D keypoints of single frames to 3D poses, by graph convolutions whose weights are modulated by joint.

Source: Zou and Tang, "Modulated Graph Convolutional Network for 3D Human Pose Estimation", ICCV 2021, of which two
programs were published: one with 16 joints for ground-truth keypoints, and a wider one with 17 joints for detections,
which lets all joints look at each other once and has a refinement (common/models/refine.py). Letters: B windows, F
frames, K keypoints in, J joints out, C channels, C' = C // 2. Parameter names are those of the public checkpoints,
which therefore load as they are.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from common.models import graph
from common.models.graph_conv import GraphLayer, ModulatedGraphConv
from common.models.layers import joints_from_keypoints
from common.models.lifter import Lifter, check_sizes, shape_in
from common.recipe import REFINED, Published, Recipe, RefinementRecipe
from common.skeleton import Skeleton

ConfigT = TypeVar('ConfigT', bound='GraphNetConfig')


@dataclass(frozen=True)
class GraphNetConfig:
    """The sizes of the network of 16 joints. `depth` counts pairs of layers. Raises ValueError for what cannot be."""

    channels: int = 128
    depth: int = 4

    def __post_init__(self) -> None:
        check_sizes(self, 'channels', 'depth')

    @classmethod
    def from_state(cls: type[ConfigT], state: dict[str, torch.Tensor]) -> ConfigT:
        """Read the sizes from the shapes of a public state dict.

        Raises ValueError when the weights are not a Modulated GCN's.
        """
        shape_in(state, 'gconv_input.0.gconv.adj2', 2)
        _, _, channels = shape_in(state, 'gconv_input.0.gconv.W', 3)
        depth = len({key.split('.')[1] for key in state if key.startswith('gconv_layers.')})
        return cls(channels, depth)


@dataclass(frozen=True)
class ModulatedGCNConfig(GraphNetConfig):
    """The sizes of the network of 17 joints, whose joints look at each other with half the channels."""

    channels: int = 384

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 2:
            raise ValueError(f'channels is {self.channels}, expected at least 2')


class Pair(nn.Module):
    """Two graph layers beside the input; nothing follows the sum."""

    def __init__(self, channels: int, adjacency: torch.Tensor, random_modulation: bool, dropout: float):
        super().__init__()
        self.gconv1, self.gconv2 = (GraphLayer(channels, channels, adjacency, random_modulation, dropout)
                                    for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve twice: x (1, K, B*F, C) -> (1, K, B*F, C)."""
        return x + self.gconv2(self.gconv1(x))


class Pointwise(nn.Conv2d):
    """A 1×1 convolution as what it is, a linear layer; weights (C_out, C_in, 1, 1) as public files have them."""

    bias: torch.Tensor

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (..., C_in) -> (..., C_out), in the dtype of x."""
        return F.linear(x, self.weight.flatten(1).to(x.dtype), self.bias.to(x.dtype))


class NonLocal(nn.Module):
    """All joints of a frame look at each other: attention of one head without a scale, beside the input.

    It starts as the identity, because the norm behind it starts with weight 0.
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = channels // 2
        self.g, self.theta, self.phi = (Pointwise(channels, inner) for _ in range(3))
        # A norm of rows: on a CPU, torch 2.13 and 2.14 back-propagate wrongly through a BatchNorm2d with an axis of
        # size 1 whose input and gradient lie differently in memory.
        norm = nn.BatchNorm1d(channels)
        nn.init.zeros_(norm.weight)
        self.W = nn.Sequential(Pointwise(inner, channels), norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over joints: x (1, K, B*F, C) -> (1, K, B*F, C)."""
        frames = x[0].transpose(0, 1)  # (B*F, K, C)
        weights = (self.theta(frames) @ self.phi(frames).mT).softmax(-1)  # (B*F, K, K)
        seen = (weights @ self.g(frames)).transpose(0, 1)  # (K, B*F, C')
        return x + self.W(seen.flatten(0, 1)).view_as(x)


class GraphNet(Lifter):
    """What both networks are: (B, F, K, 2) normalised screen coordinates -> (B, F, J, 3) metres, root-relative, camera
    axes; each frame by itself."""

    paper = 'Zou and Tang, ICCV 2021'

    def __init__(self, config: GraphNetConfig, skeleton: Skeleton, layout: Skeleton, random_modulation: bool,
                 attends: bool, dropout: float):
        """Build the model with fresh weights.

        Args:
            random_modulation: initialise the modulation Xavier-uniformly, instead of with 1.
            attends: whether all joints look at each other before the last layer.
            dropout: rate of single values after each layer but the last.
        """
        super().__init__(config)
        channels, adjacency = config.channels, graph.of_layout(layout)
        self.keypoints = len(layout)
        self.gconv_input = nn.Sequential(GraphLayer(2, channels, adjacency, random_modulation, dropout))
        self.gconv_layers = nn.Sequential(*(Pair(channels, adjacency, random_modulation, dropout)
                                            for _ in range(config.depth)))
        self.non_local = NonLocal(channels) if attends else None
        self.correspondence = joints_from_keypoints(skeleton, layout)
        self.gconv_output = ModulatedGraphConv(channels, 3, graph.of_layout(skeleton), random_modulation)

    def forward(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Lift keypoints (B, F, K, 2) -> (B, F, J, 3). Raises ValueError for another K than the model's."""
        if keypoints.ndim != 4 or keypoints.shape[2:] != (self.keypoints, 2):
            raise ValueError(f'expected keypoints (B, F, {self.keypoints}, 2), got {tuple(keypoints.shape)}')
        x = keypoints.flatten(0, 1).transpose(0, 1)[None]  # (1, K, B*F, 2): joints are the nodes, frames the copies
        x = self.gconv_input(x).to(self.tokens or x.dtype)
        x = self.gconv_layers(x)
        if self.non_local is not None:
            x = self.non_local(x)
        x = x.to(self.gconv_output.W.dtype)
        if self.correspondence is not None:
            x = torch.einsum('jk,bknc->bjnc', self.correspondence, x)
        return self.gconv_output(x)[0].transpose(0, 1).unflatten(0, keypoints.shape[:2])


class ModulatedGCN(GraphNet):
    """The network of 17 joints, for detected keypoints."""

    title = 'Modulated GCN'
    Config = ModulatedGCNConfig
    # The published program draws its seed, and prints it; its authors name a result of seed 1.
    recipe = Recipe(epochs=30, batch=256, optimizer='amsgrad', lr=5e-3, lr_decay=1, lr_drop_every=4, lr_drop=0.9,
                    dropout=0.2, loss='mpjpe', l1_share=0.01, objective='plain', root='zero', seed=1)
    refinement = RefinementRecipe(lr=5e-3)
    public_keys = ('gconv_input.0.gconv.adj2', 'gconv_input.0.gconv.M', 'non_local.g.weight')
    results = (
        Published('cpn_ft_h36m_dbb', 1, 49.4, None, 'paper', REFINED),
        Published('gt', 1, 33.5, None, "HTNet's readme", REFINED),
        Published('cpn_ft_h36m_dbb', 1, 50.73, None, 'issue'))

    def __init__(self, config: ModulatedGCNConfig, skeleton: Skeleton, layout: Skeleton, dropout: float = 0.2):
        """Build the model with fresh weights. `dropout` is the rate of single values after each layer but the last."""
        super().__init__(config, skeleton, layout, random_modulation=True, attends=True, dropout=dropout)


class ModulatedGCN16(GraphNet):
    """The network of 16 joints, for ground-truth keypoints."""

    title = 'Modulated GCN of 16 joints'
    Config = GraphNetConfig
    recipe = Recipe(epochs=50, batch=64, optimizer='adam', lr=1e-3, lr_decay=0.96, lr_decay_steps=100_000, clip=1,
                    loss='mse', l1_share=0.1, objective='plain', root='zero', seed=1, augment=False, flip=False,
                    joints='h36m16')
    public_keys = ('gconv_input.0.gconv.adj2', 'gconv_input.0.gconv.M')
    absent_keys = ('non_local.g.weight',)
    results = (Published('gt', 1, 38.25, 30.06, 'readme', '16 joints'),)

    def __init__(self, config: GraphNetConfig, skeleton: Skeleton, layout: Skeleton):
        """Build the model with fresh weights."""
        super().__init__(config, skeleton, layout, random_modulation=False, attends=False, dropout=0.0)
