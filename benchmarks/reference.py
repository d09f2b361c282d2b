"""The reference: both models and a training loop as the field writes them, in plain eager fp32 PyTorch.

Benchmarks compare the program with it. Neither uses anything of the other.
Letters in shapes: B batch, F frames, N = B·F samples, J joints, C channels, D hidden width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

Limbs = Sequence[Sequence[int]]  # each three joints, from the body outwards
LIMBS = ((1, 2, 3), (4, 5, 6), (11, 12, 13), (14, 15, 16))  # Human3.6M: legs and arms


class DropPath(nn.Module):
    """Drops the whole branch of a sample in training: (N, ...) -> (N, ...), scaled by 1/(1-rate) where it stays."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop or scale each sample, (N, ...) -> (N, ...)."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask.div_(keep)


class Mlp(nn.Module):
    """Linear, GELU, dropout, Linear, dropout: (N, J, C) -> (N, J, C) by way of D."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, channels)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, J, C) -> (N, J, C)."""
        x = self.drop(self.act(self.fc1(x)))
        return self.drop(self.fc2(x))


class GraphConv(nn.Module):
    """Learnable (modulated) graph convolution: (N, J, inputs) -> (N, J, outputs); adjacency (J, J)."""

    def __init__(self, adjacency: Tensor, inputs: int, outputs: int) -> None:
        super().__init__()
        joints = len(adjacency)
        self.W = nn.Parameter(torch.empty(2, inputs, outputs))
        self.M = nn.Parameter(torch.empty(joints, outputs))
        self.adj2 = nn.Parameter(torch.full((joints, joints), 1e-6))
        self.bias = nn.Parameter(torch.empty(outputs))
        nn.init.xavier_uniform_(self.W, gain=1.414)
        nn.init.xavier_uniform_(self.M, gain=1.414)
        nn.init.uniform_(self.bias, -(outputs ** -0.5), outputs ** -0.5)
        self.register_buffer('adjacency', adjacency.detach().clone().float(), persistent=False)
        self.register_buffer('eye', torch.eye(joints), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, J, inputs) -> (N, J, outputs)."""
        h0 = torch.matmul(x, self.W[0])
        h1 = torch.matmul(x, self.W[1])
        graph = self.adjacency + self.adj2
        graph = (graph + graph.T) / 2
        own = torch.matmul(graph * self.eye, self.M * h0)
        others = torch.matmul(graph * (1 - self.eye), self.M * h1)
        return own + others + self.bias


class Attention(nn.Module):
    """Multi-head self-attention over joints with a packed qkv projection: (N, J, C) -> (N, J, C)."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, J, C) -> (N, J, C)."""
        n, j, c = x.shape
        q, k, v = self.qkv(x).reshape(n, j, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        x = (weights @ v).transpose(1, 2).reshape(n, j, c)
        return self.proj_drop(self.proj(x))


class LocalJoints(nn.Module):
    """LJC: two graph convolutions, C -> 384 -> C, between two norms: (N, J, C) -> (N, J, C)."""

    def __init__(self, adjacency: Tensor, channels: int, drop_path: float, width: int = 384) -> None:
        super().__init__()
        self.norm_gcn1 = nn.LayerNorm(channels)
        self.gcn1 = GraphConv(adjacency, channels, width)
        self.act = nn.GELU()
        self.gcn2 = GraphConv(adjacency, width, channels)
        self.norm_gcn2 = nn.LayerNorm(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, J, C) -> (N, J, C)."""
        y = self.gcn2(self.act(self.gcn1(self.norm_gcn1(x))))
        return x + self.drop_path(self.norm_gcn2(y))


class InterPart(nn.Module):
    """IPC: limb tokens of three and of two joints take the place of outer joints: (N, J, C) -> (N, J, C)."""

    def __init__(self, limbs: Limbs, channels: int, hidden: int, drop_path: float, dropout: float) -> None:
        super().__init__()
        self.norm_conv1 = nn.LayerNorm(channels)
        self.conv1 = nn.Conv1d(channels, channels, kernel_size=3, stride=3)
        self.norm_conv1_mlp = nn.LayerNorm(channels)
        self.mlp_down_1 = Mlp(channels, hidden, dropout)
        self.norm_conv2 = nn.LayerNorm(channels)
        self.conv2 = nn.Conv1d(channels, channels, kernel_size=2, stride=2)
        self.norm_conv2_mlp = nn.LayerNorm(channels)
        self.mlp_down_2 = Mlp(channels, hidden, dropout)
        self.act = nn.GELU()
        self.drop_path = DropPath(drop_path)
        self.threes = [joint for limb in limbs for joint in limb]
        self.twos = [joint for limb in limbs for joint in limb[1:]]
        self.middles = [limb[1] for limb in limbs]
        self.ends = [limb[2] for limb in limbs]

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, J, C), own third plus the local one -> (N, J, C)."""
        v1, v2 = self.norm_conv1(x), self.norm_conv2(x)
        tokens1 = self.conv1(v1[:, self.threes].permute(0, 2, 1)).permute(0, 2, 1)  # (N, limbs, C)
        tokens1 = self.drop_path(self.act(tokens1))
        tokens1 = tokens1 + self.drop_path(self.mlp_down_1(self.norm_conv1_mlp(tokens1)))
        tokens2 = self.conv2(v2[:, self.twos].permute(0, 2, 1)).permute(0, 2, 1)
        tokens2 = self.drop_path(self.act(tokens2))
        tokens2 = tokens2 + self.drop_path(self.mlp_down_2(self.norm_conv2_mlp(tokens2)))
        v1, v2 = v1.clone(), v2.clone()
        v1[:, self.middles] = tokens1
        v1[:, self.ends] = tokens1
        v2[:, self.ends] = tokens2
        return v1 + v2 + x


class GlobalBody(nn.Module):
    """GBI: pre-norm self-attention over joints: (N, J, C) -> (N, J, C)."""

    def __init__(self, channels: int, heads: int, drop_path: float, dropout: float) -> None:
        super().__init__()
        self.norm_attn = nn.LayerNorm(channels)
        self.attn = Attention(channels, heads, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, J, C), own third plus the inter-part one -> (N, J, C)."""
        return x + self.drop_path(self.attn(self.norm_attn(x)))


class Block(nn.Module):
    """LJC, IPC and GBI on thirds of the channels, one after the other, then an MLP: (N, J, C) -> (N, J, C)."""

    def __init__(self, adjacency: Tensor, channels: int, hidden: int, heads: int, limbs: Limbs, drop_path: float,
                 dropout: float) -> None:
        super().__init__()
        third = channels // 3
        self.lgc = LocalJoints(adjacency, third, drop_path)
        self.ipc = InterPart(limbs, third, hidden, drop_path, dropout)
        self.gbi = GlobalBody(third, heads, drop_path, dropout)
        self.norm_mlp = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = Mlp(channels, hidden, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, J, C) -> (N, J, C)."""
        local, inter, whole = x.chunk(3, dim=-1)
        local = self.lgc(local)
        inter = self.ipc(inter + local)
        whole = self.gbi(whole + inter)
        y = torch.cat((local, inter, whole), dim=-1)
        return y + self.drop_path(self.mlp(self.norm_mlp(y)))


class HTNet(nn.Module):
    """Lifts single frames, (B, F, J, 2) -> (B, F, J, 3); adjacency (J, J), keys those of public checkpoints."""

    def __init__(self, adjacency: Tensor, channels: int = 240, depth: int = 3, hidden: int = 1024, heads: int = 8,
                 limbs: Limbs = LIMBS, drop_path: tuple[float, float] = (0.1, 0.3), dropout: float = 0.1) -> None:
        super().__init__()
        rates = torch.linspace(*drop_path, depth).tolist()
        self.pos_embed = nn.Parameter(torch.zeros(1, len(adjacency), channels))
        self.patch_embed = nn.Linear(2, channels)
        blocks = [Block(adjacency, channels, hidden, heads, limbs, rate, dropout) for rate in rates]
        norm = nn.LayerNorm(channels, eps=1e-6)
        self.Hiremixer = nn.ModuleDict({'blocks': nn.ModuleList(blocks), 'Temporal_norm': norm})
        self.fcn = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, J, 2) -> (B, F, J, 3)."""
        b, f, j, _ = x.shape
        x = self.patch_embed(x.reshape(b * f, j, 2)) + self.pos_embed
        for block in self.Hiremixer['blocks']:
            x = block(x)
        return self.fcn(self.Hiremixer['Temporal_norm'](x)).reshape(b, f, j, 3)


class GraphLayer(nn.Module):
    """Graph convolution, batch norm over channels, ReLU: (N, nodes, inputs) -> (N, nodes, outputs)."""

    def __init__(self, adjacency: Tensor, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gconv = GraphConv(adjacency, inputs, outputs)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, nodes, inputs) -> (N, nodes, outputs)."""
        return torch.relu(self.bn(self.gconv(x).transpose(1, 2)).transpose(1, 2))


