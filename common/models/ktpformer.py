"""KTPFormer: 2D keypoints of a window to 3D poses of all its frames, by attention over joints and frames in turn.

Source: Peng, Zhou and Mok, "KTPFormer: Kinematics and Trajectory Prior Knowledge-Enhanced Transformer for 3D Human Pose
Estimation", CVPR 2024. Without its priors (kpa=False, tpa=False) it is the MixSTE-style baseline.
Letters: B windows, F frames, K keypoints in, J joints out, C channels. Parameter names are those of the public
checkpoints, which therefore load as they are.
"""

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn

from common.models import graph
from common.models.denoiser import TimeEmbedding, check_noisy
from common.models.layers import FRAMES, JOINTS, Attention, AttentionT, Block, LayerNorm, Mlp, joints_from_keypoints
from common.models.lifter import Lifter, check_sizes, shape_in, usual_heads
from common.models.priors import KPA, TPA
from common.recipe import Published, Recipe
from common.skeleton import Skeleton


@dataclass(frozen=True)
class KTPFormerConfig:
    """The sizes of a KTPFormer.

    Attributes:
        frames: length of a window.
        depth: number of pairs of blocks after the two that carry the priors.
        mlp_ratio: width of the MLPs over channels.
        kpa, tpa: whether it has the kinematics prior and the trajectory prior.
        confidence: whether it reads the detector's confidence beside each keypoint.

    Raises ValueError for sizes that cannot be.
    """

    frames: int = 243
    channels: int = 512
    depth: int = 7
    heads: int = 8
    mlp_ratio: float = 2.0
    kpa: bool = True
    tpa: bool = True
    confidence: bool = False

    not_in_a_file = ('heads',)

    def __post_init__(self) -> None:
        check_sizes(self, 'frames', 'channels', 'depth', 'heads')
        if self.channels % self.heads:
            raise ValueError(f'{self.channels} channels cannot be divided among {self.heads} heads')

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> 'KTPFormerConfig':
        """Read the sizes from the shapes of a public state dict, which does not tell the heads: the usual 8, or fewer
        where 8 do not divide the channels.

        Raises ValueError when the weights are not KTPFormer's.
        """
        _, frames, channels = shape_in(state, 'tpattention.attn.Temporal_pos_embed', 3)
        shape_in(state, 'kpattention.attn.Spatial_pos_embed', 3)
        hidden, _ = shape_in(state, 'kpattention.mlp.fc1.weight', 2)
        depth = len({key.split('.')[1] for key in state if key.startswith('STEblocks.')})
        kpa = 'kpattention.attn.kpa.gconv.W' in state
        inputs = shape_in(state, 'kpattention.attn.kpa.gconv.W', 3)[1] if kpa else \
            shape_in(state, 'kpattention.attn.kpa.weight', 2)[1]
        return cls(frames, channels, depth, usual_heads(channels), hidden / channels, kpa,
                   'tpattention.attn.tpa.gconv1.gconv.W' in state, inputs == 3)


class KPAttention(Attention):
    """Attention over joints whose tokens are made by the kinematics prior."""

    def __init__(self, channels: int, heads: int, adjacency: torch.Tensor, kpa: bool, inputs: int = 2):
        super().__init__(channels, heads, JOINTS)
        self.kpa = KPA(inputs, channels, adjacency) if kpa else nn.Linear(inputs, channels)
        self.Spatial_pos_embed = nn.Parameter(torch.zeros(1, len(adjacency), channels))
        self.norm1 = LayerNorm(channels)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Embed keypoints (B, F, K, 2, 3 or 5) as tokens (B, F, K, C)."""
        return self.kpa(x) + self.Spatial_pos_embed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise and attend: x (B, F, K, C) -> (B, F, K, C)."""
        return super().forward(self.norm1(x))


class TPAttention(Attention):
    """Attention over frames whose tokens went through the trajectory prior."""

    def __init__(self, channels: int, heads: int, frames: int, tpa: bool):
        super().__init__(channels, heads, FRAMES)
        self.tpa = TPA(channels, torch.from_numpy(graph.chain(frames))) if tpa else nn.Identity()
        self.Temporal_pos_embed = nn.Parameter(torch.zeros(1, frames, channels))
        self.norm1 = LayerNorm(channels)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Put tokens (B, F, K, C) through the trajectory prior -> (B, F, K, C)."""
        return self.tpa(x) + self.Temporal_pos_embed[:, :, None].to(x.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise and attend: x (B, F, K, C) -> (B, F, K, C)."""
        return super().forward(self.norm1(x))


