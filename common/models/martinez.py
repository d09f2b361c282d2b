"""3d-pose-baseline: 2D keypoints of single frames to 3D poses by linear layers alone.

Source: Martinez, Hossain, Romero and Little, "A simple yet effective baseline for 3d human pose estimation", ICCV 2017,
as its PyTorch port trains it (weigq, 2018). Keypoints and poses are standardised coordinate by coordinate, with
statistics of the training frames. The neck is not read, the root not predicted. Letters: B windows, F frames, K
keypoints, J joints, C channels. Parameter names are those of the public checkpoints, which therefore load as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from common.augment import Batch
from common.models.layers import Linear, dropout
from common.models.lifter import Criterion, Lifter, check_sizes, shape_in
from common.recipe import Published, Recipe
from common.skeleton import Skeleton

UNREAD = 'neck'  # Human3.6M's detections have a nose in this place
LEAST_STD = 1e-6  # a coordinate that spreads less than this does not move, and is left in its unit


@dataclass(frozen=True)
class MartinezConfig:
    """The sizes of the baseline. `depth` counts its residual stages. Raises ValueError for sizes that cannot be."""

    channels: int = 1024
    depth: int = 2

    def __post_init__(self) -> None:
        check_sizes(self, 'channels', 'depth')

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> 'MartinezConfig':
        """Read the sizes from the shapes of a public state dict. Raises ValueError when it is another model's."""
        channels, _ = shape_in(state, 'w1.weight', 2)
        shape_in(state, 'linear_stages.0.w1.weight', 2)
        return cls(channels, len({key.split('.')[1] for key in state if key.startswith('linear_stages.')}))


