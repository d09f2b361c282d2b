"""DSTformer, the network of MotionBERT: attention over joints and over frames, in both orders side by side.

Source: Zhu, Ma, Liu, Liu, Wu and Wang, "MotionBERT: A Unified Perspective on Learning Human Motion Representations",
ICCV 2023 (arXiv 2210.06551). Here it is trained from scratch, on poses. Letters: B windows, F frames, K keypoints in, J
joints out, C channels, R channels of the representation. Parameter names are those of the public checkpoints, which
therefore load as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from common.models.layers import FRAMES, JOINTS, Attention, LayerNorm, Mlp
from common.models.lifter import check_sizes, shape_in, usual_heads
from common.models.streams import SCALED, Fusion, Representation, TwoStreams
from common.recipe import Published, Recipe
from common.skeleton import Skeleton

EPS = 1e-6  # of all norms
STD = 0.02  # of all weights and positions at first


@dataclass(frozen=True)
class DSTformerConfig:
    """The sizes of a DSTformer. Raises ValueError for sizes that cannot be.

    Attributes:
        frames: length of a window.
        depth: number of pairs of blocks, one in each order.
        mlp_ratio: width of the MLPs over channels.
        representation: channels in front of the last layer.
        max_frames: longest window that there are positions for; 0 for `frames`.
    """

    frames: int = 243
    channels: int = 512
    depth: int = 5
    heads: int = 8
    mlp_ratio: float = 2.0
    representation: int = 512
    max_frames: int = 0

    not_in_a_file: ClassVar[tuple[str, ...]] = ('heads', 'frames')
    named: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        'full': {'frames': 243, 'channels': 512, 'depth': 5, 'mlp_ratio': 2.0},
        'lite': {'frames': 243, 'channels': 256, 'depth': 5, 'mlp_ratio': 4.0}}

    def __post_init__(self) -> None:
        check_sizes(self, 'frames', 'channels', 'depth', 'heads', 'representation')
        if self.channels % self.heads:
            raise ValueError(f'{self.channels} channels cannot be divided among {self.heads} heads')
        if not self.max_frames:
            object.__setattr__(self, 'max_frames', self.frames)
        if self.frames > self.max_frames:
            raise ValueError(f'{self.frames} frames in a window, expected at most the {self.max_frames} that it has '
                             f'positions for')

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> 'DSTformerConfig':
        """Read the sizes from the shapes of a public state dict.

        It does not tell the heads, here the usual 8, or fewer where 8 do not divide the channels; nor the frames of a
        window, here as many as it has positions for. Raises ValueError when the weights are not DSTformer's.
        """
        _, frames, _, channels = shape_in(state, 'temp_embed', 4)
        shape_in(state, 'pos_embed', 3)
        hidden, _ = shape_in(state, 'blocks_st.0.mlp_s.fc1.weight', 2)
        representation, _ = shape_in(state, 'pre_logits.fc.weight', 2)
        depth = len({key.split('.')[1] for key in state if key.startswith('blocks_st.')})
        return cls(frames, channels, depth, usual_heads(channels), hidden / channels, representation, frames)


class Block(nn.Module):
    """Attention and MLP over joints, then both over frames (_s, _t), or the other way round; each beside its input."""

    def __init__(self, channels: int, heads: int, hidden: int, frames_first: bool):
        super().__init__()
        self.frames_first = frames_first
        self.norm1_s, self.norm1_t, self.norm2_s, self.norm2_t = (LayerNorm(channels, EPS) for _ in range(4))
        self.attn_s, self.attn_t = (Attention(channels, heads, over) for over in (JOINTS, FRAMES))
        self.mlp_s, self.mlp_t = (Mlp(channels, hidden) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to tokens x (B, F, K, C) -> (B, F, K, C)."""
        over_joints = (self.norm1_s, self.attn_s), (self.norm2_s, self.mlp_s)
        over_frames = (self.norm1_t, self.attn_t), (self.norm2_t, self.mlp_t)
        steps = (*over_frames, *over_joints) if self.frames_first else (*over_joints, *over_frames)
        for norm, branch in steps:
            x = x + branch(norm(x))
        return x


class DSTformer(TwoStreams):
    """(B, F, K, 3) keypoints with confidence -> (B, F, J, 3): see `TwoStreams`. F may be any up to `max_frames`."""

    title = 'DSTformer'
    Config = DSTformerConfig
    recipe = Recipe(epochs=120, batch=32 * 243, windows=32, stride_limit=243, optimizer='adamw', lr=2e-4, lr_decay=0.99,
                    weight_decay=0.01, loss='motion', objective='plain', root='zero', seed=0)
    public_keys = ('pos_embed', 'temp_embed')
    paper = 'Zhu et al. (MotionBERT), ICCV 2023'
    results = (
        Published('Stacked Hourglass', 243, 39.2, 33.4, 'readme', f'from scratch, {SCALED}'),
        Published('Stacked Hourglass', 243, 37.2, 32.2, 'readme', f'pre-trained on other data, {SCALED}'),
        Published('gt', 243, 16.9, None, 'leaderboard',
                  f'pre-trained on other data, an error in depth alone, {SCALED}'),
    )

    def __init__(self, config: DSTformerConfig, skeleton: Skeleton, layout: Skeleton):
        """Build the model with fresh weights."""
        super().__init__(config, skeleton, layout, EPS)
        channels = config.channels
        self.temp_embed = nn.Parameter(torch.zeros(1, config.max_frames, 1, channels))
        self.blocks_st, self.blocks_ts = (
            nn.ModuleList(Block(channels, config.heads, round(channels * config.mlp_ratio), frames_first)
                          for _ in range(config.depth))
            for frames_first in (False, True))
        self.pre_logits = Representation(channels, config.representation)
        # Published is a cut at ±2 as well, which a deviation of 0.02 does not reach.
        for position in (self.pos_embed, self.temp_embed):
            nn.init.normal_(position, std=STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=STD)
                nn.init.zeros_(module.bias)
        self.ts_attn = nn.ModuleList(Fusion(channels) for _ in range(config.depth))

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Embed keypoints (B, F, K, 3) as tokens (B, F, K, C). Raises ValueError for other shapes."""
        tokens, longest = super().embed(x), self.temp_embed.shape[1]
        if x.shape[1] > longest:
            raise ValueError(f'expected windows of at most {longest} frames, got {x.shape[1]}')
        return tokens + self.temp_embed[:, :x.shape[1]]

    def streams(self, x: torch.Tensor) -> torch.Tensor:
        """Put tokens through all pairs of blocks: x (B, F, K, C) -> (B, F, K, C)."""
        for joints_first, frames_first, fusion in zip(self.blocks_st, self.blocks_ts, self.ts_attn, strict=True):
            x = fusion(self.through(joints_first, x), self.through(frames_first, x))
        return x

    def represent(self, x: torch.Tensor) -> torch.Tensor:
        """Make the representation of normalised tokens: x (B, F, J, C) -> (B, F, J, R)."""
        return self.pre_logits(x)
