"""HTNet: 2D keypoints of single frames to 3D poses, by what is next to a joint, in its limb and in the whole body.

Source: Cai, Zhang et al., "HTNet: Human Topology Aware Network for 3D Human Pose Estimation", ICASSP 2023. A block
splits the channels in three: LJC looks at neighbouring joints, IPC at limbs, GBI at the body, each fed by the one
before. Letters: B windows, F frames, K keypoints in, J joints out, C channels. Parameter names are those of the public
checkpoints, which therefore load as they are.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from common.models import graph
from common.models.graph_conv import ModulatedGraphConv
from common.models.layers import JOINTS, Attention, DropPath, LayerNorm, Mlp, joints_from_keypoints
from common.models.lifter import Lifter, check_sizes, shape_in, usual_heads
from common.recipe import REFINED, Published, Recipe
from common.skeleton import Skeleton

GRAPH_CHANNELS = 384  # between the two graph convolutions of LJC, whatever C is
DROP_PATH_RISE = 3  # the last block's rate over the first one's, as published: 0.1 to 0.3


@dataclass(frozen=True)
class HTNetConfig:
    """The sizes of an HTNet. Raises ValueError for sizes that cannot be.

    Attributes:
        hidden: width of the MLPs.
        confidence: whether it reads the detector's confidence beside each keypoint.
    """

    channels: int = 240
    depth: int = 3
    heads: int = 8
    hidden: int = 1024
    confidence: bool = False

    not_in_a_file = ('heads',)

    def __post_init__(self) -> None:
        check_sizes(self, 'channels', 'depth', 'heads', 'hidden')
        if self.channels % (3 * self.heads):
            raise ValueError(f'{self.channels} channels cannot be divided by 3 and then among {self.heads} heads')

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> 'HTNetConfig':
        """Read the sizes from the shapes of a public state dict, which does not tell the heads: the usual 8, or fewer
        where 8 do not divide the channels.

        Raises ValueError when the weights are not HTNet's.
        """
        shape_in(state, 'pos_embed', 3)
        hidden, channels = shape_in(state, 'Hiremixer.blocks.0.mlp.fc1.weight', 2)
        depth = len({key.split('.')[2] for key in state if key.startswith('Hiremixer.blocks.')})
        _, inputs = shape_in(state, 'patch_embed.weight', 2)
        return cls(channels, depth, usual_heads(channels // 3), hidden, inputs == 3)


class LJC(nn.Module):
    """Local joint-level connection: two graph convolutions along the skeleton, beside the input."""

    def __init__(self, channels: int, adjacency: torch.Tensor, drop_path: float):
        super().__init__()
        self.norm_gcn1 = LayerNorm(channels)
        self.gcn1 = ModulatedGraphConv(channels, GRAPH_CHANNELS, adjacency, random_modulation=True)
        self.gcn2 = ModulatedGraphConv(GRAPH_CHANNELS, channels, adjacency, random_modulation=True)
        self.norm_gcn2 = LayerNorm(channels)
        self.drop_path = DropPath(drop_path, JOINTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve along the skeleton: x (B, F, K, C) -> (B, F, K, C)."""
        nodes = self.norm_gcn1(x).flatten(0, 1).transpose(0, 1).contiguous()  # (K, B*F, C): joints are the nodes
        nodes = self.gcn2(F.gelu(self.gcn1(nodes[None])))[0]
        return self.drop_path(self.norm_gcn2(nodes.transpose(0, 1).reshape(x.shape)), beside=x)


class IPC(nn.Module):
    """Inter-part constraint: a token for each limb, made of its last three or two joints, takes their place."""

    _of_three: torch.Tensor
    _of_two: torch.Tensor
    _ends: torch.Tensor

    def __init__(self, channels: int, hidden: int, limbs: tuple[tuple[int, int, int], ...], drop_path: float,
                 dropout: float):
        """Initialise the weights.

        Args:
            limbs: the joints of each of the E limbs from the trunk outwards.
        """
        super().__init__()
        joints = torch.tensor(limbs)  # (E, 3)
        self.register_buffer('_of_three', joints.flatten(), persistent=False)
        self.register_buffer('_of_two', joints[:, 1:].flatten(), persistent=False)
        self.register_buffer('_ends', joints[:, 2], persistent=False)
        self.norm_conv1, self.norm_conv2 = LayerNorm(channels), LayerNorm(channels)
        self.conv1, self.conv2 = (nn.Conv1d(channels, channels, n, stride=n) for n in (3, 2))
        self.norm_conv1_mlp, self.norm_conv2_mlp = LayerNorm(channels), LayerNorm(channels)
        self.mlp_down_1, self.mlp_down_2 = (Mlp(channels, hidden, dropout) for _ in range(2))
        self.drop_conv1, self.drop_mlp1, self.drop_conv2, self.drop_mlp2 = (
            DropPath(drop_path, JOINTS) for _ in range(4))

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """Exchange limbs' joints for their tokens: u (B, F, K, C) -> (B, F, K, C)."""
        three, two = self.norm_conv1(u), self.norm_conv2(u)
        tokens = self.drop_conv1(_limb_tokens(three, self._of_three, self.conv1))
        tokens = self.drop_mlp1(self.mlp_down_1(self.norm_conv1_mlp(tokens)), beside=tokens)
        # A limb's first joint keeps its own value.
        three = three.index_copy(2, self._of_two, tokens.repeat_interleave(2, dim=2))
        tokens = self.drop_conv2(_limb_tokens(two, self._of_two, self.conv2))
        tokens = self.drop_mlp2(self.mlp_down_2(self.norm_conv2_mlp(tokens)), beside=tokens)
        two = two.index_copy(2, self._ends, tokens)
        return three + two + u