class KTPFormer(Lifter):
    """(B, F, K, 2) normalised screen coordinates -> (B, F, J, 3) metres, root-relative, camera axes."""

    title = 'KTPFormer'
    Config = KTPFormerConfig
    recipe = Recipe(epochs=200, batch=1024, optimizer='adamw', lr=8e-5, lr_decay=0.99, weight_decay=0.1, drop_path=0.1,
                    loss='weighted', objective='half-square', root='predicted', seed=1234)
    paper = 'Peng, Zhou and Mok, CVPR 2024'
    results = (Published('cpn_ft_h36m_dbb', 243, 40.1, 31.9, 'published'),
               Published('gt', 243, 19.0, None, 'published'),
               Published('cpn_ft_h36m_dbb', 243, 33.0, 26.2, 'issue',
                         'in D3DP, J-Best of 20 hypotheses, which reads the answer'))
    public_keys = ('kpattention.attn.Spatial_pos_embed', 'tpattention.attn.Temporal_pos_embed')
    published = MappingProxyType({('h36m', 'cpn_ft_h36m_dbb'): ('KTPFormer, 243 frames, published P-MPJPE', {
        'Directions': 30.1, 'Discussion': 32.3, 'Eating': 29.6, 'Greeting': 30.8, 'Phoning': 32.3, 'Photo': 37.3,
        'Posing': 30.0, 'Purchases': 30.2, 'Sitting': 41.0, 'SittingDown': 45.3, 'Smoking': 33.6, 'Waiting': 29.9,
        'WalkDog': 31.4, 'Walking': 21.5, 'WalkTogether': 22.6})})
    denoises = True

    def __init__(self, config: KTPFormerConfig, skeleton: Skeleton, layout: Skeleton, drop_path: float = 0.1,
                 noisy: bool = False):
        """Build the model with fresh weights.

        Args:
            drop_path: rate of the last pair; it rises from 0 in the first two blocks.
            noisy: whether it is a denoiser, which reads noisy poses and their times beside the keypoints.

        Raises ValueError for a denoiser whose keypoints are not the joints, or that would read their confidence.
        """
        super().__init__(config)
        frames, channels, depth, heads = config.frames, config.channels, config.depth, config.heads
        mlp_ratio, kpa, tpa = config.mlp_ratio, config.kpa, config.tpa
        adjacency = graph.of_layout(layout)
        self.keypoints, self.inputs = len(layout), 5 if noisy else 3 if config.confidence else 2
        self.needs = frozenset({'confidence'} if config.confidence else ())
        if noisy:
            check_noisy(skeleton, layout, config.confidence)
            self.time_mlp = TimeEmbedding(channels)
        rates = torch.linspace(0, drop_path, depth + 1).tolist()

        def block(attn: AttentionT, norm1: nn.Module, rate: float) -> Block[AttentionT]:
            mlp = Mlp(channels, round(channels * mlp_ratio))
            return Block(attn, norm1, LayerNorm(channels, eps=1e-6), mlp, rate)

        def plain_block(over: str, rate: float) -> Block[Attention]:
            return block(Attention(channels, heads, over), LayerNorm(channels, eps=1e-6), rate)

        # The two attentions with a prior bring their own first norm, under the name it has in public files.
        self.kpattention = block(KPAttention(channels, heads, adjacency, kpa, self.inputs), nn.Identity(), rates[0])
        self.tpattention = block(TPAttention(channels, heads, frames, tpa), nn.Identity(), rates[0])
        self.STEblocks = nn.ModuleList(plain_block(JOINTS, rate) for rate in rates[1:])
        self.TTEblocks = nn.ModuleList(plain_block(FRAMES, rate) for rate in rates[1:])
        self.Spatial_norm = LayerNorm(channels, eps=1e-6)
        self.Temporal_norm = LayerNorm(channels, eps=1e-6)
        self.correspondence = joints_from_keypoints(skeleton, layout)
        self.head = nn.Sequential(LayerNorm(channels), nn.Linear(channels, 3))

    def forward(self, x: torch.Tensor, time: torch.Tensor | None = None) -> torch.Tensor:
        """Lift x (B, F, K, 2) -> (B, F, J, 3); with confidence (B, F, K, 3); as a denoiser (B, F, K, 5) and the time
        (B,) of each window.

        Raises ValueError for another F or K than the model's.
        """
        if x.shape[1:] != (self.frames, self.keypoints, self.inputs):
            raise ValueError(f'expected keypoints (B, {self.frames}, {self.keypoints}, {self.inputs}), got '
                             f'{tuple(x.shape)}')
        x = self.kpattention.attn.embed(x)  # (B, F, K, C) from here on
        if time is not None:
            x = x + self.time_mlp(time)[:, None, None]
        x = x.to(self.tokens or x.dtype)
        x = self.Spatial_norm(self.through(self.kpattention, x))
        x = self.tpattention.attn.embed(x)
        x = self.Temporal_norm(self.through(self.tpattention, x))
        for over_joints, over_frames in zip(self.STEblocks, self.TTEblocks, strict=True):
            x = self.Spatial_norm(self.through(over_joints, x))
            x = self.Temporal_norm(self.through(over_frames, x))
        x = x.to(self.Temporal_norm.weight.dtype)
        if self.correspondence is not None:
            x = torch.matmul(self.correspondence, x)  # (J, K) @ (B, F, K, C)
        return self.head(x)
