"""KTPFormer's two priors, which come before attention: kinematics (KPA) and trajectories (TPA).

Source: Peng, Zhou and Mok, "KTPFormer: Kinematics and Trajectory Prior Knowledge-Enhanced Transformer for 3D Human Pose
Estimation", CVPR 2024, §3.2 and §3.3. Letters: B windows, F frames, J joints, C channels.
"""

import torch
from torch import nn

from common.models.graph_conv import GraphLayer


class KPA(GraphLayer):
    """Kinematics prior: embed each frame's keypoints through the graph of the skeleton."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embed keypoints (B, F, J, 2) as tokens (B, F, J, C)."""
        return super().forward(x.flatten(0, 1)[:, :, None]).view(*x.shape[:3], self.bn.num_features)


class TPA(nn.Module):
    """Trajectory prior: pass each joint's track twice through the graph of its frames, with a residual connection."""

    def __init__(self, channels: int, adjacency: torch.Tensor):
        super().__init__()
        self.gconv1 = GraphLayer(channels, channels, adjacency)
        self.gconv2 = GraphLayer(channels, channels, adjacency)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to tokens x (B, F, J, C) -> (B, F, J, C); frames are the nodes, joints the copies."""
        return x + self.gconv2(self.gconv1(x))
