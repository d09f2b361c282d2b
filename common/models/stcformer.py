"""STCFormer: the frames of a window, which lie apart, to the pose of its centre.

Half of the channels look at the joints of a frame, the other half at the frames of a joint.

Source: Tang, Qiu, Hao, Hong and Yao, "3D Human Pose Estimation with Spatio-Temporal Criss-cross Attention", CVPR 2023.
Two programs were published, one for Human3.6M and one for MPI-INF-3DHP, whose networks differ in names and in some
constants. Letters: B windows, F frames, K keypoints in, J joints out, C channels, E = C / 2 those of a way, H heads,
e = E / H. Parameter names are those of the public checkpoints, which therefore load as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from common.augment import Batch
from common.models.layers import AS_HEADS, FRAMES, JOINTS, LayerNorm, Linear, Mlp, attend, joints_from_keypoints
from common.models.lifter import Criterion, Lifter, check_sizes, shape_in
from common.recipe import Published, Recipe
from common.skeleton import MPI_INF_3DHP, Skeleton

WAYS = (JOINTS, FRAMES)  # what each half of the channels looks at, in their order
MLP_RATIO = 4
MILLIMETRE = 0.001
# The limb that a joint of a side belongs to, by the last word of its name; others belong to the trunk and head.
LIMB_OF = {'hip': 'leg', 'knee': 'leg', 'ankle': 'leg', 'toe': 'leg', 'heel': 'leg', 'shoulder': 'arm', 'elbow': 'arm',
           'wrist': 'arm'}

ConfigT = TypeVar('ConfigT', bound='STCFormerConfig')


@dataclass(frozen=True)
class STCFormerConfig:
    """The sizes of an STCFormer. Raises ValueError for sizes that cannot be.

    `spacing` is how many frames of the video lie from one frame of a window to the next; 0 stands for as many as were
    published for the frames.
    """

    frames: int = 27
    channels: int = 256
    depth: int = 6
    heads: int = 8
    spacing: int = 0

    not_in_a_file: ClassVar[tuple[str, ...]] = ('frames', 'spacing')
    block: ClassVar[str] = 'stcformer.stc_block'  # where the blocks are in a state dict
    table: ClassVar[str] = 'stc_att.emb.weight'  # where the table of parts is in a block

    def __post_init__(self) -> None:
        if self.spacing == 0:
            object.__setattr__(self, 'spacing', self.published_spacing(self.frames))
        check_sizes(self, 'frames', 'channels', 'depth', 'heads', 'spacing')
        if self.frames % 2 == 0:
            raise ValueError(f'{self.frames} frames have none in their middle: take an odd number')
        if self.channels % (2 * self.heads):
            raise ValueError(f'half of {self.channels} channels cannot be divided among {self.heads} heads')

    @staticmethod
    def published_spacing(frames: int) -> int:
        """Return how far the frames of a window of so many are apart in the publication."""
        return 2 if frames == 243 else 3

    @classmethod
    def from_state(cls: type[ConfigT], state: Mapping[str, torch.Tensor]) -> ConfigT:
        """Read the sizes from the shapes of a public state dict, which does not tell frames and spacing.

        Raises ValueError when the weights are not an STCFormer's.
        """
        channels, _ = shape_in(state, 'pose_emb.weight', 2)
        _, width = shape_in(state, f'{cls.block}.0.{cls.table}', 2)
        place = cls.block.count('.') + 1
        depth = len({key.split('.')[place] for key in state if key.startswith(f'{cls.block}.')})
        if channels % (2 * width):
            raise ValueError(f'half of {channels} channels cannot be divided into heads of {width}')
        return cls(channels=channels, depth=depth, heads=channels // (2 * width))


@dataclass(frozen=True)
class STCFormer3DHPConfig(STCFormerConfig):
    """The sizes of the network of MPI-INF-3DHP: see `STCFormerConfig`."""

    frames: int = 81
    heads: int = 4

    block: ClassVar[str] = 'mlpmixer.mixerblocks'
    table: ClassVar[str] = 'cross_att.emb.weight'

    @staticmethod
    def published_spacing(frames: int) -> int:
        """Return 1: its windows have no gaps."""
        return 1


def part_of(joint: str) -> str:
    """Return the part of the body that a joint or keypoint belongs to, by its name: `left_arm`, …, or `trunk`."""
    side, _, rest = joint.partition('_')
    limb = LIMB_OF.get(rest.rpartition('_')[2]) if side in ('left', 'right') else None
    return f'{side}_{limb}' if limb else 'trunk'


class LocalTerm(nn.Conv2d):
    """Each channel by itself over the frames and joints next to a token, in the order of the layout."""

    bias: nn.Parameter

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (B, F, K, E) -> (B, F, K, E), in the dtype of x."""
        image = x.permute(0, 3, 1, 2)  # of this shape, and channels last in memory
        out = F.conv2d(image, self.weight.to(x.dtype), self.bias.to(x.dtype), padding=1, groups=self.groups)
        return out.permute(0, 2, 3, 1)


