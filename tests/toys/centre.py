"""A toy centre-frame network: convolutions over time that shrink a window to its middle frame.

In the manner of Pavllo et al., "3D human pose estimation in video with temporal convolutions and semi-supervised
training", CVPR 2019: one window in, one pose out, each convolution with the stride of its kernel. Letters: B windows, F
frames, K keypoints in, J joints out, C channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from common.models.lifter import Lifter, check_sizes
from common.recipe import Recipe
from common.skeleton import Skeleton


@dataclass(frozen=True)
class CentreConfig:
    """The sizes of a centre-frame network. Raises ValueError for sizes that cannot be."""

    frames: int = 27
    channels: int = 64

    def __post_init__(self) -> None:
        check_sizes(self, 'frames', 'channels')
        if self.frames % 2 == 0:
            raise ValueError(f'{self.frames} frames have none in their middle: take an odd number')

    @property
    def kernels(self) -> tuple[int, ...]:
        """Return the widths of the convolutions, whose product is the receptive field: the prime factors of F."""
        rest, widths = self.frames, []
        while rest > 1:
            widths.append(next(width for width in range(3, rest + 1, 2) if rest % width == 0))
            rest //= widths[-1]
        return tuple(widths)


class Block(nn.Module):
    """A convolution with the stride of its kernel, beside the middle entry of each group."""

    def __init__(self, channels: int, kernel: int, dropout: float):
        super().__init__()
        self.middle, self.kernel = kernel // 2, kernel
        self.conv = nn.Conv1d(channels, channels, kernel, stride=kernel, bias=False)
        self.norm = nn.BatchNorm1d(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, C, n * kernel) -> (B, C, n)."""
        return x[:, :, self.middle::self.kernel] + self.dropout(torch.relu(self.norm(self.conv(x))))


class CentreNet(Lifter):
    """(B, F, K, 2) normalised screen coordinates -> (B, 1, J, 3) metres: the pose of the middle frame."""

    title = 'Toy centre net'
    Config = CentreConfig
    fewest = 2  # the last batch norm sees one position of each window
    recipe = Recipe(epochs=2, batch=64, optimizer='amsgrad', lr=1e-3, lr_decay=0.95, loss='mpjpe', objective='plain',
                    root='predicted', seed=7, dropout=0.1)

    def __init__(self, config: CentreConfig, skeleton: Skeleton, layout: Skeleton, dropout: float = 0.1):
        super().__init__(config)
        self.joints = len(skeleton)
        self.embed = nn.Conv1d(2 * len(layout), config.channels, 1)
        self.blocks = nn.ModuleList(Block(config.channels, kernel, dropout) for kernel in config.kernels)
        self.head = nn.Conv1d(config.channels, 3 * self.joints, 1)

    @classmethod
    def window(cls, config: CentreConfig) -> tuple[int, range]:
        """Return the receptive field, and its middle frame as the one that comes out."""
        field = math.prod(config.kernels)
        pad = (field - 1) // 2
        return field, range(pad, pad + 1)

    def forward(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Lift keypoints (B, F, K, 2) to poses (B, 1, J, 3)."""
        x = self.embed(keypoints.flatten(2).mT)  # (B, C, F)
        for block in self.blocks:
            x = block(x)  # not `through`: computed twice, its batch norm would count every step twice
        return self.head(x).mT.unflatten(-1, (self.joints, 3))  # (B, 1, J, 3)
