"""References of the models of single frames, as the field writes them: plain eager fp32 PyTorch.

benchmarks/zoo.py compares the program with them. Neither uses anything of the other. Keys are those of public
checkpoints; dropout is at the published rates. Letters: N frames, J joints, L tokens, C channels.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.reference import GraphConv as ModulatedGraphConv
from benchmarks.reference import GraphLayer


def mpjpe(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the mean distance of joints (..., 3), a scalar."""
    return torch.norm(predicted - target, dim=-1).mean()


def edges_of(parents: Sequence[int]) -> Tensor:
    """Return the symmetric 0/1 matrix (J, J) of a skeleton's bones."""
    matrix = torch.zeros(len(parents), len(parents))
    for joint, parent in enumerate(parents):
        if parent >= 0:
            matrix[joint, parent] = matrix[parent, joint] = 1
    return matrix


class Stage(nn.Module):
    """Two linear layers beside the input: (N, C) -> (N, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.w1, self.batch_norm1 = nn.Linear(channels, channels), nn.BatchNorm1d(channels)
        self.w2, self.batch_norm2 = nn.Linear(channels, channels), nn.BatchNorm1d(channels)
        self.relu, self.dropout = nn.ReLU(inplace=True), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C) -> (N, C)."""
        y = self.dropout(self.relu(self.batch_norm1(self.w1(x))))
        return x + self.dropout(self.relu(self.batch_norm2(self.w2(y))))


class Martinez(nn.Module):
    """3d-pose-baseline, between standardised numbers: (N, inputs) -> (N, outputs)."""

    def __init__(self, inputs: int, outputs: int, channels: int, depth: int) -> None:
        super().__init__()
        self.w1, self.batch_norm1 = nn.Linear(inputs, channels), nn.BatchNorm1d(channels)
        self.linear_stages = nn.ModuleList(Stage(channels) for _ in range(depth))
        self.w2 = nn.Linear(channels, outputs)
        self.relu, self.dropout = nn.ReLU(inplace=True), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs) -> (N, outputs)."""
        x = self.dropout(self.relu(self.batch_norm1(self.w1(x))))
        for stage in self.linear_stages:
            x = stage(x)
        return self.w2(x)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean square error of standardised (N, inputs) against (N, outputs)."""
        return nn.functional.mse_loss(self(inputs), targets)


def standardised(values: Tensor, whole: Tensor, left_out: int) -> Tensor:
    """Return frames (N, J, 2 or 3) without a joint as rows (N, ...), standardised by those of the whole training."""
    kept = [joint for joint in range(values.shape[1]) if joint != left_out]
    rows, all_rows = values[:, kept].flatten(1), whole[:, kept].flatten(1)
    return (rows - all_rows.mean(0)) / all_rows.std(0, correction=0)


