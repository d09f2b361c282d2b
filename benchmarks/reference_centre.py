"""References of the models that see a window and answer for its centre, as the field writes them: eager fp32 PyTorch.

benchmarks/zoo.py compares the program with them. Neither uses anything of the other. Keys are those of public
checkpoints; dropout and drop path are at the published rates. Letters: B windows, F frames, J joints, L tokens, C
channels, D hidden width.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.reference import Attention, DropPath, Mlp
from benchmarks.reference_zoo import AttentionLayer, mpjpe


def by_coordinate(x: Tensor) -> Tensor:
    """Return keypoints (B, F, J, 2) as rows of coordinates, (B, 2J, F)."""
    b, f, j, _ = x.shape
    return x.reshape(b, f, 2 * j).permute(0, 2, 1)


class VideoPose3D(nn.Module):
    """The form that is trained, with strides in place of dilations: (B, F, J, 2) -> (B, 1, J, 3)."""

    def __init__(self, joints: int, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = widths
        self.expand_conv = nn.Conv1d(2 * joints, channels, widths[0], stride=widths[0], bias=False)
        self.expand_bn = nn.BatchNorm1d(channels)
        convolutions, norms = [], []
        for width in widths[1:]:
            convolutions.append(nn.Conv1d(channels, channels, width, stride=width, bias=False))
            convolutions.append(nn.Conv1d(channels, channels, 1, bias=False))
            norms += [nn.BatchNorm1d(channels), nn.BatchNorm1d(channels)]
        self.layers_conv, self.layers_bn = nn.ModuleList(convolutions), nn.ModuleList(norms)
        self.shrink = nn.Conv1d(channels, 3 * joints, 1)
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.25)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, J, 2) -> (B, 1, J, 3)."""
        b, _, j, _ = x.shape
        x = self.drop(self.relu(self.expand_bn(self.expand_conv(by_coordinate(x)))))
        for i, width in enumerate(self.widths[1:]):
            middle = x[:, :, width // 2::width]
            x = self.drop(self.relu(self.layers_bn[2 * i](self.layers_conv[2 * i](x))))
            x = middle + self.drop(self.relu(self.layers_bn[2 * i + 1](self.layers_conv[2 * i + 1](x))))
        return self.shrink(x).permute(0, 2, 1).reshape(b, -1, j, 3)

    def loss(self, keypoints: Tensor, poses: Tensor) -> Tensor:
        """Return the MPJPE of (B, F, J, 2) against (B, 1, J, 3)."""
        return mpjpe(self(keypoints), poses)


class FeedForward(nn.Module):
    """Two linear layers: (B, L, C) -> (B, L, C)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.w_1, self.w_2, self.dropout = nn.Linear(channels, hidden), nn.Linear(hidden, channels), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, C) -> (B, L, C)."""
        return self.w_2(self.dropout(torch.relu(self.w_1(x))))


class StridedFeedForward(nn.Module):
    """Two convolutions, the second of which keeps every stride-th token: (B, L, C) -> (B, ⌈L/stride⌉, C)."""

    def __init__(self, channels: int, hidden: int, stride: int) -> None:
        super().__init__()
        self.w_1 = nn.Conv1d(channels, hidden, 1)
        self.w_2 = nn.Conv1d(hidden, channels, 3, stride=stride, padding=1)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, C) -> (B, ⌈L/stride⌉, C)."""
        x = self.dropout(torch.relu(self.w_1(x.permute(0, 2, 1))))
        return self.w_2(x).permute(0, 2, 1)


class Stack(nn.Module):
    """The layers of a transformer: (B, F, C) -> (B, L, C); with positions in front of the first three if narrowing."""

    def __init__(self, layers: Sequence[nn.Module], frames: int, channels: int, narrows: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.narrows = narrows
        if narrows:
            self.pos_embedding_1, self.pos_embedding_2, self.pos_embedding_3 = (
                nn.Parameter(torch.randn(1, frames, channels)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, C) -> (B, L, C)."""
        for number, layer in enumerate(self.layers, 1):
            if self.narrows and number <= 3:
                x = x + getattr(self, f'pos_embedding_{number}')[:, :x.shape[1]]
            x = layer(x)
        return x


