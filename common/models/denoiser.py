"""What a sequence model needs to be a denoiser: to read noisy poses beside the keypoints, and how noisy they are.

Source: Shan et al., "Diffusion-Based 3D Human Pose Estimation with Multi-Hypothesis Aggregation" (D3DP), ICCV 2023,
arXiv 2303.11579. Letters: B windows, C channels.
"""

import math

import torch
from torch import nn

from common.skeleton import Skeleton


class Sines(nn.Module):
    """The time of each window as sines and cosines of falling frequency."""

    def __init__(self, channels: int):
        super().__init__()
        if channels < 4 or channels % 2:
            raise ValueError(f'a denoiser needs an even number of channels (-cs), at least 4, to be told how noisy a '
                             f'pose is; got {channels}')
        self.channels = channels

    def forward(self, time: torch.Tensor) -> torch.Tensor:
        """Embed times (B,) -> (B, C) float32.

        Products before exp, in float32 as published: times up to 999 magnify rounding, and another order shows.
        """
        half = self.channels // 2
        frequency = torch.exp(torch.arange(half, device=time.device) * -(math.log(10000) / (half - 1)))
        angle = time[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class TimeEmbedding(nn.Sequential):
    """(B,) times -> (B, C), under the names of D3DP's public checkpoints."""

    def __init__(self, channels: int):
        super().__init__(Sines(channels), nn.Linear(channels, 2 * channels), nn.GELU(),
                         nn.Linear(2 * channels, channels))


def check_noisy(skeleton: Skeleton, layout: Skeleton, confidence: bool = False) -> None:
    """Raise ValueError where the joints of poses are not the keypoints, beside which a denoiser reads them.

    It reads no confidence beside these.
    """
    if confidence:
        raise ValueError('a denoiser reads a noisy pose beside each keypoint, and no confidence')
    if layout != skeleton:
        raise ValueError(f'a denoiser reads a noisy joint beside each keypoint, which needs a keypoint for each joint, '
                         f'not {layout.name} for {skeleton.name}')
