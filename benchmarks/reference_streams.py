"""References of DSTformer and MotionAGFormer, as the field writes them: plain eager fp32 PyTorch.

benchmarks/zoo.py compares the program with them. Neither uses anything of the other. Keys are those of public
checkpoints. Letters: B windows, F frames, J joints, N sequences, n nodes, C channels.
"""

import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.reference import Attention, Mlp
from benchmarks.reference_zoo import mpjpe

# What each joint of Human3.6M reads in MotionAGFormer.
LINKS = ((1, 7), (0, 2), (1, 3), (2,), (0, 5), (4, 6), (5,), (0, 8), (7, 9), (8, 10), (9,), (8, 12), (11, 13), (12,),
         (8, 15), (14, 16), (15,))


def over_frames(x: Tensor) -> Tensor:
    """Return tokens (B, F, J, C) as tracks (B*J, F, C)."""
    return x.permute(0, 2, 1, 3).reshape(-1, x.shape[1], x.shape[3])


def from_frames(tracks: Tensor, joints: int) -> Tensor:
    """Return tracks (B*J, F, C) as tokens (B, F, J, C)."""
    return tracks.reshape(-1, joints, *tracks.shape[1:]).permute(0, 2, 1, 3)


def motion_loss(p: Tensor, y: Tensor) -> Tensor:
    """Return MPJPE + 0.5 N-MPJPE + 20 velocity of (B, F, J, 3) twice, a scalar."""
    scale = (p * y).sum(dim=(2, 3), keepdim=True) / (p * p).sum(dim=(2, 3), keepdim=True)
    return mpjpe(p, y) + 0.5 * mpjpe(scale * p, y) + 20 * mpjpe(p[:, 1:] - p[:, :-1], y[:, 1:] - y[:, :-1])


