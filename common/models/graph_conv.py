"""The modulated graph convolution that KTPFormer's priors and HTNet's local joints are made of.

Source: Zou and Tang, "Modulated Graph Convolutional Network for 3D Human Pose Estimation", ICCV 2021: a weight
modulation per node and a learned correction of the graph. Letters: B batch, N nodes, K copies of the graph that share
their parameters, C channels.
"""

import math

import torch
from torch import nn


class ModulatedGraphConv(nn.Module):
    """out = diag(G) ⊙ M ⊙ (X W₀) + offdiag(G) · (M ⊙ (X W₁)) + bias, with G the symmetric part of A + adj2."""

    def __init__(self, channels_in: int, channels_out: int, adjacency: torch.Tensor, random_modulation: bool = False):
        """Build it with fresh weights.

        Args:
            adjacency: (N, N) normalised graph, kept as a constant; `adj2` learns what it lacks.
            random_modulation: M starts Xavier-uniform, as in HTNet, and not at 1.
        """
        super().__init__()
        n = len(adjacency)
        self.register_buffer('adjacency', adjacency.clone(), persistent=False)
        self.W = nn.Parameter(torch.empty(2, channels_in, channels_out))
        self.M = nn.Parameter(torch.ones(n, channels_out))
        self.adj2 = nn.Parameter(torch.full((n, n), 1e-6))
        self.bias = nn.Parameter(torch.empty(channels_out))
        nn.init.xavier_uniform_(self.W, gain=1.414)
        if random_modulation:
            nn.init.xavier_uniform_(self.M, gain=1.414)
        bound = 1 / math.sqrt(channels_out)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, N, K, C_in) -> (B, N, K, C_out)."""
        graph = self.adjacency + self.adj2
        graph = (graph + graph.T) / 2
        diagonal = graph.diagonal()
        off_diagonal = graph - torch.diag(diagonal)
        if len(x) == 1 and x.shape[2] > len(self.W[0]):
            # More copies than channels: scaled weights for each node cost less than scaled results.
            own_weight = (diagonal[:, None] * self.M)[:, None] * self.W[0]  # (N, C_in, C_out)
            own = torch.baddbmm(self.bias.expand(1, 1, -1), x[0], own_weight)  # (N, K, C_out)
            others = torch.bmm(x[0], self.M[:, None] * self.W[1])
            return torch.addmm(own.flatten(1), off_diagonal, others.flatten(1)).view_as(own)[None]
        modulation = self.M[:, None]  # (N, 1, C_out)
        own = (diagonal[:, None] * self.M)[:, None] * (x @ self.W[0])
        others = (modulation * (x @ self.W[1])).flatten(2)  # (B, N, K*C_out): the node axis is mixed, the rest stays
        mixed = torch.matmul(off_diagonal, others)
        return own + mixed.view_as(own) + self.bias
