"""A toy model that reads the lens: it lifts the rays on which keypoints lie, one frame at a time.

Letters: B windows, F = 1 frame, K keypoints in, J joints out.
"""

from dataclasses import dataclass

import torch
from torch import nn

from common.models.lifter import Lifter, check_sizes
from common.recipe import Recipe
from common.skeleton import Skeleton


@dataclass(frozen=True)
class LensConfig:
    """The sizes of a network on rays. Raises ValueError for sizes that cannot be."""

    channels: int = 32

    def __post_init__(self) -> None:
        check_sizes(self, 'channels')


class LensNet(Lifter):
    """(B, 1, K, 2) normalised screen coordinates and (B, 9) lenses -> (B, 1, J, 3) metres."""

    title = 'Toy lens net'
    Config = LensConfig
    needs = frozenset({'intrinsic'})
    recipe = Recipe(epochs=2, batch=32, optimizer='adamw', lr=1e-3, lr_decay=0.99, loss='mpjpe', objective='plain',
                    root='zero', seed=5)

    def __init__(self, config: LensConfig, skeleton: Skeleton, layout: Skeleton):
        super().__init__(config)
        self.joints = len(skeleton)
        self.layers = nn.Sequential(nn.Linear(2 * len(layout), config.channels), nn.ReLU(),
                                    nn.Linear(config.channels, 3 * self.joints))

    def forward(self, keypoints: torch.Tensor, intrinsic: torch.Tensor) -> torch.Tensor:
        """Lift keypoints (B, 1, K, 2), seen through lenses (B, 9), to poses (B, 1, J, 3)."""
        focal, centre = (part[:, None, None] for part in (intrinsic[:, :2], intrinsic[:, 2:4]))  # (B, 1, 1, 2)
        rays = (keypoints - centre) / focal  # (B, 1, K, 2)
        return self.layers(rays.flatten(2)).unflatten(-1, (self.joints, 3))
