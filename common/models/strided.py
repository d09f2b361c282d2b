"""StridedTransformer: all frames of a window to the pose of its centre, by strided convolutions inside a transformer.

Source: Li, Liu, Ding, Liu, Wang and Yang, "Exploiting Temporal Contexts with Strided Transformer for 3D Human Pose
Estimation", TMM 2022 (arXiv 2103.14304). Its transformers and heads are those of `strided_parts`. Keypoints and joints
of different layouts, which the published code does not take, size the ends of the network. Letters: B windows, F
frames, K keypoints in, J joints out, C channels. Parameter names are those of the public checkpoints, which therefore
load as they are.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import nn

from common.models.layers import dropout as drop
from common.models.lifter import shape_in
from common.models.strided_parts import FullToSingle, StridedConfig, sizes_in
from common.recipe import REFINED, Published, Recipe
from common.skeleton import Skeleton

ENCODER_SHARE = 2.5  # the rate of dropout in the encoder over that of the transformers, as published: 0.25 and 0.1


@dataclass(frozen=True)
class StridedTransformerConfig(StridedConfig):
    """The sizes of a StridedTransformer: see `StridedConfig`. Raises ValueError for sizes that cannot be."""

    frames: int = 351

    known_strides: ClassVar = {27: (3, 3, 3), 351: (3, 9, 13)}

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> 'StridedTransformerConfig':
        """Read the sizes from the shapes of a public state dict, which does not tell strides and heads.

        Raises ValueError when the weights are not StridedTransformer's.
        """
        shape_in(state, 'encoder.0.weight', 3)
        return cls(**sizes_in(state))


class StridedTransformer(FullToSingle):
    """(B, F, K, 2) normalised screen coordinates -> (B, 1, J, 3) metres, root-relative: the pose of the centre."""

    title = 'StridedTransformer'
    Config = StridedTransformerConfig
    recipe = Recipe(epochs=20, batch=256, optimizer='amsgrad', lr=1e-3, lr_decay=0.95, lr_drop_every=5, dropout=0.1,
                    loss='mpjpe', objective='plain', root='zero', seed=1)
    public_keys = ('encoder.0.weight', 'Transformer_reduce.model.pos_embedding_1')
    paper = 'Li et al., TMM 2022'
    results = (
        Published('cpn_ft_h36m_dbb', 351, 43.7, 35.2, 'cited', REFINED),
        Published('cpn_ft_h36m_dbb', 81, 45.4, None, 'issue', REFINED),
        Published('cpn_ft_h36m_dbb', 27, 46.9, None, 'issue', REFINED),
        Published('cpn_ft_h36m_dbb', 81, 47.5, None, 'issue', 'of users'),
        Published('cpn_ft_h36m_dbb', 27, 48.6, 38.2, 'issue', "epoch 10 of the author's log"),
        Published('gt', 351, 28.5, None, 'cited', REFINED),
    )
    published = MappingProxyType({('h36m', 'cpn_ft_h36m_dbb'): (
        'StridedTransformer with refinement, 351 frames, published P-MPJPE', {
        'Directions': 32.7, 'Discussion': 35.5, 'Eating': 32.5, 'Greeting': 35.4, 'Phoning': 35.9, 'Photo': 41.6,
        'Posing': 33.0, 'Purchases': 31.9, 'Sitting': 45.1, 'SittingDown': 50.1, 'Smoking': 36.3, 'Waiting': 33.5,
        'WalkDog': 35.1, 'Walking': 23.9, 'WalkTogether': 25.0})})

    def __init__(self, config: StridedTransformerConfig, skeleton: Skeleton, layout: Skeleton, dropout: float = 0.1):
        """Build the model with fresh weights.

        Args:
            dropout: rate in the transformers; in front of them it is two and a half times as high.

        Raises ValueError for a rate of which that makes 1 or more, and for frames whose strides are not known.
        """
        super().__init__(config, skeleton, layout, dropout)
        self.encoder_rate = ENCODER_SHARE * dropout
        if self.encoder_rate >= 1:
            raise ValueError(f'dropout is {dropout}, expected less than {1 / ENCODER_SHARE}: in front of the '
                             f'transformers it is {ENCODER_SHARE} times as high')
        self.encoder = nn.Sequential(nn.Conv1d(2 * len(layout), config.channels, 1), nn.BatchNorm1d(config.channels))

    def embed(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Make a token of the keypoints of each frame: (B, 2 * K, F) -> (B, F, C)."""
        return drop(torch.relu(self.encoder(keypoints)), self.encoder_rate if self.training else 0).mT