class Transformer(nn.Module):
    """A stack, behind positions unless it narrows: (B, F, C) -> (B, L, C)."""

    def __init__(self, layers: Sequence[nn.Module], frames: int, channels: int, narrows: bool) -> None:
        super().__init__()
        if not narrows:
            self.pos_embedding = nn.Parameter(torch.randn(1, frames, channels))
        self.model = Stack(layers, frames, channels, narrows)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, C) -> (B, L, C)."""
        return self.model(x if self.model.narrows else x + self.pos_embedding)


class StridedTransformer(nn.Module):
    """(B, F, J, 2) -> all poses (B, F, J, 3) and the centre's (B, 1, J, 3)."""

    def __init__(self, joints: int, frames: int, channels: int, depth: int, hidden: int, heads: int,
                 strides: Sequence[int], encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder or nn.Sequential(nn.Conv1d(2 * joints, channels, 1), nn.BatchNorm1d(channels),
                                                nn.ReLU(inplace=True), nn.Dropout(0.25))
        layers = [AttentionLayer(FeedForward(channels, hidden), channels, heads, 0.1) for _ in range(depth)]
        self.Transformer = Transformer(layers, frames, channels, narrows=False)
        narrowing = [AttentionLayer(StridedFeedForward(channels, hidden, stride), channels, heads, 0.1, stride)
                     for stride in strides]
        self.Transformer_reduce = Transformer(narrowing, frames, channels, narrows=True)
        self.fcn_1, self.fcn = (nn.Sequential(nn.BatchNorm1d(channels), nn.Conv1d(channels, 3 * joints, 1))
                                for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, F, J, 2) -> (B, F, J, 3), (B, 1, J, 3)."""
        b, _, j, _ = x.shape
        x = self.Transformer(self.encoder(by_coordinate(x)).permute(0, 2, 1))
        every = self.fcn_1(x.permute(0, 2, 1)).permute(0, 2, 1)
        centre = self.fcn(self.Transformer_reduce(x).permute(0, 2, 1)).permute(0, 2, 1)
        return every.reshape(b, -1, j, 3), centre.reshape(b, -1, j, 3)

    def loss(self, keypoints: Tensor, poses: Tensor) -> Tensor:
        """Return the MPJPE of all frames and that of the centre, of (B, F, J, 2) against (B, F, J, 3)."""
        every, centre = self(keypoints)
        middle = poses.shape[1] // 2
        return mpjpe(every, poses) + mpjpe(centre, poses[:, middle:middle + 1])


class Residual(nn.Module):
    """Two pointwise convolutions beside the input: (B, C, F) -> (B, C, F)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.w1, self.batch_norm1 = nn.Conv1d(channels, channels, 1), nn.BatchNorm1d(channels)
        self.w2, self.batch_norm2 = nn.Conv1d(channels, channels, 1), nn.BatchNorm1d(channels)
        self.relu, self.dropout = nn.LeakyReLU(0.2, inplace=True), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, F) -> (B, C, F)."""
        y = self.dropout(self.relu(self.batch_norm1(self.w1(x))))
        return x + self.dropout(self.relu(self.batch_norm2(self.w2(y))))


class SpatialEncoder(nn.Module):
    """The encoder of P-STMO, the rest of which is a StridedTransformer: (B, 2J, F) -> (B, C, F)."""

    def __init__(self, joints: int, channels: int) -> None:
        super().__init__()
        self.fc_1, self.bn_1 = nn.Conv1d(2 * joints, 2 * channels, 1), nn.BatchNorm1d(2 * channels)
        self.layers = nn.ModuleList([Residual(2 * channels)])
        self.fc_2 = nn.Conv1d(2 * channels, channels, 1)
        self.relu, self.dropout = nn.LeakyReLU(0.2, inplace=True), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 2J, F) -> (B, C, F)."""
        x = self.dropout(self.relu(self.bn_1(self.fc_1(x))))
        for layer in self.layers:
            x = layer(x)
        return self.fc_2(x)