def fuse(linear: nn.Linear, a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of two streams (..., C) by their weights at each token."""
    weights = linear(torch.cat([a, b], dim=-1)).softmax(dim=-1)
    return weights[..., :1] * a + weights[..., 1:] * b


class Head(nn.Module):
    """The layer in front of the last one, under its public name."""

    def __init__(self, channels: int, representation: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, representation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) -> (..., R)."""
        return torch.tanh(self.fc(x))


class Network(nn.Module):
    """What is around the streams."""

    def __init__(self, joints: int, channels: int, representation: int, eps: float) -> None:
        super().__init__()
        self.joints_embed = nn.Linear(3, channels)
        self.pos_embed = nn.Parameter(torch.zeros(1, joints, channels))
        self.norm = nn.LayerNorm(channels, eps)
        self.head = nn.Linear(representation, 3)

    def loss(self, keypoints: Tensor, poses: Tensor) -> Tensor:
        """Return the loss of keypoints with confidence (B, F, J, 3) against poses (B, F, J, 3)."""
        return motion_loss(self(keypoints), poses)


class TwoOrders(nn.Module):
    """A block of DSTformer over joints and over frames, in this order or the other."""

    def __init__(self, channels: int, heads: int, hidden: int, order: str) -> None:
        super().__init__()
        self.order = order
        for way in order:
            self.add_module(f'norm1_{way}', nn.LayerNorm(channels, eps=1e-6))
            self.add_module(f'norm2_{way}', nn.LayerNorm(channels, eps=1e-6))
            self.add_module(f'attn_{way}', Attention(channels, heads, 0.0))
            self.add_module(f'mlp_{way}', Mlp(channels, hidden, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, J, C) -> (B, F, J, C)."""
        part = dict(self.named_children())
        b, f, j, c = x.shape
        for way in self.order:
            x = over_frames(x) if way == 't' else x.reshape(b * f, j, c)
            x = x + part[f'attn_{way}'](part[f'norm1_{way}'](x))
            x = x + part[f'mlp_{way}'](part[f'norm2_{way}'](x))
            x = from_frames(x, j) if way == 't' else x.reshape(b, f, j, c)
        return x


class DSTformer(Network):
    """Keypoints with confidence (B, F, J, 3) -> poses (B, F, J, 3)."""

    def __init__(self, joints: int, frames: int, channels: int, depth: int, heads: int, hidden: int,
                 representation: int) -> None:
        super().__init__(joints, channels, representation, 1e-6)
        self.temp_embed = nn.Parameter(torch.zeros(1, frames, 1, channels))
        self.blocks_st = nn.ModuleList(TwoOrders(channels, heads, hidden, 'st') for _ in range(depth))
        self.blocks_ts = nn.ModuleList(TwoOrders(channels, heads, hidden, 'ts') for _ in range(depth))
        self.ts_attn = nn.ModuleList(nn.Linear(2 * channels, 2) for _ in range(depth))
        self.pre_logits = Head(channels, representation)

    def forward(self, x: Tensor) -> Tensor:
        """Lift (B, F, J, 3) -> (B, F, J, 3)."""
        x = self.joints_embed(x) + self.pos_embed + self.temp_embed[:, :x.shape[1]]
        for st, ts, fusion in zip(self.blocks_st, self.blocks_ts, self.ts_attn, strict=True):
            x = fuse(fusion, st(x), ts(x))
        return self.head(self.pre_logits(self.norm(x)))


class GraphMixer(nn.Module):
    """A graph convolution of normed tokens (N, n, C), with a given graph or one of the nearest nodes."""

    def __init__(self, channels: int, nodes: int, neighbours: int, graph: Tensor | None = None) -> None:
        super().__init__()
        self.neighbours, self.graph = neighbours, graph
        self.U, self.V = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.batch_norm = nn.BatchNorm1d(nodes)
        for linear in (self.U, self.V):
            linear.weight.data.normal_(0, math.sqrt(2 / channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, n, C) -> (N, n, C)."""
        if self.graph is None:
            products = x @ x.transpose(1, 2)
            graph = (products >= products.topk(self.neighbours, dim=-1)[0][..., -1:]).float()
        else:
            graph = self.graph.to(x.device).expand(len(x), -1, -1)
        degree = graph.sum(dim=-1) ** -0.5
        graph = degree.unsqueeze(-1) * graph * degree.unsqueeze(-2)
        return torch.relu(x + self.batch_norm(graph @ self.V(x) + self.U(x)))


class UnbiasedAttention(Attention):
    """Attention whose packed projection has no bias."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads, 0.0)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)


class ScaledBlock(nn.Module):
    """A mixer over joints or over frames, and an MLP, both scaled channel by channel."""

    def __init__(self, channels: int, hidden: int, mixer: nn.Module, frames: bool) -> None:
        super().__init__()
        self.frames, self.mixer = frames, mixer
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.mlp = Mlp(channels, hidden, 0.0)
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), 1e-5))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, J, C) -> (B, F, J, C)."""
        b, f, j, c = x.shape
        n = self.norm1(x)
        mixed = from_frames(self.mixer(over_frames(n)), j) if self.frames else \
            self.mixer(n.reshape(b * f, j, c)).reshape(b, f, j, c)
        x = x + self.layer_scale_1 * mixed
        return x + self.layer_scale_2 * self.mlp(self.norm2(x))


class Layer(nn.Module):
    """Attention beside graphs, over joints and then over frames."""

    def __init__(self, joints: int, frames: int, channels: int, heads: int, hidden: int, neighbours: int) -> None:
        super().__init__()
        graph = torch.zeros(joints, joints)
        for row, columns in enumerate(LINKS):
            graph[row, list(columns)] = 1
        self.att_spatial = ScaledBlock(channels, hidden, UnbiasedAttention(channels, heads), False)
        self.att_temporal = ScaledBlock(channels, hidden, UnbiasedAttention(channels, heads), True)
        self.graph_spatial = ScaledBlock(channels, hidden, GraphMixer(channels, joints, 0, graph), False)
        self.graph_temporal = ScaledBlock(channels, hidden, GraphMixer(channels, frames, neighbours), True)
        self.fusion = nn.Linear(2 * channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, J, C) -> (B, F, J, C)."""
        return fuse(self.fusion, self.att_temporal(self.att_spatial(x)), self.graph_temporal(self.graph_spatial(x)))


class MotionAGFormer(Network):
    """Keypoints with confidence (B, F, J, 3) -> poses (B, F, J, 3)."""

    def __init__(self, joints: int, frames: int, channels: int, depth: int, heads: int, hidden: int,
                 representation: int, neighbours: int) -> None:
        super().__init__(joints, channels, representation, 1e-5)
        self.layers = nn.ModuleList(Layer(joints, frames, channels, heads, hidden, neighbours) for _ in range(depth))
        self.rep_logit = Head(channels, representation)

    def forward(self, x: Tensor) -> Tensor:
        """Lift (B, F, J, 3) -> (B, F, J, 3)."""
        x = self.joints_embed(x) + self.pos_embed
        for layer in self.layers:
            x = layer(x)
        return self.head(self.rep_logit(self.norm(x)))