def _limb_tokens(x: torch.Tensor, joints: torch.Tensor, conv: nn.Conv1d) -> torch.Tensor:
    """Make a token of each limb, after a GELU: x (B, F, K, C) -> (B, F, E, C).

    `joints` (E*n,) has the n joints of each limb one after the other. A convolution whose stride is its kernel is one
    product over a limb's joints laid side by side.
    """
    n = conv.kernel_size[0]
    side_by_side = x[:, :, joints].unflatten(2, (-1, n)).flatten(3)  # (B, F, E, n*C)
    bias = None if conv.bias is None else conv.bias.to(x.dtype)
    return F.gelu(F.linear(side_by_side, conv.weight.mT.flatten(1).to(x.dtype), bias))


class GBI(nn.Module):
    """Global body-level interaction: attention over all joints, beside the input."""

    def __init__(self, channels: int, heads: int, drop_path: float, dropout: float):
        super().__init__()
        self.norm_attn = LayerNorm(channels)
        self.attn = Attention(channels, heads, JOINTS, dropout)
        self.drop_path = DropPath(drop_path, JOINTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over joints: x (B, F, K, C) -> (B, F, K, C)."""
        return self.drop_path(self.attn(self.norm_attn(x)), beside=x)


class Block(nn.Module):
    """Joint, limb and body, each on a third of the channels and fed by the one before; then an MLP over all."""

    def __init__(self, channels: int, heads: int, hidden: int, adjacency: torch.Tensor,
                 limbs: tuple[tuple[int, int, int], ...], drop_path: float, dropout: float):
        super().__init__()
        third = channels // 3
        self.lgc = LJC(third, adjacency, drop_path)
        self.ipc = IPC(third, hidden, limbs, drop_path, dropout)
        self.gbi = GBI(third, heads, drop_path, dropout)
        self.norm_mlp = LayerNorm(channels, eps=1e-6)
        self.mlp = Mlp(channels, hidden, dropout)
        self.drop_mlp = DropPath(drop_path, JOINTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (B, F, K, C) -> (B, F, K, C)."""
        local, inter, body = x.chunk(3, dim=-1)  # (B, F, K, C/3) each
        local = self.lgc(local)
        inter = self.ipc(inter + local)
        body = self.gbi(body + inter)
        x = torch.cat([local, inter, body], dim=-1)
        return self.drop_mlp(self.mlp(self.norm_mlp(x)), beside=x)


class Mixer(nn.Module):
    """The blocks and the norm behind them, under the names that they have in public files."""

    def __init__(self, blocks: Iterable[Block], norm: LayerNorm):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.Temporal_norm = norm


class HTNet(Lifter):
    """(B, F, K, 2) normalised screen coordinates -> (B, F, J, 3) metres, root-relative, camera axes; each frame by
    itself."""

    title = 'HTNet'
    Config = HTNetConfig
    recipe = Recipe(epochs=15, batch=512, optimizer='amsgrad', lr=5e-4, lr_decay=0.95, lr_drop_every=5, drop_path=0.3,
                    dropout=0.1, loss='mpjpe', objective='plain', root='zero', seed=1)
    paper = 'Cai, Zhang et al., ICASSP 2023'
    results = (Published('cpn_ft_h36m_dbb', 1, 48.9, 39.0, 'published'), Published('gt', 1, 34.0, None, 'published'),
               Published('cpn_ft_h36m_dbb', 1, 47.6, None, 'published', REFINED),
               Published('gt', 1, 31.9, None, 'published', REFINED))
    public_keys = ('pos_embed', 'Hiremixer.blocks.0.mlp.fc1.weight')

    def __init__(self, config: HTNetConfig, skeleton: Skeleton, layout: Skeleton, drop_path: float = 0.3,
                 dropout: float = 0.1):
        """Build the model with fresh weights.

        Args:
            drop_path: rate in the last block; it rises from a third of it in the first.
            dropout: rate of single values in the MLPs and after the projection of attention.

        Raises ValueError for a layout without one of the joints of a limb.
        """
        super().__init__(config)
        channels, depth, heads, hidden = config.channels, config.depth, config.heads, config.hidden
        adjacency, limbs = graph.of_layout(layout), layout.limbs
        self.keypoints, self.inputs = len(layout), 3 if config.confidence else 2
        self.needs = frozenset({'confidence'} if config.confidence else ())
        rates = torch.linspace(drop_path / DROP_PATH_RISE, drop_path, depth).tolist()
        self.patch_embed = nn.Linear(self.inputs, channels)
        self.pos_embed = nn.Parameter(torch.zeros(1, len(adjacency), channels))
        self.Hiremixer = Mixer((Block(channels, heads, hidden, adjacency, limbs, rate, dropout) for rate in rates),
                               LayerNorm(channels, eps=1e-6))
        self.correspondence = joints_from_keypoints(skeleton, layout)
        self.fcn = nn.Linear(channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Lift x (B, F, K, 2 or 3) -> (B, F, J, 3). Raises ValueError for another K than the model's."""
        if x.ndim != 4 or x.shape[2:] != (self.keypoints, self.inputs):
            raise ValueError(f'expected keypoints (B, F, {self.keypoints}, {self.inputs}), got {tuple(x.shape)}')
        x = (self.patch_embed(x) + self.pos_embed).to(self.tokens or x.dtype)  # (B, F, K, C) from here on
        for block in self.Hiremixer.blocks:
            x = self.through(block, x)
        x = self.Hiremixer.Temporal_norm(x).to(self.fcn.weight.dtype)
        if self.correspondence is not None:
            x = torch.matmul(self.correspondence, x)  # (J, K) @ (B, F, K, C)
        return self.fcn(x)