class Block(nn.Module):
    """Pre-norm attention and MLP: (B, L, C) -> (B, L, C)."""

    def __init__(self, channels: int, hidden: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels, eps=1e-6), nn.LayerNorm(channels, eps=1e-6)
        self.attn, self.mlp = Attention(channels, heads, 0.1), Mlp(channels, hidden, 0.1)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, C) -> (B, L, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class HypothesisEncoder(nn.Module):
    """Four blocks whose tokens are coordinates and whose channels are frames: (B, 2J, F) -> (B, 2J, F)."""

    def __init__(self, coordinates: int, frames: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, coordinates, frames))
        self.pos_drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(Block(frames, 2 * frames, 9, rate) for rate in torch.linspace(0, 0.2, 4).tolist())
        self.norm = nn.LayerNorm(frames, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 2J, F) -> (B, 2J, F)."""
        x = self.pos_drop(x + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class CrossAttention(nn.Module):
    """Attention of queries, keys and values from three hypotheses: (B, F, C) three times -> (B, F, C)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.linear_q, self.linear_k, self.linear_v = (nn.Linear(channels, channels) for _ in range(3))
        self.proj, self.proj_drop = nn.Linear(channels, channels), nn.Dropout(0.1)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Map (B, F, C) three times -> (B, F, C)."""
        b, f, c = q.shape
        q, k, v = (layer(x).reshape(b, f, self.heads, -1).permute(0, 2, 1, 3)
                   for layer, x in ((self.linear_q, q), (self.linear_k, k), (self.linear_v, v)))
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        return self.proj_drop(self.proj((weights @ v).transpose(1, 2).reshape(b, f, c)))


class HypothesisBlock(nn.Module):
    """SHR, or CHI if the hypotheses look at one another, and the MLP over all: (B, F, C) three times and back."""

    def __init__(self, channels: int, hidden: int, heads: int, drop_path: float, crosses: bool) -> None:
        super().__init__()
        attention = CrossAttention if crosses else lambda *sizes: Attention(*sizes, 0.1)
        for n in range(1, 4):
            setattr(self, f'attn_{n}', attention(channels, heads))
            for norm in [f'norm3_{n}{of}' for of in range(1, 4)] if crosses else [f'norm1_{n}']:
                setattr(self, norm, nn.LayerNorm(channels, eps=1e-6))
        self.crosses, self.drop_path = crosses, DropPath(drop_path)
        self.norm2, self.mlp = nn.LayerNorm(3 * channels, eps=1e-6), Mlp(3 * channels, hidden, 0.1)

    def forward(self, x1: Tensor, x2: Tensor, x3: Tensor) -> tuple[Tensor, ...]:
        """Map (B, F, C) three times -> (B, F, C) three times."""
        drop = self.drop_path
        if self.crosses:
            x1 = x1 + drop(self.attn_1(self.norm3_11(x2), self.norm3_12(x3), self.norm3_13(x1)))
            x2 = x2 + drop(self.attn_2(self.norm3_21(x1), self.norm3_22(x3), self.norm3_23(x2)))
            x3 = x3 + drop(self.attn_3(self.norm3_31(x1), self.norm3_32(x2), self.norm3_33(x3)))
        else:
            x1 = x1 + drop(self.attn_1(self.norm1_1(x1)))
            x2 = x2 + drop(self.attn_2(self.norm1_2(x2)))
            x3 = x3 + drop(self.attn_3(self.norm1_3(x3)))
        x = torch.cat([x1, x2, x3], dim=-1)
        return (x + drop(self.mlp(self.norm2(x)))).chunk(3, dim=-1)


class Hypotheses(nn.Module):
    """The blocks over time: (B, F, C) three times -> (B, F, 3C)."""

    def __init__(self, frames: int, channels: int, depth: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.pos_embed_1, self.pos_embed_2, self.pos_embed_3 = (
            nn.Parameter(torch.zeros(1, frames, channels)) for _ in range(3))
        self.pos_drop = nn.Dropout(0.1)
        *rates, last = torch.linspace(0, 0.2, depth).tolist()
        self.SHR_blocks = nn.ModuleList(HypothesisBlock(channels, hidden, heads, rate, False) for rate in rates)
        self.CHI_blocks = nn.ModuleList([HypothesisBlock(channels, hidden, heads, last, True)])
        self.norm = nn.LayerNorm(3 * channels, eps=1e-6)

    def forward(self, x1: Tensor, x2: Tensor, x3: Tensor) -> Tensor:
        """Map (B, F, C) three times -> (B, F, 3C)."""
        x = (self.pos_drop(x1 + self.pos_embed_1), self.pos_drop(x2 + self.pos_embed_2),
             self.pos_drop(x3 + self.pos_embed_3))
        for block in (*self.SHR_blocks, *self.CHI_blocks):
            x = block(*x)
        return self.norm(torch.cat(x, dim=-1))


class MHFormer(nn.Module):
    """For windows of more than 27 frames, which are embedded without a batch norm: (B, F, J, 2) -> (B, F, J, 3)."""

    def __init__(self, joints: int, frames: int, channels: int, depth: int, hidden: int, heads: int) -> None:
        super().__init__()
        for n in range(1, 4):
            setattr(self, f'norm_{n}', nn.LayerNorm(frames))
            setattr(self, f'Transformer_encoder_{n}', HypothesisEncoder(2 * joints, frames))
            setattr(self, f'embedding_{n}', nn.Conv1d(2 * joints, channels, 1))
        self.Transformer_hypothesis = Hypotheses(frames, channels, depth, hidden, heads)
        self.regression = nn.Sequential(nn.BatchNorm1d(3 * channels), nn.Conv1d(3 * channels, 3 * joints, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, J, 2) -> (B, F, J, 3)."""
        b, f, j, _ = x.shape
        x = by_coordinate(x)
        x1 = x + self.Transformer_encoder_1(self.norm_1(x))
        x2 = x1 + self.Transformer_encoder_2(self.norm_2(x1))
        x3 = x2 + self.Transformer_encoder_3(self.norm_3(x2))
        x = self.Transformer_hypothesis(*(embedding(x).permute(0, 2, 1) for embedding, x in (
            (self.embedding_1, x1), (self.embedding_2, x2), (self.embedding_3, x3))))
        return self.regression(x.permute(0, 2, 1)).permute(0, 2, 1).reshape(b, f, j, 3)

    def loss(self, keypoints: Tensor, poses: Tensor) -> Tensor:
        """Return the MPJPE of all frames, of (B, F, J, 2) against (B, F, J, 3)."""
        return mpjpe(self(keypoints), poses)