class Stage(nn.Module):
    """Two linear layers, each normalised and rectified, beside the input."""

    def __init__(self, channels: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.w1, self.batch_norm1 = Linear(channels, channels), nn.BatchNorm1d(channels)
        self.w2, self.batch_norm2 = Linear(channels, channels), nn.BatchNorm1d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x (B*F, C) -> (B*F, C)."""
        rate = self.dropout if self.training else 0
        branch = dropout(self.batch_norm1(self.w1(x)).relu(), rate)
        return x + dropout(self.batch_norm2(self.w2(branch)).relu(), rate)


class Martinez(Lifter):
    """(B, F, K, 2) normalised screen coordinates -> (B, F, J, 3) metres, root-relative, camera axes; each frame by
    itself, the root at 0."""

    title = '3d-pose-baseline'
    paper = 'Martinez et al., ICCV 2017'
    Config = MartinezConfig
    fewest = 2  # the batch norms see one row of each window
    recipe = Recipe(epochs=200, batch=64, optimizer='adam', lr=1e-3, lr_decay=0.96, lr_decay_steps=100_000, clip=1.0,
                    dropout=0.5, loss='mse', objective='plain', root='zero', seed=1234, augment=False, flip=False)
    public_keys = ('w1.weight', 'linear_stages.0.w1.weight')
    measured = True
    measured_keys = ('keypoints_mean', 'keypoints_std', 'poses_mean', 'poses_std')
    results = (
        Published(keypoints='gt', frames=1, mpjpe=45.5, p_mpjpe=None, source='paper'),
        Published(keypoints='gt', frames=1, mpjpe=43.0, p_mpjpe=None, source='README of the port',
                  remark='mean of its table by action'),
    )

    keypoints_mean: torch.Tensor
    keypoints_std: torch.Tensor
    poses_mean: torch.Tensor
    poses_std: torch.Tensor
    _read: torch.Tensor
    _predicted: torch.Tensor

    def __init__(self, config: MartinezConfig, skeleton: Skeleton, layout: Skeleton, dropout: float = 0.5):
        """Build the model with fresh weights.

        Args:
            dropout: rate of single values after each ReLU.
        """
        super().__init__(config)
        channels = config.channels
        read = _read_of(layout)
        predicted = [j for j in range(len(skeleton)) if j != skeleton.root]
        self.keypoints, self.root, self.dropout = len(layout), skeleton.root, dropout
        self.register_buffer('_read', torch.tensor(read), persistent=False)
        self.register_buffer('_predicted', torch.tensor(predicted), persistent=False)
        self.register_buffer('keypoints_mean', torch.zeros(len(read), 2))
        self.register_buffer('keypoints_std', torch.ones(len(read), 2))
        self.register_buffer('poses_mean', torch.zeros(len(predicted), 3))
        self.register_buffer('poses_std', torch.ones(len(predicted), 3))
        self.w1, self.batch_norm1 = nn.Linear(2 * len(read), channels), nn.BatchNorm1d(channels)
        self.linear_stages = nn.ModuleList(Stage(channels, dropout) for _ in range(config.depth))
        self.w2 = nn.Linear(channels, 3 * len(predicted))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @torch.no_grad()
    def measure(self, keypoints: torch.Tensor, poses: torch.Tensor) -> None:
        """Take means and standard deviations from all training frames: (N, K, 2) screen coordinates, (N, J, 3) metres.
        """
        for mean, std, values in ((self.keypoints_mean, self.keypoints_std, keypoints[:, self._read]),
                                  (self.poses_mean, self.poses_std, poses[:, self._predicted])):
            spread, middle = torch.std_mean(values.double(), dim=0, correction=0)
            mean.copy_(middle)
            std.copy_(spread.where(spread > LEAST_STD, 1.0))

    def forward(self, keypoints: torch.Tensor, standardised: bool = False) -> torch.Tensor:
        """Lift keypoints (B, F, K, 2) -> (B, F, J, 3), metres or standardised, the root at 0.

        Raises ValueError for another K than the model's.
        """
        poses = self._standardised(keypoints)
        return self._with_root(poses if standardised else self.poses_mean + self.poses_std * poses)

    def loss(self, batch: Batch, criterion: Criterion) -> torch.Tensor:
        """Return the criterion of standardised coordinates, over all joints but the root."""
        truth = (batch.truth[:, :, self._predicted] - self.poses_mean) / self.poses_std
        joints = batch.truth.shape[2]
        # A criterion takes whole poses, and its mean counts the root, which has no error.
        # The model is called as a module, which is what is compiled.
        whole = criterion(self(batch.keypoints, standardised=True), self._with_root(truth))
        return whole * (joints / (joints - 1))

    def _standardised(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Return standardised poses without the root (B, F, J-1, 3) of keypoints (B, F, K, 2)."""
        if keypoints.ndim != 4 or keypoints.shape[2:] != (self.keypoints, 2):
            raise ValueError(f'expected keypoints (B, F, {self.keypoints}, 2), got {tuple(keypoints.shape)}')
        x = (keypoints[:, :, self._read] - self.keypoints_mean) / self.keypoints_std
        x = self.batch_norm1(self.w1(x.flatten(2).flatten(0, 1))).relu()  # (B*F, C) from here on
        x = dropout(x, self.dropout if self.training else 0).to(self.tokens or x.dtype)
        for stage in self.linear_stages:
            x = stage(x)  # not `through`: computed twice, its batch norms would count every step twice
        return self.w2(x.to(keypoints.dtype)).view(*keypoints.shape[:2], len(self._predicted), 3)

    def _with_root(self, poses: torch.Tensor) -> torch.Tensor:
        """Put the root at 0 into its place: poses (B, F, J-1, 3) -> (B, F, J, 3)."""
        before, after = poses[:, :, :self.root], poses[:, :, self.root:]
        return torch.cat([before, poses.new_zeros(*poses.shape[:2], 1, 3), after], dim=2)

    @classmethod
    def keypoints_of(cls, state: Mapping[str, torch.Tensor]) -> int:
        """Return for how many keypoints a public state dict was made."""
        return state['w1.weight'].shape[1] // 2

    @classmethod
    def keypoints_in(cls, layout: Skeleton) -> int:
        """Return how many keypoints of a layout the model reads: all but the neck."""
        return len(_read_of(layout))


def _read_of(layout: Skeleton) -> list[int]:
    """Return the keypoints of a layout that are read."""
    return [k for k, name in enumerate(layout.joints) if name != UNREAD]