class CrissCross(nn.Module):
    """Attention over joints with half of the channels and over frames with the other, beside the input.

    To both are added a local term, and a row of a table for the part of the body that a keypoint belongs to. A model of
    this kind says by class attributes what sets the published networks apart.

    Attributes:
        local: names of the local terms, of the way over joints and that over frames.
        parts: of the body, in the order of the table's rows.
        rows: of the table, of which the others are not used.
        padding: a row that starts at 0 and has no gradient; None for none.
        shares: of the table's rows in the results of the ways; None where a way has none.
        kept: (2,) factor of each way's share in a training step: 0, or 1 / (1 - rate). None: drawn in `forward`.
    """

    local: ClassVar[tuple[str, str]] = ('sep2_s', 'sep2_t')
    parts: ClassVar[tuple[str, ...]] = ('trunk', 'right_leg', 'left_leg', 'left_arm', 'right_arm')
    rows: ClassVar[int] = 5
    padding: ClassVar[int | None] = None
    shares: ClassVar[tuple[float | None, ...]] = (1e-4, 1e-9)

    part: torch.Tensor

    def __init__(self, channels: int, heads: int, keypoints: Sequence[str], drop_path: float):
        """Make the weights.

        Args:
            keypoints: names of the K keypoints.
            drop_path: rate at which a way's share of the table is left out for a whole step of training.
        """
        super().__init__()
        half = channels // 2
        self.heads, self.rate, self.scale = heads, drop_path, self.scale_of(channels)
        self.kept: torch.Tensor | None = None
        self.layer_norm = LayerNorm(channels)
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        for name in self.local:
            self.add_module(name, LocalTerm(half))
        self.emb = nn.Embedding(self.rows, half // heads, self.padding)
        part = torch.tensor([self.parts.index(part_of(name)) for name in keypoints])
        self.register_buffer('part', part, persistent=False)

    @staticmethod
    def scale_of(channels: int) -> float:
        """Return the factor of the products of queries and keys: that of a way, not of a head."""
        return (channels // 2) ** -0.5

    def draw(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw `kept`, (2,) on the CPU, with a generator of the CPU, torch's default one where None."""
        return (torch.rand(len(WAYS), generator=generator) >= self.rate) / (1 - self.rate)

    def _part_terms(self) -> list[torch.Tensor | None]:
        """Return what each way's result gets of the table, (K, 1, e), for all windows, frames and heads."""
        table = self.emb(self.part)[:, None]
        kept: torch.Tensor | None = None
        if self.training and self.rate:
            kept = (self.draw() if self.kept is None else self.kept).to(table)
        return [None if share is None else table * (share if kept is None else share * kept[way])
                for way, share in enumerate(self.shares)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to tokens x (B, F, K, C) -> (B, F, K, C)."""
        normed, terms = self.layer_norm(x), self._part_terms()
        # Rows of query, key and value alternate. A view of them for each product makes each result contiguous.
        weights = self.qkv.weight.to(x.dtype).unflatten(0, (len(WAYS), -1, 3)).unbind()
        biases = self.qkv.bias.to(x.dtype).unflatten(0, (len(WAYS), -1, 3)).unbind()
        ways = []
        for over, name, weight, bias, term in zip(WAYS, self.local, weights, biases, terms, strict=True):
            q, k, v = (F.linear(normed, *part) for part in zip(weight.unbind(1), bias.unbind(1), strict=True))
            before, after = AS_HEADS[over].split(' -> ')
            seen = attend(*(rearrange(part, AS_HEADS[over], h=self.heads) for part in (q, k, v)), scale=self.scale)
            seen = rearrange(seen, f'{after} -> {before}', h=self.heads, f=x.shape[1])
            out = (seen + getattr(self, name)(v)).unflatten(-1, (self.heads, -1))  # (B, F, K, H, e)
            ways.append(out if term is None else out + term.to(out.dtype))
        return x + self.proj(torch.stack(ways, dim=-2).flatten(-3))


class CrissCross3DHP(CrissCross):
    """The same as the program for MPI-INF-3DHP has it."""

    local = ('gate_s', 'gate_t')
    parts = ('trunk', 'right_arm', 'left_arm', 'right_leg', 'left_leg')
    rows = 20
    padding = 0
    shares = (1e-4, None)

    @staticmethod
    def scale_of(channels: int) -> float:
        """Return the factor of the products of queries and keys: that of all channels."""
        return channels ** -0.5


class Block(nn.Module):
    """Criss-cross attention, then x + MLP(norm(x))."""

    def __init__(self, channels: int, heads: int, keypoints: Sequence[str], drop_path: float, dropout: float):
        super().__init__()
        self.layer_norm = LayerNorm(channels)
        self.mlp = Mlp(channels, MLP_RATIO * channels, dropout, bias=False)
        self.stc_att = CrissCross(channels, heads, keypoints, drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to tokens x (B, F, K, C) -> (B, F, K, C)."""
        x = self.stc_att(x)
        return x + self.mlp(self.layer_norm(x))


class UnusedNorm(nn.Module):
    """A norm of the public files of MPI-INF-3DHP that the published code does not apply."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer('weight', torch.ones(channels))
        self.register_buffer('bias', torch.zeros(channels))


class Block3DHP(nn.Module):
    """The same as `Block`, by the names of the program for MPI-INF-3DHP."""

    def __init__(self, channels: int, heads: int, keypoints: Sequence[str], drop_path: float, dropout: float):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = LayerNorm(channels), UnusedNorm(channels)
        self.mlp1 = Mlp(channels, MLP_RATIO * channels, dropout, bias=False)
        self.cross_att = CrissCross3DHP(channels, heads, keypoints, drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to tokens x (B, F, K, C) -> (B, F, K, C)."""
        x = self.cross_att(x)
        return x + self.mlp1(self.layer_norm1(x))


class Stack(nn.Module):
    """The blocks, under the name that they have in public files."""

    def __init__(self, name: str, blocks: list[nn.Module]):
        super().__init__()
        self.add_module(name, nn.ModuleList(blocks))


class SpatioTemporal(Lifter):
    """What both networks are: (B, F, K, 2) normalised screen coordinates -> (B, 1, J, 3) metres, root-relative, camera
    axes: the centre's pose. They are trained on the poses of all F frames, and judged on the centre alone.

    `head` is the name of the last layer, `block` the class of the blocks.
    """

    paper = 'Tang et al., CVPR 2023'
    head: ClassVar[str]
    block: ClassVar[type[nn.Module]]

    def __init__(self, config: STCFormerConfig, skeleton: Skeleton, layout: Skeleton, drop_path: float = 0.5,
                 dropout: float = 0.1):
        """Build the model with fresh weights.

        Args:
            drop_path: rate at which a block leaves out what it knows of parts of the body, for a whole step.
            dropout: rate of single values in the MLPs.
        """
        super().__init__(config)
        self.supervised = range(self.frames)
        self.keypoints, channels = len(layout), config.channels
        self.pose_emb = nn.Linear(2, channels, bias=False)
        blocks = [self.block(channels, config.heads, layout.joints, drop_path, dropout) for _ in range(config.depth)]
        stack, _, name = config.block.partition('.')
        self.add_module(stack, Stack(name, blocks))
        self.add_module(self.head, nn.Linear(channels, 3, bias=False))
        self.correspondence = joints_from_keypoints(skeleton, layout)
        self._blocks = config.block

    @classmethod
    def window(cls, config: STCFormerConfig) -> tuple[int, range]:
        """Return the frames of a window, and its middle one as the one that comes out."""
        middle = (config.frames - 1) // 2
        return config.frames, range(middle, middle + 1)

    @classmethod
    def config_of(cls, state: dict[str, torch.Tensor], told: Mapping[str, Any] | None = None) -> Any:
        """Return the Config of a public state dict; the usual spacing is that of the frames that it is told."""
        found = cast(type[STCFormerConfig], cls.Config).from_state(state)
        return type(found)(**vars(found) | {'spacing': 0} | dict(told or {}))

    @classmethod
    def keypoints_of(cls, state: Mapping[str, torch.Tensor]) -> int:
        """Return 0: the weights fit any number of keypoints."""
        return 0

    def begin_step(self, seed: int, windows: int, part: slice) -> None:
        """Draw which parts of the body are left out of a training step, for all its windows, whosever they are."""
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, CrissCross):
                module.kept = module.draw(generator).to(module.part.device)

    def every_frame(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Lift keypoints (B, F, K, 2) to the poses of all frames, (B, F, J, 3).

        Raises ValueError for another F or K than the model's.
        """
        if keypoints.shape[1:] != (self.frames, self.keypoints, 2):
            raise ValueError(f'expected keypoints (B, {self.frames}, {self.keypoints}, 2), got '
                             f'{tuple(keypoints.shape)}')
        x = F.gelu(self.pose_emb(keypoints))
        x = x.to(self.tokens or x.dtype)
        for block in cast(nn.ModuleList, self.get_submodule(self._blocks)):
            x = self.through(block, x)
        x = x.to(self.pose_emb.weight.dtype)
        if self.correspondence is not None:
            x = torch.matmul(self.correspondence, x)  # (J, K) @ (B, F, K, C)
        return self.get_submodule(self.head)(x)

    def forward(self, keypoints: torch.Tensor, every: bool = False) -> torch.Tensor:
        """Lift keypoints (B, F, K, 2) to the pose of the centre, (B, 1, J, 3), or of `every` frame, (B, F, J, 3)."""
        poses = self.every_frame(keypoints)
        return poses if every else poses[:, self.answers.start:self.answers.stop]

    def loss(self, batch: Batch, criterion: Criterion) -> torch.Tensor:
        """Return the criterion of all frames, a scalar: the truth of `batch` is (B, F, J, 3)."""
        # By a call of the model: --compile compiles that, and no method.
        return criterion(self(batch.keypoints, every=True), batch.truth)


class STCFormer(SpatioTemporal):
    """The network of Human3.6M."""

    title = 'STCFormer'
    Config = STCFormerConfig
    # 42 windows: 128 // 3, where the published program divides by the frames from window to window.
    recipe = Recipe(epochs=79, batch=42, optimizer='amsgrad', lr=1e-3, lr_decay=0.96, drop_path=0.5, dropout=0.1,
                    loss='mpjpe', objective='plain', root='zero', seed=42, window_step=3)
    public_keys = ('stcformer.stc_block.0.stc_att.emb.weight', 'regress_head.weight')
    results = (
        Published('cpn_ft_h36m_dbb', 27, 44.08, 34.76, 'readme'),
        Published('cpn_ft_h36m_dbb', 81, 41.72, 32.94, 'readme'),
        Published('cpn_ft_h36m_dbb', 243, 40.5, None, 'leaderboard', '512 channels'),
        Published('gt', 243, 21.3, None, 'leaderboard', '512 channels'),
    )
    head = 'regress_head'
    block = Block

    def training_starts(self, length: int, answered: int, step: int | None = None) -> np.ndarray:
        """Return the centres of the training windows of a sequence, as published.

        With a step of more than 1, the first ones lie before its begin, by half a window of neighbouring frames. Where
        the step is the spacing of frames, all its windows read the same ones of its frames.
        """
        step = step or self.recipe.window_step or answered
        if step == 1:
            return np.arange(length)
        count = -(-length // step)
        offset = (count * step - length) // 2
        return step * np.arange(1, count + 1) - offset - (self.frames - 1) // 2 - 1


class STCFormer3DHP(SpatioTemporal):
    """The network of MPI-INF-3DHP."""

    title = 'STCFormer for MPI-INF-3DHP'
    Config = STCFormer3DHPConfig
    recipe = Recipe(epochs=79, batch=128, optimizer='amsgrad', lr=1e-3, lr_decay=0.96, drop_path=0.5, dropout=0.1,
                    loss='mpjpe', objective='plain', root='zero', seed=1)
    public_keys = ('mlpmixer.mixerblocks.0.cross_att.emb.weight', 'pose_lift.weight')
    results = (Published('gt', 81, 23.1, None, 'name of the public file', 'MPI-INF-3DHP'),)
    head = 'pose_lift'
    block = Block3DHP

    @classmethod
    def body(cls) -> Skeleton:
        """Return the joints of MPI-INF-3DHP."""
        return MPI_INF_3DHP

    @classmethod
    def from_public(cls, state: dict[str, torch.Tensor], skeleton: Skeleton) -> dict[str, torch.Tensor]:
        """Return a public state dict in metres: public files predict millimetres."""
        return state | {'pose_lift.weight': MILLIMETRE * state['pose_lift.weight']}