class TrajectoryPrior(nn.Module):
    """TPA: two graph layers over frames beside the input, (N, F, C) -> (N, F, C)."""

    def __init__(self, adjacency: Tensor, channels: int) -> None:
        super().__init__()
        self.gconv1 = GraphLayer(adjacency, channels, channels)
        self.gconv2 = GraphLayer(adjacency, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, F, C) -> (N, F, C)."""
        return x + self.gconv2(self.gconv1(x))


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP of ratio 2, (N, tokens, C) -> (N, tokens, C)."""

    def __init__(self, attn: nn.Module, norm1: nn.Module, channels: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.attn = norm1, attn
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = Mlp(channels, 2 * channels, 0.0)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, tokens, C) -> (N, tokens, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PriorAttention(Attention):
    """Attention with its own norm, behind a prior: KPA for joints, TPA for frames."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads, 0.0)
        self.norm1 = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, tokens, C) -> (N, tokens, C)."""
        return super().forward(self.norm1(x))


class KTPFormer(nn.Module):
    """(B, F, J, 2) -> (B, F, J, 3); adjacency (J, J) and chain (F, F), keys those of public checkpoints."""

    def __init__(self, adjacency: Tensor, chain: Tensor, channels: int = 512, depth: int = 7, heads: int = 8,
                 drop_path: float = 0.1) -> None:
        super().__init__()
        rates = torch.linspace(0, drop_path, depth + 1).tolist()
        spatial, temporal = PriorAttention(channels, heads), PriorAttention(channels, heads)
        spatial.kpa = GraphLayer(adjacency, 2, channels)
        spatial.Spatial_pos_embed = nn.Parameter(torch.zeros(1, len(adjacency), channels))
        temporal.tpa = TrajectoryPrior(chain, channels)
        temporal.Temporal_pos_embed = nn.Parameter(torch.zeros(1, len(chain), channels))
        self.kpattention = TransformerBlock(spatial, nn.Identity(), channels, rates[0])
        self.tpattention = TransformerBlock(temporal, nn.Identity(), channels, rates[0])

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(TransformerBlock(Attention(channels, heads, 0.0), nn.LayerNorm(channels, eps=1e-6),
                                                  channels, rate) for rate in rates[1:])
        self.STEblocks, self.TTEblocks = blocks(), blocks()
        self.Spatial_norm = nn.LayerNorm(channels, eps=1e-6)
        self.Temporal_norm = nn.LayerNorm(channels, eps=1e-6)
        self.head = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, J, 2) -> (B, F, J, 3)."""
        b, f, j, _ = x.shape

        def by_track(x: Tensor) -> Tensor:  # (B·F, J, C) -> (B·J, F, C)
            return x.reshape(b, f, j, -1).transpose(1, 2).reshape(b * j, f, -1)

        def by_frame(x: Tensor) -> Tensor:  # (B·J, F, C) -> (B·F, J, C)
            return x.reshape(b, j, f, -1).transpose(1, 2).reshape(b * f, j, -1)

        spatial, temporal = self.kpattention.attn, self.tpattention.attn
        x = spatial.kpa(x.reshape(b * f, j, 2)) + spatial.Spatial_pos_embed
        x = by_track(self.Spatial_norm(self.kpattention(x)))
        x = temporal.tpa(x) + temporal.Temporal_pos_embed
        x = self.Temporal_norm(self.tpattention(x))
        for over_joints, over_frames in zip(self.STEblocks, self.TTEblocks, strict=True):
            x = self.Spatial_norm(over_joints(by_frame(x)))
            x = self.Temporal_norm(over_frames(by_track(x)))
        return self.head(by_frame(x)).reshape(b, f, j, 3)


class PerFrameSamples(Dataset):
    """A data set of one sample per (sequence index, frame, mirrored): float32 copies (1, J, 2) and (1, J, 3).

    Args:
        sequences: objects with `keypoints` (T, J, 2) and `poses` (T, J, 3), root-relative.
        samples: the doubled list, every frame as it is and mirrored.
        left, right: joints that a mirrored sample exchanges, one by one.
    """

    def __init__(self, sequences: Sequence[Any], samples: list[tuple[int, int, bool]], left: Sequence[int],
                 right: Sequence[int]) -> None:
        self.sequences = sequences
        self.samples = samples
        self.sides, self.other = [*left, *right], [*right, *left]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        number, frame, mirrored = self.samples[index]
        sequence = self.sequences[number]
        keypoints = sequence.keypoints[frame:frame + 1].astype(np.float32)
        poses = sequence.poses[frame:frame + 1].astype(np.float32)
        if mirrored:
            for array in (keypoints, poses):
                array[..., 0] *= -1
                array[:, self.sides] = array[:, self.other]
        return keypoints, poses


def make_loader(dataset: Dataset, batch: int = 512, workers: int = 0) -> DataLoader:
    """Make a loader of shuffled batches (B, 1, J, 2) and (B, 1, J, 3)."""
    pin = torch.cuda.is_available()
    return DataLoader(dataset, batch_size=batch, shuffle=True, num_workers=workers, pin_memory=pin)


def make_optimizer(model: nn.Module) -> torch.optim.Adam:
    """Make the Adam of the recipe."""
    return torch.optim.Adam(model.parameters(), lr=5e-4, amsgrad=True)


def train_steps(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, steps: int) -> float:
    """Train for so many steps, over as many epochs as that takes; return the mean loss over their samples."""
    device = next(model.parameters()).device
    model.train()
    total, count, done = 0.0, 0, 0
    while done < steps:
        for keypoints, poses in loader:
            keypoints = keypoints.to(device, non_blocking=True)
            poses = poses.to(device, non_blocking=True)
            optimizer.zero_grad()
            loss = torch.norm(model(keypoints) - poses, dim=-1).mean()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(keypoints)
            count += len(keypoints)
            done += 1
            if done == steps:
                break
    return total / max(count, 1)
