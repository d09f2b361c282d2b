"""MHFormer: 2D keypoints of a window to the 3D pose of its centre frame, by three hypotheses that refine one another.

Source: Li, Liu, Tang, Wang and Van Gool, "MHFormer: Multi-Hypothesis Transformer for 3D Human Pose Estimation", CVPR
2022. Three encoders in a row, whose tokens are coordinates over time, make the hypotheses; blocks over time then refine
each of them (SHR) and let them look at one another (CHI). Letters: B windows, F frames, K keypoints in, J joints out, C
channels of a hypothesis. Parameter names are those of the public checkpoints, which therefore load as they are.

More keypoints than joints, or fewer, are an extension: the published code takes one for each joint.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import nn

from common.augment import Batch
from common.models.layers import (
    AS_HEADS,
    FRAMES,
    JOINTS,
    WINDOWS,
    Attention,
    Block,
    DropPath,
    LayerNorm,
    Linear,
    Mlp,
    attend,
    dropout,
)
from common.models.lifter import Criterion, Lifter, check_sizes, shape_in, usual_heads
from common.recipe import Published, Recipe
from common.skeleton import Skeleton

ENCODER_HEADS, ENCODER_DEPTH = 9, 4  # of the encoders that make the hypotheses, whatever the sizes of the rest
EPS = 1e-6  # of all norms but those in front of the encoders
LONGEST_NORMALISED = 27  # windows up to this length are embedded with a batch norm, longer ones without
EMBEDDING_DROPOUT = 0.25  # behind that batch norm

Through = Callable[[nn.Module, torch.Tensor], torch.Tensor]  # `Lifter.through`


@dataclass(frozen=True)
class MHFormerConfig:
    """The sizes of an MHFormer. Raises ValueError for sizes that cannot be.

    Attributes:
        frames: length of a window, an odd multiple of 9.
        channels: of one hypothesis.
        depth: number of blocks over time, the last of which is the one where hypotheses look at one another.
        heads: of the blocks over time; the encoders have 9.
        hidden: width of the MLPs in the blocks over time.
    """

    frames: int = 351
    channels: int = 512
    depth: int = 3
    heads: int = 8
    hidden: int = 1024

    not_in_a_file = ('heads',)

    def __post_init__(self) -> None:
        check_sizes(self, 'frames', 'channels', 'depth', 'heads', 'hidden')
        step = 2 * ENCODER_HEADS
        if self.frames % step != ENCODER_HEADS:
            below = (self.frames - ENCODER_HEADS) // step * step + ENCODER_HEADS
            near = ' or '.join(str(frames) for frames in (below, below + step) if frames > 0)
            raise ValueError(f'{self.frames} frames, expected an odd multiple of {ENCODER_HEADS}, for {ENCODER_HEADS} '
                             f'heads and a centre: take {near}')
        if self.channels % self.heads:
            raise ValueError(f'{self.channels} channels cannot be divided among {self.heads} heads')

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> 'MHFormerConfig':
        """Read the sizes from the shapes of a public state dict, which does not tell the heads: see `usual_heads`.

        Raises ValueError when the weights are not MHFormer's.
        """
        rows = shape_in(state, 'Transformer_encoder_1.pos_embed', 3)[1]
        if rows % 2:
            raise ValueError(f'Transformer_encoder_1.pos_embed has {rows} rows, expected two for each keypoint')
        frames, = shape_in(state, 'norm_1.weight', 1)
        channels = shape_in(state, 'Transformer_hypothesis.pos_embed_1', 3)[2]
        hidden, _ = shape_in(state, 'Transformer_hypothesis.CHI_blocks.0.mlp.fc1.weight', 2)
        refining = {key.split('.')[2] for key in state if key.startswith('Transformer_hypothesis.SHR_blocks.')}
        return cls(frames, channels, len(refining) + 1, usual_heads(channels), hidden)


class HypothesisEncoder(nn.Module):
    """A transformer whose tokens are the 2K coordinates of the keypoints, and whose channels are the F frames."""

    def __init__(self, keypoints: int, frames: int, drop_path: float, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.pos_embed = nn.Parameter(torch.zeros(1, 2 * keypoints, frames))
        self.blocks = nn.ModuleList(
            Block(Attention(frames, ENCODER_HEADS, JOINTS, dropout), LayerNorm(frames, EPS), LayerNorm(frames, EPS),
                  Mlp(frames, 2 * frames, dropout), rate, WINDOWS)
            for rate in torch.linspace(0, drop_path, ENCODER_DEPTH).tolist())
        self.norm = LayerNorm(frames, EPS)

    def forward(self, x: torch.Tensor, through: Through) -> torch.Tensor:
        """Apply to x (B, 1, 2K, F) -> (B, 1, 2K, F), with blocks called as `Lifter.through` does."""
        x = dropout(x + self.pos_embed[:, None].to(x.dtype), self.dropout if self.training else 0)
        for block in self.blocks:
            x = through(block, x)
        return self.norm(x)


class CrossAttention(nn.Module):
    """Multi-head attention over frames whose queries, keys and values come from three different hypotheses."""

    def __init__(self, channels: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.linear_q, self.linear_k, self.linear_v = (Linear(channels, channels) for _ in range(3))
        self.proj = Linear(channels, channels)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attend: q, k, v (B, F, 1, C) each -> (B, F, 1, C)."""
        projected = self.linear_q(q), self.linear_k(k), self.linear_v(v)
        out = attend(*(rearrange(part, AS_HEADS[FRAMES], h=self.heads) for part in projected))
        out = self.proj(rearrange(out, 'b (j h) f d -> b f j (h d)', h=self.heads))
        return dropout(out, self.dropout if self.training else 0)


