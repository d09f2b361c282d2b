"""The modulated graph convolution, of which Modulated GCN, KTPFormer's priors and HTNet's local joint layers are made.

Source: Zou and Tang, "Modulated Graph Convolutional Network for 3D Human Pose Estimation", ICCV 2021: a weight
modulation per node and a learned correction of the graph. Letters: B batch, N nodes, K copies of the graph that share
their parameters, C channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from common.models.layers import dropout

FEW_CHANNELS = 4  # with so few input channels, products are bound by memory, not arithmetic


class ModulatedGraphConv(nn.Module):
    """out = diag(G) ⊙ M ⊙ (X W₀) + offdiag(G) · (M ⊙ (X W₁)) + bias, with G the symmetric part of A + adj2."""

    adjacency: torch.Tensor

    def __init__(self, channels_in: int, channels_out: int, adjacency: torch.Tensor, random_modulation: bool = False):
        """Initialise the weights.

        Args:
            adjacency: (N, N) normalised graph, kept as a constant; `adj2` learns a correction.
            random_modulation: initialise M Xavier-uniformly, as in HTNet and Modulated GCN, instead of with 1.
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
        """Convolve x (B, N, K, C_in) -> (B, N, K, C_out)."""
        graph = self.adjacency + self.adj2
        graph = (graph + graph.T) / 2
        diagonal = graph.diagonal()
        off_diagonal = graph - torch.diag(diagonal)
        weight_own, weight_others = self.W
        if len(weight_own) <= FEW_CHANNELS:
            # Work the graph into the weights, and take one product over all values of a graph side by side.
            own = torch.einsum('mn,mo,co->mcno', torch.diag(diagonal), self.M, weight_own)
            whole = own + torch.einsum('mn,mo,co->mcno', off_diagonal, self.M, weight_others)  # G is symmetric
            values = x.transpose(1, 2).flatten(2)  # (B, K, N*C_in)
            weight, bias = whole.flatten(2).flatten(0, 1).T, self.bias.repeat(len(graph))
            out = F.linear(values, weight.to(x.dtype), bias.to(x.dtype))
            return out.unflatten(2, (len(graph), -1)).transpose(1, 2)
        weight_own, weight_others, off_diagonal, own_scale, modulation, bias = (part.to(x.dtype) for part in (
            weight_own, weight_others, off_diagonal, diagonal[:, None] * self.M, self.M, self.bias))
        if x.shape[0] == 1 and (torch.compiler.is_exporting() or x.shape[2] > len(weight_own)):
            # With more copies than channels, scaling the weights for each node costs less than scaling the results.
            own = torch.baddbmm(bias.expand(1, 1, -1), x[0], own_scale[:, None] * weight_own)  # (N, K, C_out)
            others = torch.bmm(x[0], modulation[:, None] * weight_others)
            return torch.addmm(own.flatten(1), off_diagonal, others.flatten(1)).view_as(own)[None]
        own = torch.addcmul(bias, own_scale[:, None], x @ weight_own)  # (B, N, K, C_out)
        others = modulation[:, None] * (x @ weight_others)
        # The product mixes nodes only.
        mixed = torch.baddbmm(own.flatten(2), off_diagonal.expand(x.shape[0], -1, -1), others.flatten(2))
        return mixed.view_as(own)


class GraphLayer(nn.Module):
    """Graph convolution, batch normalisation over all tokens, ReLU, and dropout of single values, if any."""

    def __init__(self, channels_in: int, channels_out: int, adjacency: torch.Tensor, random_modulation: bool = False,
                 dropout: float = 0.0):
        """Initialise the weights. Graph and modulation are those of `ModulatedGraphConv`; `dropout` is a rate."""
        super().__init__()
        self.gconv = ModulatedGraphConv(channels_in, channels_out, adjacency, random_modulation)
        self.bn = nn.BatchNorm1d(channels_out)
        self.dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve, normalise and rectify x (B, N, K, C_in) -> (B, N, K, C_out), nodes N, copies K."""
        x = self.gconv(x)
        x = torch.relu(self.bn(x.flatten(0, 2))).view_as(x)
        return dropout(x, self.dropout) if self.training else x
