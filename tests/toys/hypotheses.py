"""A toy model with two hypotheses for each frame of a window, and their mean as the headline.

Attention over the frames of each keypoint's track, with the layers that all models share. Letters: B windows, F frames,
K keypoints in, J joints out, C channels.
"""

from dataclasses import dataclass

import torch
from torch import nn

from common.augment import Batch, Mirror
from common.models.layers import FRAMES, Attention, Block, LayerNorm, Mlp, joints_from_keypoints
from common.models.lifter import Criterion, Lifter, check_sizes
from common.recipe import Recipe
from common.skeleton import Skeleton

NAMES = ('first', 'second', 'mean')


@dataclass(frozen=True)
class HypothesesConfig:
    """The sizes of a model of two hypotheses. Raises ValueError for sizes that cannot be."""

    frames: int = 9
    channels: int = 32
    depth: int = 1
    heads: int = 2

    def __post_init__(self) -> None:
        check_sizes(self, 'frames', 'channels', 'depth', 'heads')
        if self.channels % self.heads:
            raise ValueError(f'{self.channels} channels cannot be divided among {self.heads} heads')


class Hypotheses(Lifter):
    """(B, F, K, 2) normalised screen coordinates -> (B, F, J, 3) metres: the mean of two hypotheses."""

    title = 'Toy hypotheses'
    Config = HypothesesConfig
    recipe = Recipe(epochs=2, batch=90, optimizer='adamw', lr=1e-3, lr_decay=0.99, loss='weighted', objective='plain',
                    root='zero', seed=3, drop_path=0.1)

    def __init__(self, config: HypothesesConfig, skeleton: Skeleton, layout: Skeleton, drop_path: float = 0.1):
        super().__init__(config)
        channels = config.channels
        self.embed = nn.Linear(2, channels)
        self.place = nn.Parameter(torch.zeros(config.frames, len(layout), channels))
        self.blocks = nn.ModuleList(
            Block(Attention(channels, config.heads, FRAMES), LayerNorm(channels), LayerNorm(channels),
                  Mlp(channels, 2 * channels), drop_path) for _ in range(config.depth))
        self.correspondence = joints_from_keypoints(skeleton, layout)
        self.head = nn.Linear(channels, 2 * 3)

    def hypotheses(self, keypoints: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Lift keypoints (B, F, K, 2) to two poses, each (B, F, J, 3)."""
        x = self.embed(keypoints) + self.place  # (B, F, K, C)
        for block in self.blocks:
            x = self.through(block, x)
        if self.correspondence is not None:
            x = self.correspondence @ x  # (B, F, J, C)
        return self.head(x).chunk(2, dim=-1)

    def forward(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Lift keypoints (B, F, K, 2) to the mean of both hypotheses, (B, F, J, 3)."""
        first, second = self.hypotheses(keypoints)
        return (first + second) / 2

    def loss(self, batch: Batch, criterion: Criterion) -> torch.Tensor:
        """Return the mean of the hypotheses' losses."""
        first, second = (criterion(poses, batch.poses) for poses in self.hypotheses(batch.keypoints))
        return (first + second) / 2

    def lift(self, view: Batch, mirror: Mirror) -> dict[str, torch.Tensor]:
        """Return both hypotheses and their mean, each the mean of the plain and the mirrored-and-back one."""
        both = self.hypotheses(view.beside(mirror.batch(view)).keypoints)
        first, second = ((plain + mirror.poses(mirrored)) / 2 for plain, mirrored in (pose.chunk(2) for pose in both))
        return dict(zip(NAMES, (first, second, (first + second) / 2), strict=True))
