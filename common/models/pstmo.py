"""P-STMO: all frames of a window, which may lie apart, to the pose of its centre. The network of its second stage.

Source: Shan, Liu, Zhang, Wang, Ma and Gao, "P-STMO: Pre-trained Spatial Temporal Many-to-One Model for 3D Human Pose
Estimation", ECCV 2022 (arXiv 2203.07628). An encoder of single frames stands before the transformers and heads of
StridedTransformer; its first stage, which trains encoder and first transformer on keypoints alone, is
`pstmo_pretraining`. Letters: B windows, F frames, K keypoints in, J joints out, C channels. Parameter names are those
of the public checkpoints, which therefore load as they are.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from common.models.layers import dropout
from common.models.lifter import check_sizes, shape_in
from common.models.strided_parts import FullToSingle, StridedConfig, sizes_in
from common.recipe import REFINED, Published, Recipe
from common.skeleton import MPI_INF_3DHP, Skeleton

SLOPE = 0.2  # of the encoder's rectifiers below 0
MILLIMETRE = 0.001


@dataclass(frozen=True)
class PSTMOConfig(StridedConfig):
    """The sizes of a P-STMO: see `StridedConfig`. Raises ValueError for sizes that cannot be.

    `spacing` is how many frames of the video lie from one frame of a window to the next: 2 on Human3.6M, 1 on
    MPI-INF-3DHP.
    """

    frames: int = 243
    spacing: int = 2

    not_in_a_file: ClassVar[tuple[str, ...]] = (*StridedConfig.not_in_a_file, 'spacing')
    known_strides: ClassVar = {9: (1, 3, 3), 27: (3, 3, 3), 81: (3, 3, 3, 3), 243: (3, 3, 3, 3, 3), 351: (3, 9, 13)}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, 'spacing')

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> 'PSTMOConfig':
        """Read the sizes from the shapes of a public state dict, which does not tell strides, heads and spacing.

        Raises ValueError when the weights are not those of P-STMO's second stage.
        """
        shape_in(state, 'encoder.fc_1.weight', 3)
        shape_in(state, 'Transformer_reduce.model.pos_embedding_1', 3)
        return cls(**sizes_in(state))


class Residual(nn.Module):
    """Two convolutions of width 1, each with its norm, beside the input."""

    def __init__(self, channels: int, rate: float):
        super().__init__()
        self.rate = rate
        self.w1, self.w2 = (nn.Conv1d(channels, channels, 1) for _ in range(2))
        self.batch_norm1, self.batch_norm2 = (nn.BatchNorm1d(channels) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (B, C, F) -> (B, C, F)."""
        rate = self.rate if self.training else 0
        y = dropout(F.leaky_relu(self.batch_norm1(self.w1(x)), SLOPE), rate)
        return x + dropout(F.leaky_relu(self.batch_norm2(self.w2(y)), SLOPE), rate)


class SpatialEncoder(nn.Module):
    """Keypoints of each frame to its channels, by way of twice as many."""

    def __init__(self, keypoints: int, channels: int, rate: float):
        super().__init__()
        self.rate = rate
        self.fc_1, self.bn_1 = nn.Conv1d(2 * keypoints, 2 * channels, 1), nn.BatchNorm1d(2 * channels)
        self.layers = nn.ModuleList([Residual(2 * channels, rate)])
        self.fc_2 = nn.Conv1d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode x (B, 2 * K, F) -> (B, C, F)."""
        x = dropout(F.leaky_relu(self.bn_1(self.fc_1(x)), SLOPE), self.rate if self.training else 0)
        for layer in self.layers:
            x = layer(x)
        return self.fc_2(x)


class PSTMO(FullToSingle):
    """(B, F, K, 2) normalised screen coordinates -> (B, 1, J, 3) metres, root-relative: the pose of the centre."""

    title = 'P-STMO'
    Config = PSTMOConfig
    recipe = Recipe(epochs=79, batch=160, optimizer='amsgrad', lr=7e-4, lr_decay=0.97, dropout=0.1, loss='mpjpe',
                    objective='plain', root='zero', seed=1)
    public_keys = ('encoder.fc_1.weight', 'Transformer_reduce.model.pos_embedding_1')
    begins_with = MappingProxyType({'pstmo_pretraining': ('encoder.', 'Transformer.')})
    paper = 'Shan et al., ECCV 2022'
    results = (  # which of the three with CPN has a P-MPJPE of 34.4 is not stated
        Published('cpn_ft_h36m_dbb', 243, 42.1, None, 'readme', f'4 blocks, {REFINED}'),
        Published('cpn_ft_h36m_dbb', 243, 42.8, None, 'readme', '4 blocks'),
        Published('cpn_ft_h36m_dbb', 243, 43.0, None, 'readme'),
        Published('gt', 243, 29.3, None, 'cited'),
    )
    published = MappingProxyType({('h36m', 'cpn_ft_h36m_dbb'): ('P-STMO, 243 frames, published P-MPJPE', {
        'Directions': 31.3, 'Discussion': 35.2, 'Eating': 32.9, 'Greeting': 33.9, 'Phoning': 35.4, 'Photo': 39.3,
        'Posing': 32.5, 'Purchases': 31.5, 'Sitting': 44.6, 'SittingDown': 48.2, 'Smoking': 36.3, 'Waiting': 32.9,
        'WalkDog': 34.4, 'Walking': 23.9, 'WalkTogether': 23.9})})

    def __init__(self, config: PSTMOConfig, skeleton: Skeleton, layout: Skeleton, dropout: float = 0.1):
        """Build the model with fresh weights.

        Args:
            dropout: rate in the encoder and the transformers.

        Raises ValueError for frames whose strides are not known.
        """
        super().__init__(config, skeleton, layout, dropout)
        self.encoder = SpatialEncoder(len(layout), config.channels, dropout)

    @classmethod
    def from_public(cls, state: dict[str, torch.Tensor], skeleton: Skeleton) -> dict[str, torch.Tensor]:
        """Return a public state dict in metres: for MPI-INF-3DHP's joints, public files predict millimetres."""
        if skeleton.name != MPI_INF_3DHP.name:
            return state
        last = {f'{head}.1.{part}' for head in ('fcn', 'fcn_1') for part in ('weight', 'bias')}
        return {key: MILLIMETRE * value if key in last else value for key, value in state.items()}

    def embed(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Make a token of the keypoints of each frame: (B, 2 * K, F) -> (B, F, C)."""
        return self.encoder(keypoints).mT