class CrissCross(nn.Module):
    """Half of the channels over joints, half over frames, each with a local term and what is known of body parts."""

    def __init__(self, channels: int, heads: int, parts: Tensor) -> None:
        super().__init__()
        half = channels // 2
        self.heads, self.scale = heads, half ** -0.5
        self.layer_norm = nn.LayerNorm(channels)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.sep2_s = nn.Conv2d(half, half, 3, padding=1, groups=half)
        self.sep2_t = nn.Conv2d(half, half, 3, padding=1, groups=half)
        self.emb = nn.Embedding(5, half // heads)
        self.drop_path = DropPath(0.5)
        self.register_buffer('parts', parts, persistent=False)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend over the last axis but one: (..., L, E) three times -> (..., L, H, e)."""
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for x in (q, k, v))
        weights = (q @ k.transpose(-1, -2) * self.scale).softmax(-1)
        return (weights @ v).transpose(-2, -3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, J, C) -> (B, F, J, C)."""
        b, f, j, c = x.shape
        qkv = self.qkv(self.layer_norm(x)).reshape(b, f, j, c, 3).permute(4, 0, 1, 2, 3)
        (qs, qt), (ks, kt), (vs, vt) = (part.chunk(2, dim=-1) for part in qkv)
        local_s = self.sep2_s(vs.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).unflatten(-1, (self.heads, -1))
        local_t = self.sep2_t(vt.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).unflatten(-1, (self.heads, -1))
        known = self.emb(self.parts)[None, :, None]  # (1, J, 1, e)
        spatial = self.attend(qs, ks, vs) + local_s + 1e-4 * self.drop_path(known)
        qt, kt, vt = (part.transpose(1, 2) for part in (qt, kt, vt))
        temporal = self.attend(qt, kt, vt).transpose(1, 2) + local_t + 1e-9 * self.drop_path(known)
        return x + self.proj(torch.cat([spatial, temporal], dim=-1).reshape(b, f, j, c))


class CrissCrossBlock(nn.Module):
    """Criss-cross attention and an MLP without biases."""

    def __init__(self, channels: int, heads: int, parts: Tensor) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(channels)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(channels, 4 * channels, bias=False)
        self.mlp.fc2 = nn.Linear(4 * channels, channels, bias=False)
        self.gelu, self.drop = nn.GELU(), nn.Dropout(0.1)
        self.stc_att = CrissCross(channels, heads, parts)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, J, C) -> (B, F, J, C)."""
        x = self.stc_att(x)
        return x + self.drop(self.mlp.fc2(self.drop(self.gelu(self.mlp.fc1(self.layer_norm(x))))))


class STCFormer(nn.Module):
    """For the joints of Human3.6M: (B, F, J, 2) -> (B, F, J, 3)."""

    def __init__(self, channels: int, depth: int, heads: int) -> None:
        super().__init__()
        parts = torch.tensor([0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 3, 3, 3, 4, 4, 4])
        self.pose_emb, self.gelu = nn.Linear(2, channels, bias=False), nn.GELU()
        self.stcformer = nn.Module()
        self.stcformer.stc_block = nn.ModuleList(CrissCrossBlock(channels, heads, parts) for _ in range(depth))
        self.regress_head = nn.Linear(channels, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, J, 2) -> (B, F, J, 3)."""
        x = self.gelu(self.pose_emb(x))
        for block in self.stcformer.stc_block:
            x = block(x)
        return self.regress_head(x)

    def loss(self, keypoints: Tensor, poses: Tensor) -> Tensor:
        """Return the MPJPE of all frames, of (B, F, J, 2) against (B, F, J, 3)."""
        return mpjpe(self(keypoints), poses)