class GraphDropLayer(GraphLayer):
    """A modulated graph convolution, batch norm, ReLU and dropout: (N, J, inputs) -> (N, J, outputs)."""

    def __init__(self, adjacency: Tensor, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__(adjacency, inputs, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, J, inputs) -> (N, J, outputs)."""
        return self.dropout(super().forward(x))


class GraphPair(nn.Module):
    """Two graph layers beside the input: (N, J, C) -> (N, J, C)."""

    def __init__(self, adjacency: Tensor, channels: int, dropout: float) -> None:
        super().__init__()
        self.gconv1 = GraphDropLayer(adjacency, channels, channels, dropout)
        self.gconv2 = GraphDropLayer(adjacency, channels, channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, J, C) -> (N, J, C)."""
        return x + self.gconv2(self.gconv1(x))


class NonLocal(nn.Module):
    """Joints look at each other beside the input, (N, C, J, 1) -> (N, C, J, 1), with a batch norm that torch has right.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = channels // 2
        self.g, self.theta, self.phi = (nn.Conv2d(channels, self.inner, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv2d(self.inner, channels, 1), nn.BatchNorm1d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, J, 1) -> (N, C, J, 1)."""
        n, _, j, _ = x.shape
        g, theta, phi = (layer(x).view(n, self.inner, j) for layer in (self.g, self.theta, self.phi))
        weights = torch.softmax(torch.matmul(theta.permute(0, 2, 1), phi), dim=-1)
        y = torch.matmul(weights, g.permute(0, 2, 1)).permute(0, 2, 1).contiguous()
        convolution, norm = self.W
        return x + norm(convolution(y.unsqueeze(-1)).squeeze(-1)).unsqueeze(-1)


class ModulatedGCN(nn.Module):
    """Both published networks, that of 17 joints with a non-local layer: (N, 1, J, 2) -> (N, 1, J, 3)."""

    def __init__(self, parents: Sequence[int], channels: int, depth: int, attends: bool) -> None:
        super().__init__()
        adjacency = edges_of(parents)
        adjacency = (adjacency / adjacency.sum(1, keepdim=True)).fill_diagonal_(1)
        dropout = 0.2 if attends else 0.0
        self.gconv_input = nn.Sequential(GraphDropLayer(adjacency, 2, channels, dropout))
        self.gconv_layers = nn.Sequential(*(GraphPair(adjacency, channels, dropout) for _ in range(depth)))
        self.non_local = NonLocal(channels) if attends else None
        self.gconv_output = ModulatedGraphConv(adjacency, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 1, J, 2) -> (N, 1, J, 3)."""
        x = self.gconv_layers(self.gconv_input(x.squeeze(1)))
        if self.non_local is not None:
            x = self.non_local(x.transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)
        return self.gconv_output(x).unsqueeze(1)

    def loss(self, keypoints: Tensor, poses: Tensor) -> Tensor:
        """Return the loss of the network's own recipe, of (N, 1, J, 2) against (N, 1, J, 3)."""
        predicted = self(keypoints)
        l1 = nn.functional.l1_loss(predicted, poses)
        if self.non_local is None:
            return 0.9 * nn.functional.mse_loss(predicted, poses) + 0.1 * l1
        return 0.99 * mpjpe(predicted, poses) + 0.01 * l1


class SampleNorm(nn.Module):
    """A norm whose eps stands beside the sample's standard deviation: (..., C) -> (..., C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a_2, self.b_2 = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) -> (..., C)."""
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return self.a_2 * (x - mean) / (std + 1e-6) + self.b_2


class SplitAttention(nn.Module):
    """Multi-head attention of four linear layers, with dropout on its weights: (N, L, C) -> (N, L, C)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linears = nn.ModuleList(nn.Linear(channels, channels) for _ in range(4))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L, C) -> (N, L, C)."""
        n, length, c = x.shape
        q, k, v = (linear(x).view(n, length, self.heads, -1).transpose(1, 2) for linear in self.linears[:3])
        scores = torch.matmul(q, k.transpose(-2, -1)) / (c // self.heads) ** 0.5
        x = torch.matmul(self.dropout(scores.softmax(dim=-1)), v)
        return self.linears[3](x.transpose(1, 2).contiguous().view(n, length, c))


class Sublayer(nn.Module):
    """A branch behind a norm, beside every stride-th token: (N, L, C) -> (N, ⌈L/stride⌉, C)."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.dropout = SampleNorm(channels), nn.Dropout(dropout)

    def forward(self, x: Tensor, branch: Callable[[Tensor], Tensor], stride: int = 1) -> Tensor:
        """Map (N, L, C) -> (N, ⌈L/stride⌉, C)."""
        return x[:, ::stride] + self.dropout(branch(self.norm(x)))


class AttentionLayer(nn.Module):
    """Attention, then a feed-forward part: (N, L, C) -> (N, ⌈L/stride⌉, C)."""

    def __init__(self, feed_forward: nn.Module, channels: int, heads: int, dropout: float, stride: int = 1) -> None:
        super().__init__()
        self.self_attn, self.feed_forward, self.stride = SplitAttention(channels, heads), feed_forward, stride
        self.sublayer = nn.ModuleList(Sublayer(channels, dropout) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L, C) -> (N, ⌈L/stride⌉, C)."""
        return self.sublayer[1](self.sublayer[0](x, self.self_attn), self.feed_forward, self.stride)


class Cheb(nn.Module):
    """A Chebyshev graph convolution, polynomials (3, J, J): (N, J, inputs) -> (N, J, outputs)."""

    def __init__(self, polynomials: Tensor, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, 1, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(1, 1, outputs))
        nn.init.xavier_normal_(self.weight)
        self.register_buffer('polynomials', polynomials.unsqueeze(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, J, inputs) -> (N, J, outputs)."""
        mixed = torch.matmul(self.polynomials, x)  # (3, N, J, inputs)
        return torch.matmul(mixed, self.weight).sum(0) + self.bias


class ChebPair(nn.Module):
    """Two Chebyshev convolutions, each with ReLU and dropout, beside the input: (N, J, C) -> (N, J, C)."""

    def __init__(self, polynomials: Tensor, channels: int) -> None:
        super().__init__()
        self.gconv1, self.gconv2 = (nn.ModuleDict({'gconv': Cheb(polynomials, channels, channels)}) for _ in range(2))
        self.relu, self.dropout = nn.ReLU(), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, J, C) -> (N, J, C)."""
        y = self.dropout(self.relu(self.gconv1['gconv'](x)))
        return x + self.dropout(self.relu(self.gconv2['gconv'](y)))


class LearnedGraph(nn.Module):
    """Two linear layers, each after a product with a learned graph: (N, J, C) -> (N, J, C)."""

    def __init__(self, joints: int, channels: int) -> None:
        super().__init__()
        self.A_hat = nn.Parameter(torch.eye(joints))
        self.gconv1 = nn.ModuleDict({'fc': nn.Linear(channels, 2 * channels)})
        self.gconv2 = nn.ModuleDict({'fc': nn.Linear(2 * channels, channels)})

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, J, C) -> (N, J, C)."""
        scale = torch.diag((self.A_hat.sum(0) + 1e-5) ** -0.5)
        graph = torch.matmul(torch.matmul(scale, self.A_hat), scale)
        x = torch.relu(self.gconv1['fc'](torch.matmul(graph, x)))
        return self.gconv2['fc'](torch.matmul(graph, x))


class GraFormer(nn.Module):
    """(N, 1, J, 2) -> (N, 1, J, 3)."""

    def __init__(self, parents: Sequence[int], channels: int, depth: int, heads: int) -> None:
        super().__init__()
        joints, eye = len(parents), torch.eye(len(parents))
        graph = edges_of(parents) + eye
        laplacian = eye - graph / graph.sum(1, keepdim=True)
        polynomials = torch.stack([eye, laplacian, 2 * laplacian @ laplacian - eye])
        self.gconv_input = Cheb(polynomials, 2, channels)
        self.atten_layers = nn.ModuleList(
            AttentionLayer(LearnedGraph(joints, channels), channels, heads, 0.25) for _ in range(depth))
        self.gconv_layers = nn.ModuleList(ChebPair(polynomials, channels) for _ in range(depth))
        self.gconv_output = Cheb(polynomials, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 1, J, 2) -> (N, 1, J, 3)."""
        x = self.gconv_input(x.squeeze(1))
        for attention, convolutions in zip(self.atten_layers, self.gconv_layers, strict=True):
            x = convolutions(attention(x))
        return self.gconv_output(x).unsqueeze(1)

    def loss(self, keypoints: Tensor, poses: Tensor) -> Tensor:
        """Return the mean square error of (N, 1, J, 2) against (N, 1, J, 3)."""
        return nn.functional.mse_loss(self(keypoints), poses)
