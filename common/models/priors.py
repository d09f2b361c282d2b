"""KTPFormer's two priors: what is known about bodies (KPA) and about motion (TPA) before attention looks.

Source: Peng, Zhou and Mok, "KTPFormer: Kinematics and Trajectory Prior Knowledge-Enhanced Transformer for 3D Human Pose
Estimation", CVPR 2024, §3.2 and §3.3. Letters: B windows, F frames, J joints, C channels.
"""

import torch
from torch import nn

from common.models.graph_conv import ModulatedGraphConv


class GraphLayer(nn.Module):
    """Graph convolution, batch normalisation over all tokens, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, adjacency: torch.Tensor):
        super().__init__()
        self.gconv = ModulatedGraphConv(channels_in, channels_out, adjacency)
        self.bn = nn.BatchNorm1d(channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, N, K, C_in) -> (B, N, K, C_out), nodes N, copies K."""
        x = self.gconv(x)
        return torch.relu(self.bn(x.flatten(0, 2))).view_as(x)


class KPA(GraphLayer):
    """Kinematics prior: every frame's keypoints, embedded through the graph of the skeleton."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keypoints (B, F, J, 2) -> tokens (B, F, J, C)."""
        return super().forward(x.flatten(0, 1)[:, :, None]).view(*x.shape[:3], self.bn.num_features)


class TPA(nn.Module):
    """Trajectory prior: every joint's track, passed twice through the graph of its frames, beside itself."""

    def __init__(self, channels: int, adjacency: torch.Tensor):
        super().__init__()
        self.gconv1 = GraphLayer(channels, channels, adjacency)
        self.gconv2 = GraphLayer(channels, channels, adjacency)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, F, J, C) -> (B, F, J, C): frames are the nodes, joints the copies."""
        return x + self.gconv2(self.gconv1(x))