class HypothesisBlock(nn.Module):
    """Three hypotheses side by side: an attention moves each of them, and an MLP then mixes all."""

    def __init__(self, channels: int, hidden: int, drop_path: float, dropout: float):
        super().__init__()
        self.norm2 = LayerNorm(3 * channels, EPS)
        self.mlp = Mlp(3 * channels, hidden, dropout)
        self.drop_1, self.drop_2, self.drop_3, self.drop_mlp = (DropPath(drop_path, WINDOWS) for _ in range(4))

    def moved(self, x1: torch.Tensor, x2: torch.Tensor, x3: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the three hypotheses (B, F, 1, C) after their attentions."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to three hypotheses side by side: x (B, F, 1, 3C) -> (B, F, 1, 3C)."""
        x = torch.cat(self.moved(*x.chunk(3, dim=-1)), dim=-1)
        return self.drop_mlp(self.mlp(self.norm2(x)), beside=x)


class SHR(HypothesisBlock):
    """Self-hypothesis refinement: each hypothesis attends to itself."""

    def __init__(self, channels: int, heads: int, hidden: int, drop_path: float, dropout: float):
        super().__init__(channels, hidden, drop_path, dropout)
        self.norm1_1, self.norm1_2, self.norm1_3 = (LayerNorm(channels, EPS) for _ in range(3))
        self.attn_1, self.attn_2, self.attn_3 = (Attention(channels, heads, FRAMES, dropout) for _ in range(3))

    def moved(self, x1: torch.Tensor, x2: torch.Tensor, x3: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the three hypotheses (B, F, 1, C) after their attentions."""
        return (self.drop_1(self.attn_1(self.norm1_1(x1)), beside=x1),
                self.drop_2(self.attn_2(self.norm1_2(x2)), beside=x2),
                self.drop_3(self.attn_3(self.norm1_3(x3)), beside=x3))


class CHI(HypothesisBlock):
    """Cross-hypothesis interaction: the values of a hypothesis are weighed by the other two, one after the other."""

    def __init__(self, channels: int, heads: int, hidden: int, drop_path: float, dropout: float):
        super().__init__(channels, hidden, drop_path, dropout)
        self.norm3_11, self.norm3_12, self.norm3_13 = (LayerNorm(channels, EPS) for _ in range(3))
        self.norm3_21, self.norm3_22, self.norm3_23 = (LayerNorm(channels, EPS) for _ in range(3))
        self.norm3_31, self.norm3_32, self.norm3_33 = (LayerNorm(channels, EPS) for _ in range(3))
        self.attn_1, self.attn_2, self.attn_3 = (CrossAttention(channels, heads, dropout) for _ in range(3))

    def moved(self, x1: torch.Tensor, x2: torch.Tensor, x3: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the three hypotheses (B, F, 1, C) after their attentions, of which each sees the ones before."""
        x1 = self.drop_1(self.attn_1(self.norm3_11(x2), self.norm3_12(x3), self.norm3_13(x1)), beside=x1)
        x2 = self.drop_2(self.attn_2(self.norm3_21(x1), self.norm3_22(x3), self.norm3_23(x2)), beside=x2)
        x3 = self.drop_3(self.attn_3(self.norm3_31(x1), self.norm3_32(x2), self.norm3_33(x3)), beside=x3)
        return x1, x2, x3


class HypothesisMixer(nn.Module):
    """The blocks over time, and the norm behind them."""

    def __init__(self, config: MHFormerConfig, drop_path: float, dropout: float):
        super().__init__()
        self.dropout = dropout
        frames, channels, heads, hidden = config.frames, config.channels, config.heads, config.hidden
        *rates, last = torch.linspace(0, drop_path, config.depth).tolist()
        self.pos_embed_1, self.pos_embed_2, self.pos_embed_3 = (
            nn.Parameter(torch.zeros(1, frames, channels)) for _ in range(3))
        self.SHR_blocks = nn.ModuleList(SHR(channels, heads, hidden, rate, dropout) for rate in rates)
        self.CHI_blocks = nn.ModuleList([CHI(channels, heads, hidden, last, dropout)])
        self.norm = LayerNorm(3 * channels, EPS)

    def forward(self, x: torch.Tensor, through: Through) -> torch.Tensor:
        """Apply to three hypotheses side by side: x (B, F, 1, 3C) -> (B, F, 1, 3C), with blocks called as `through`."""
        embedded = torch.cat([self.pos_embed_1, self.pos_embed_2, self.pos_embed_3], dim=-1)
        x = dropout(x + embedded[:, :, None].to(x.dtype), self.dropout if self.training else 0)
        for block in (*self.SHR_blocks, *self.CHI_blocks):
            x = through(block, x)
        return self.norm(x)


def _embedding(keypoints: int, config: MHFormerConfig, dropout: float) -> nn.Module:
    """Return the layer that makes tokens of a hypothesis: (B, 2K, F) -> (B, C, F)."""
    conv = nn.Conv1d(2 * keypoints, config.channels, 1)
    if config.frames > LONGEST_NORMALISED:
        return conv
    # As published, and none where nothing else is dropped.
    rate = max(EMBEDDING_DROPOUT, dropout) if dropout else 0.0
    return nn.Sequential(conv, nn.BatchNorm1d(config.channels), nn.ReLU(), nn.Dropout(rate))


class MHFormer(Lifter):
    """(B, F, K, 2) normalised screen coordinates -> (B, 1, J, 3) metres, root-relative, camera axes: the centre's pose.

    It is trained on the poses of all F frames, and judged on the centre alone.
    """

    title = 'MHFormer'
    Config = MHFormerConfig
    recipe = Recipe(epochs=19, batch=128, optimizer='amsgrad', lr=1e-3, lr_decay=0.95, lr_drop_every=5, drop_path=0.2,
                    dropout=0.1, loss='mpjpe', objective='plain', root='zero', seed=1)
    public_keys = ('Transformer_encoder_1.pos_embed', 'Transformer_hypothesis.pos_embed_1')
    paper = 'Li, Liu, Tang, Wang and Van Gool, CVPR 2022'
    results = (Published('cpn_ft_h36m_dbb', 351, 43.0, 34.4, 'readme'),
               Published('cpn_ft_h36m_dbb', 81, 44.83, None, 'issue', 'of a user'),
               Published('cpn_ft_h36m_dbb', 27, 45.9, None, 'name of the public file'),
               Published('gt', 351, 30.5, None, 'cited'))

    def __init__(self, config: MHFormerConfig, skeleton: Skeleton, layout: Skeleton, drop_path: float = 0.2,
                 dropout: float = 0.1):
        """Build the model with fresh weights.

        Args:
            drop_path: rate in the last blocks of each encoder and over time; it rises from 0 in the first ones.
            dropout: rate of single values behind position embeddings, projections of attention and in MLPs. Behind the
                embedding of short windows it is 0.25 at least, unless it is 0.
        """
        super().__init__(config)
        self.supervised = range(self.frames)
        keypoints, frames = len(layout), config.frames
        self.keypoints = keypoints
        self.norm_1, self.norm_2, self.norm_3 = (LayerNorm(frames) for _ in range(3))
        self.Transformer_encoder_1, self.Transformer_encoder_2, self.Transformer_encoder_3 = (
            HypothesisEncoder(keypoints, frames, drop_path, dropout) for _ in range(3))
        self.embedding_1, self.embedding_2, self.embedding_3 = (
            _embedding(keypoints, config, dropout) for _ in range(3))
        self.Transformer_hypothesis = HypothesisMixer(config, drop_path, dropout)
        self.regression = nn.Sequential(nn.BatchNorm1d(3 * config.channels),
                                        nn.Conv1d(3 * config.channels, 3 * len(skeleton), 1))

    @classmethod
    def window(cls, config: MHFormerConfig) -> tuple[int, range]:
        """Return how many frames a window has, and its centre as the one that comes out."""
        pad = (config.frames - 1) // 2
        return config.frames, range(pad, pad + 1)

    @classmethod
    def keypoints_of(cls, state: Mapping[str, torch.Tensor]) -> int:
        """Return for how many keypoints a public state dict was made, whose tokens are coordinates."""
        return super().keypoints_of(state) // 2

    def every_frame(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Lift keypoints (B, F, K, 2) to the poses of all frames, (B, F, J, 3).

        Raises ValueError for another F or K than the model's.
        """
        if keypoints.shape[1:] != (self.frames, self.keypoints, 2):
            raise ValueError(f'expected keypoints (B, {self.frames}, {self.keypoints}, 2), got '
                             f'{tuple(keypoints.shape)}')
        x = keypoints.flatten(2).mT[:, None]  # (B, 1, 2K, F)
        dtype = self.tokens or x.dtype
        hypotheses = []
        for norm, encoder, embedding in (
                (self.norm_1, self.Transformer_encoder_1, self.embedding_1),
                (self.norm_2, self.Transformer_encoder_2, self.embedding_2),
                (self.norm_3, self.Transformer_encoder_3, self.embedding_3)):
            # What is added up is screen coordinates, which bfloat16 would round to some pixels.
            x = x + encoder(norm(x).to(dtype), self.through).to(x.dtype)
            hypotheses.append(embedding(x[:, 0]).mT)  # (B, F, C)
        mixed = self.Transformer_hypothesis(torch.cat(hypotheses, dim=-1)[:, :, None].to(dtype), self.through)
        poses = self.regression(mixed[:, :, 0].to(x.dtype).mT)  # (B, 3J, F)
        return poses.mT.unflatten(-1, (-1, 3))

    def forward(self, keypoints: torch.Tensor, every: bool = False) -> torch.Tensor:
        """Lift keypoints (B, F, K, 2) to the pose of the centre, (B, 1, J, 3), or of `every` frame, (B, F, J, 3)."""
        poses = self.every_frame(keypoints)
        return poses if every else poses[:, self.answers.start:self.answers.stop]

    def loss(self, batch: Batch, criterion: Criterion) -> torch.Tensor:
        """Return the criterion of all frames, a scalar: the truth of `batch` is (B, F, J, 3)."""
        # By a call of the model: --compile compiles that, and no method.
        return criterion(self(batch.keypoints, every=True), batch.truth)
