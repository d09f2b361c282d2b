"""MixSTE: 2D keypoints of a window to 3D poses of all its frames, by attention over joints and frames in turn.

Source: Zhang, Tu, Yang, Chen and Yuan, "MixSTE: Seq2seq Mixed Spatio-Temporal Encoder for 3D Human Pose Estimation in
Video", CVPR 2022 (arXiv 2203.00859). As a denoiser it is that of D3DP (Shan et al., ICCV 2023, arXiv 2303.11579).
Letters: B windows, F frames, K keypoints in, J joints out, C channels. Parameter names are those of the public
checkpoints, which therefore load as they are.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from common.models.denoiser import TimeEmbedding, check_noisy
from common.models.layers import FRAMES, JOINTS, Attention, Block, LayerNorm, Mlp, joints_from_keypoints
from common.models.lifter import Lifter, check_sizes, shape_in, usual_heads
from common.recipe import Published, Recipe
from common.skeleton import Skeleton


@dataclass(frozen=True)
class MixSTEConfig:
    """The sizes of a MixSTE: `depth` pairs of blocks, MLPs `mlp_ratio` times as wide as the tokens.

    Raises ValueError for sizes that cannot be.
    """

    frames: int = 243
    channels: int = 512
    depth: int = 8
    heads: int = 8
    mlp_ratio: float = 2.0

    not_in_a_file: ClassVar[tuple[str, ...]] = ('heads',)

    def __post_init__(self) -> None:
        check_sizes(self, 'frames', 'channels', 'depth', 'heads')
        if self.channels % self.heads:
            raise ValueError(f'{self.channels} channels cannot be divided among {self.heads} heads')

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> 'MixSTEConfig':
        """Read the sizes from the shapes of a public state dict, which does not tell the heads: the usual 8, or fewer
        where 8 do not divide the channels.

        Raises ValueError when the weights are not MixSTE's.
        """
        _, frames, channels = shape_in(state, 'Temporal_pos_embed', 3)
        hidden, _ = shape_in(state, 'STEblocks.0.mlp.fc1.weight', 2)
        depth = len({key.split('.')[1] for key in state if key.startswith('STEblocks.')})
        return cls(frames, channels, depth, usual_heads(channels), hidden / channels)


class MixSTE(Lifter):
    """(B, F, K, 2) normalised screen coordinates -> (B, F, J, 3) metres, root-relative, camera axes."""

    title = 'MixSTE'
    Config = MixSTEConfig
    recipe = Recipe(epochs=120, batch=1024, stride_limit=243, optimizer='adamw', lr=4e-5, lr_decay=0.99,
                    weight_decay=0.1, drop_path=0.1, loss='weighted', objective='half-square', root='predicted',
                    seed=1234)
    paper = 'Zhang et al., CVPR 2022'
    results = (Published('cpn_ft_h36m_dbb', 243, 40.9, 32.6, 'leaderboard'),
               Published('cpn_ft_h36m_dbb', 81, 42.4, None, 'leaderboard'),
               Published('HRNet', 243, 39.8, None, 'leaderboard'),
               Published('gt', 243, 21.6, None, 'leaderboard'),
               Published('gt', 81, 25.9, None, 'leaderboard'),
               Published('cpn_ft_h36m_dbb', 243, 39.5, None, 'leaderboard',
                         'in D3DP, J-Agg of 20 hypotheses, which reads the camera and the true position of the root'),
               Published('cpn_ft_h36m_dbb', 243, 35.4, None, 'leaderboard',
                         'in D3DP, J-Best of 20 hypotheses, which reads the answer'))
    public_keys = ('Spatial_pos_embed', 'Spatial_patch_to_embedding.weight')
    denoises = True

    def __init__(self, config: MixSTEConfig, skeleton: Skeleton, layout: Skeleton, drop_path: float = 0.1,
                 noisy: bool = False):
        """Build the model with fresh weights.

        Args:
            drop_path: rate of the last pair; it rises from 0 in the first.
            noisy: whether it is a denoiser, which reads noisy poses and their times beside the keypoints.

        Raises ValueError for a denoiser whose keypoints are not the joints.
        """
        super().__init__(config)
        channels = config.channels
        self.inputs = 5 if noisy else 2
        self.keypoints = len(layout)
        if noisy:
            check_noisy(skeleton, layout)
            self.time_mlp = TimeEmbedding(channels)

        def block(over: str, rate: float) -> Block[Attention]:
            return Block(Attention(channels, config.heads, over), LayerNorm(channels, eps=1e-6),
                         LayerNorm(channels, eps=1e-6), Mlp(channels, round(channels * config.mlp_ratio)), rate)

        rates = torch.linspace(0, drop_path, config.depth, device='cpu').tolist()
        self.Spatial_patch_to_embedding = nn.Linear(self.inputs, channels)
        self.Spatial_pos_embed = nn.Parameter(torch.zeros(1, len(layout), channels))
        self.Temporal_pos_embed = nn.Parameter(torch.zeros(1, config.frames, channels))
        self.STEblocks = nn.ModuleList(block(JOINTS, rate) for rate in rates)
        self.TTEblocks = nn.ModuleList(block(FRAMES, rate) for rate in rates)
        self.Spatial_norm = LayerNorm(channels, eps=1e-6)
        self.Temporal_norm = LayerNorm(channels, eps=1e-6)
        self.correspondence = joints_from_keypoints(skeleton, layout)
        self.head = nn.Sequential(LayerNorm(channels), nn.Linear(channels, 3))

    def forward(self, x: torch.Tensor, time: torch.Tensor | None = None) -> torch.Tensor:
        """Lift x (B, F, K, 2) -> (B, F, J, 3); as a denoiser (B, F, K, 5) and the time (B,) of each window.

        Raises ValueError for another F or K than the model's.
        """
        if x.shape[1:] != (self.frames, self.keypoints, self.inputs):
            raise ValueError(f'expected keypoints (B, {self.frames}, {self.keypoints}, {self.inputs}), got '
                             f'{tuple(x.shape)}')
        x = self.Spatial_patch_to_embedding(x) + self.Spatial_pos_embed  # (B, F, K, C) from here on
        if time is not None:
            x = x + self.time_mlp(time)[:, None, None]
        x = x.to(self.tokens or x.dtype)
        for number, (over_joints, over_frames) in enumerate(zip(self.STEblocks, self.TTEblocks, strict=True)):
            x = self.Spatial_norm(self.through(over_joints, x))
            if number == 0:
                x = x + self.Temporal_pos_embed[:, :, None].to(x.dtype)
            x = self.Temporal_norm(self.through(over_frames, x))
        x = x.to(self.Temporal_norm.weight.dtype)
        if self.correspondence is not None:
            x = torch.matmul(self.correspondence, x)  # (J, K) @ (B, F, K, C)
        return self.head(x)
