"""Semi-supervised training of VideoPose3D: windows without 3D truth teach by where their poses project to.

Source: Pavllo et al., "3D human pose estimation in video with temporal convolutions and semi-supervised training",
CVPR 2019, section 4. A second network predicts where the root is, so that a pose can be projected. Letters: B windows,
F frames of a window, A frames that it answers for, J joints, K keypoints; to compare a projection with keypoints, these
must be the joints.
"""

from typing import Any

import torch

from common.augment import Batch, Mirror
from common.geometry.projection import project
from common.models.around import Around
from common.models.lifter import Criterion, Lifter
from common.skeleton import Skeleton

ROOT_ALONE = Skeleton('root', ('root',), (-1,))


def trajectory_loss(predicted: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    """Return the mean distance of predicted from true roots, (B, A, 3) metres each, over their true depths."""
    return ((predicted - root).norm(dim=-1) / root[..., 2]).mean()


def projection_loss(points: torch.Tensor, keypoints: torch.Tensor, intrinsic: torch.Tensor,
                    linear: bool = False) -> torch.Tensor:
    """Return the mean distance on the screen between where points project to and the keypoints.

    Args:
        points: (B, A, J, 3) metres from the camera. keypoints: (B, A, J, 2). intrinsic, linear: see `project`.
    """
    return (project(points, intrinsic, linear) - keypoints).norm(dim=-1).mean()


def mean_bone_lengths(poses: torch.Tensor, bones: torch.Tensor) -> torch.Tensor:
    """Return each bone's mean length over windows and frames: poses (B, A, J, 3), bones (N, 2) of joints -> (N,)."""
    ends = poses[:, :, bones]  # (B, A, N, 2, 3)
    return (ends[..., 0, :] - ends[..., 1, :]).norm(dim=-1).mean(dim=(0, 1))


def bone_loss(labelled: torch.Tensor, unlabelled: torch.Tensor, bones: torch.Tensor) -> torch.Tensor:
    """Return the mean over bones of how much their mean lengths differ between poses with and without truth.

    Args:
        labelled, unlabelled: (B, A, J, 3) predicted, of as many windows each as there are; both get a gradient.
        bones: (N, 2) joint and parent, `Skeleton.edges`.
    """
    return (mean_bone_lengths(labelled, bones) - mean_bone_lengths(unlabelled, bones)).abs().mean()


def semi_supervised_loss(model: Lifter, trajectory: Lifter, labelled: Batch, unlabelled: Batch | None,
                         bones: torch.Tensor, criterion: Criterion, linear: bool = False) -> torch.Tensor:
    """Return the loss of a step, which trains the model of poses and that of the root together.

    All windows run as one batch, so that batch norms see both kinds.

    Args:
        labelled: windows with `poses` and `root`. unlabelled: with `intrinsic`; None while warming up.
        bones: see `bone_loss`. criterion: what compares labelled poses with the truth. linear: see `project`.

    Raises ValueError for batches that lack these, and for keypoints that are not the joints.
    """
    if labelled.root is None or (unlabelled is not None and unlabelled.intrinsic is None):
        raise ValueError('expected labelled windows with root and unlabelled ones with intrinsic, got some without')
    keypoints, count = labelled.keypoints, len(labelled.keypoints)
    if unlabelled is not None:
        keypoints = torch.cat([keypoints, unlabelled.keypoints])
    poses, roots = model(keypoints), trajectory(keypoints)
    loss = criterion(poses[:count], labelled.truth) + trajectory_loss(roots[:count, :, 0], labelled.root)
    if unlabelled is None or unlabelled.intrinsic is None:
        return loss
    seen = unlabelled.keypoints[:, model.answers.start:][:, :poses.shape[1]]
    if seen.shape[2] != poses.shape[2]:
        raise ValueError(f'{poses.shape[2]} joints cannot be compared with {seen.shape[2]} keypoints')
    return (loss + projection_loss(poses[count:] + roots[count:], seen, unlabelled.intrinsic, linear)
            + bone_loss(poses[:count], poses[count:], bones))


class SemiSupervised(Around):
    """A lifter and a network for the root's place, trained together, also by windows without truth.

    The second network is there for training alone: what comes out is what the lifter predicts.
    """

    bones: torch.Tensor

    def __init__(self, base: Lifter, trajectory: Lifter, skeleton: Skeleton, layout: Skeleton):
        """Bring the two together. Raises ValueError for keypoints that are not the joints.

        Args:
            trajectory: of the same windows, for the joints of ROOT_ALONE: (B, A, 1, 3) metres from the camera.
        """
        super().__init__(base)
        if layout != skeleton:
            raise ValueError(f'windows without truth need a keypoint for each joint to compare it with, not '
                             f'{layout.name} for {skeleton.name}')
        self.base, self.trajectory = base, trajectory
        self.needs_beside = base.needs | {'intrinsic'}
        self.register_buffer('bones', torch.tensor(skeleton.edges), persistent=False)

    @property
    def needs_to_learn(self) -> frozenset[str]:
        """Return what windows with truth tell: where the root is, too."""
        return self.needs | {'root'}

    @property
    def core(self) -> Lifter:
        """Return the base."""
        return self.base

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Let both networks make ready for an epoch."""
        super().begin_epoch(epoch, epochs)
        self.trajectory.begin_epoch(epoch, epochs)

    def begin_step(self, seed: int, windows: int, part: slice) -> None:
        """Let both networks make ready for a step."""
        super().begin_step(seed, windows, part)
        self.trajectory.begin_step(seed, windows, part)

    def compile(self, *how: Any, **options: Any) -> None:
        """Compile both networks, each of which the loss calls by itself."""
        self.base.compile(*how, **options)
        self.trajectory.compile(*how, **options)

    def forward(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Lift as the base does: (B, F, K, 2) -> (B, A, J, 3)."""
        return self.base(keypoints)

    def read(self, batch: Batch) -> torch.Tensor:
        """Return the base's poses (B, A, J, 3) of a batch."""
        return self.base.read(batch)

    def loss(self, batch: Batch, criterion: Criterion) -> torch.Tensor:
        """Return the criterion of the poses and the loss of the root's places."""
        return semi_supervised_loss(self.base, self.trajectory, batch, None, self.bones, criterion)

    def loss_beside(self, batch: Batch, beside: Batch, criterion: Criterion) -> torch.Tensor:
        """Return that, and how the windows beside are seen and how long their bones are."""
        return semi_supervised_loss(self.base, self.trajectory, batch, beside, self.bones, criterion)

    def lift(self, view: Batch, mirror: Mirror | None) -> dict[str, torch.Tensor]:
        """Return the base's predictions."""
        return self.base.lift(view, mirror)

    def reads(self, name: str) -> frozenset[str]:
        """Return what the base's prediction reads besides keypoints."""
        return self.base.reads(name)

    def without_truth(self) -> Lifter:
        """Return the base."""
        return self.base.without_truth()
