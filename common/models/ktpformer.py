"""KTPFormer: 2D keypoints of a window to 3D poses of all its frames, by attention over joints and frames in turn.

Source: Peng, Zhou and Mok, "KTPFormer: Kinematics and Trajectory Prior Knowledge-Enhanced Transformer for 3D Human Pose
Estimation", CVPR 2024. Without its priors (kpa=False, tpa=False) it is the MixSTE-style baseline.
Letters: B windows, F frames, K keypoints in, J joints out, C channels. Parameter names are those of the public
checkpoints, which therefore load as they are.
"""

import torch
from torch import nn

from common.models import graph
from common.models.layers import FRAMES, JOINTS, Attention, Block, LayerNorm, Mlp, PoseModel
from common.models.priors import KPA, TPA


def config_of(state: dict[str, torch.Tensor]) -> dict:
    """The config that a public state dict was built with, read from its shapes; heads are the usual 8.

    Raises ValueError when the weights are not KTPFormer's.
    """
    sizes = {}
    for name, dimensions in (('tpattention.attn.Temporal_pos_embed', 3), ('kpattention.attn.Spatial_pos_embed', 3),
                             ('kpattention.mlp.fc1.weight', 2)):
        if name not in state:
            raise ValueError(f'{name} is missing')
        sizes[name] = tuple(state[name].shape)
        if len(sizes[name]) != dimensions:
            raise ValueError(f'{name} has {len(sizes[name])} dimensions, expected {dimensions}')
    _, frames, channels = sizes['tpattention.attn.Temporal_pos_embed']
    hidden, _ = sizes['kpattention.mlp.fc1.weight']
    depth = len({key.split('.')[1] for key in state if key.startswith('STEblocks.')})
    return {'frames': frames, 'channels': channels, 'depth': depth, 'heads': 8, 'mlp_ratio': hidden / channels,
            'kpa': 'kpattention.attn.kpa.gconv.W' in state, 'tpa': 'tpattention.attn.tpa.gconv1.gconv.W' in state}


class KPAttention(Attention):
    """Attention over joints whose tokens are made by the kinematics prior."""

    def __init__(self, channels: int, heads: int, adjacency: torch.Tensor, kpa: bool):
        super().__init__(channels, heads, JOINTS)
        self.kpa = KPA(2, channels, adjacency) if kpa else nn.Linear(2, channels)
        self.Spatial_pos_embed = nn.Parameter(torch.zeros(1, len(adjacency), channels))
        self.norm1 = LayerNorm(channels)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Keypoints (B, F, K, 2) -> tokens (B, F, K, C)."""
        return self.kpa(x) + self.Spatial_pos_embed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, F, K, C) -> (B, F, K, C)."""
        return super().forward(self.norm1(x))


class TPAttention(Attention):
    """Attention over frames whose tokens went through the trajectory prior."""

    def __init__(self, channels: int, heads: int, frames: int, tpa: bool):
        super().__init__(channels, heads, FRAMES)
        self.tpa = TPA(channels, torch.from_numpy(graph.chain(frames))) if tpa else nn.Identity()
        self.Temporal_pos_embed = nn.Parameter(torch.zeros(1, frames, channels))
        self.norm1 = LayerNorm(channels)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (B, F, K, C) -> tokens (B, F, K, C)."""
        return self.tpa(x) + self.Temporal_pos_embed[:, :, None].to(x.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, F, K, C) -> (B, F, K, C)."""
        return super().forward(self.norm1(x))


class KTPFormer(PoseModel):
    """(B, F, K, 2) normalised screen coordinates -> (B, F, J, 3) metres, root-relative, camera axes."""

    def __init__(self, frames: int, adjacency: torch.Tensor, correspondence: torch.Tensor | None = None,
                 channels: int = 512, depth: int = 7, heads: int = 8, mlp_ratio: float = 2.0, kpa: bool = True,
                 tpa: bool = True, drop_path: float = 0.1):
        """Build the model with fresh weights.

        Args:
            frames: length of a window.
            adjacency: (K, K) normalised graph of the keypoint layout.
            correspondence: (J, K) initial weights that make joints from keypoints; None where the two are the same.
            depth: number of pairs of blocks after the two that carry the priors.
            drop_path: rate of the last pair; it rises from 0 in the first two blocks.

        Raises:
            ValueError: the heads do not divide the channels.
        """
        super().__init__()
        if min(frames, channels, depth, heads) < 1:
            raise ValueError(f'{frames} frames, {channels} channels, depth {depth} and {heads} heads: each must be at '
                             f'least 1')
        self.frames, self.keypoints = frames, len(adjacency)
        rates = torch.linspace(0, drop_path, depth + 1).tolist()

        def block(attn: Attention, norm1: nn.Module, rate: float) -> Block:
            mlp = Mlp(channels, round(channels * mlp_ratio))
            return Block(attn, norm1, LayerNorm(channels, eps=1e-6), mlp, rate)

        def plain_block(over: str, rate: float) -> Block:
            return block(Attention(channels, heads, over), LayerNorm(channels, eps=1e-6), rate)

        # The two attentions with a prior bring their own first norm, under the name it has in public files.
        self.kpattention = block(KPAttention(channels, heads, adjacency, kpa), nn.Identity(), rates[0])
        self.tpattention = block(TPAttention(channels, heads, frames, tpa), nn.Identity(), rates[0])
        self.STEblocks = nn.ModuleList(plain_block(JOINTS, rate) for rate in rates[1:])
        self.TTEblocks = nn.ModuleList(plain_block(FRAMES, rate) for rate in rates[1:])
        self.Spatial_norm = LayerNorm(channels, eps=1e-6)
        self.Temporal_norm = LayerNorm(channels, eps=1e-6)
        self.correspondence = None if correspondence is None else nn.Parameter(correspondence.clone())
        self.head = nn.Sequential(LayerNorm(channels), nn.Linear(channels, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, F, K, 2) -> (B, F, J, 3). Raises ValueError for another F or K than the model's."""
        if x.shape[1:] != (self.frames, self.keypoints, 2):
            raise ValueError(f'expected keypoints (B, {self.frames}, {self.keypoints}, 2), got {tuple(x.shape)}')
        x = self.kpattention.attn.embed(x).to(self.tokens or x.dtype)  # (B, F, K, C) from here on
        x = self.Spatial_norm(self.through(self.kpattention, x))
        x = self.tpattention.attn.embed(x)
        x = self.Temporal_norm(self.through(self.tpattention, x))
        for over_joints, over_frames in zip(self.STEblocks, self.TTEblocks, strict=True):
            x = self.Spatial_norm(self.through(over_joints, x))
            x = self.Temporal_norm(self.through(over_frames, x))
        x = x.to(self.head[1].weight.dtype)
        if self.correspondence is not None:
            x = torch.matmul(self.correspondence, x)  # (J, K) @ (B, F, K, C)
        return self.head(x)
