"""Semi-supervised training of VideoPose3D: windows without 3D truth teach by where their poses project to.

Source: Pavllo et al., "3D human pose estimation in video with temporal convolutions and semi-supervised training",
CVPR 2019, section 4. A second network predicts where the root is, so that a pose can be projected. No command trains
with this yet. Letters: B windows, F frames of a window, A frames that it answers for, J joints, K keypoints; to compare
a projection with keypoints, these must be the joints.
"""

import torch

from common.augment import Batch
from common.models.lifter import Criterion, Lifter
from common.models.videopose3d import VideoPose3D, VideoPose3DConfig
from common.skeleton import Skeleton

ROOT_ALONE = Skeleton('root', ('root',), (-1,))


def trajectory_model(config: VideoPose3DConfig, layout: Skeleton, dropout: float = 0.25) -> VideoPose3D:
    """Return a fresh network for the root's place: keypoints (B, F, K, 2) -> (B, A, 1, 3) metres from the camera."""
    return VideoPose3D(config, ROOT_ALONE, layout, dropout)


def project(points: torch.Tensor, intrinsic: torch.Tensor, linear: bool = False) -> torch.Tensor:
    """Project camera-space points to normalised screen coordinates, as `common.geometry.camera.project` does arrays.

    Args:
        points: (B, A, J, 3) metres. intrinsic: (B, 9) the cameras of the windows.
        linear: leave the distortion out.

    Returns (B, A, J, 2).
    """
    focal, centre, radial, tangential = (part[:, None, None] for part in intrinsic.split([2, 2, 3, 2], dim=-1))
    xy = (points[..., :2] / points[..., 2:]).clamp(-1, 1)
    if linear:
        return focal * xy + centre
    r2 = xy.square().sum(-1, keepdim=True)
    powers = torch.cat([r2, r2 ** 2, r2 ** 3], dim=-1)
    stretch = 1 + (powers * radial).sum(-1, keepdim=True) + (xy * tangential).sum(-1, keepdim=True)
    return focal * (xy * stretch + tangential * r2) + centre


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
