"""Training losses, in metres: KTPFormer's weighted MPJPE with velocity terms, MotionBERT's, and that of refined poses.

Source: the loss of Zhang et al., "MixSTE", CVPR 2022, which KTPFormer trains with; Zhu et al., "MotionBERT", ICCV 2023,
whose loss MotionAGFormer shares; Zou and Tang, "Modulated Graph Convolutional Network for 3D Human Pose Estimation",
ICCV 2021, for refinement. Letters: B windows, F frames, J joints.
"""

from collections.abc import Callable

import torch

from common.metrics import mpjpe, mpjve, n_mpjpe
from common.recipe import RefinementRecipe

TEMPORAL_CONSISTENCY_WEIGHT = 0.5
VELOCITY_WEIGHT = 2.0
MOTION_SCALE_WEIGHT, MOTION_VELOCITY_WEIGHT = 0.5, 20.0


def pose_loss(predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the parts of the loss and their weighted sum `total`, each a scalar averaged over all axes.

    Args:
        predicted, target: (B, F, J, 3) metres.
        weights: (J,) weight of each joint.

    The terms over pairs of frames are 0 where there is no pair (F = 1).
    """
    weighted_mpjpe = (weights * (predicted - target).norm(dim=-1)).mean()
    if predicted.shape[1] > 1:
        step = predicted.diff(dim=1)
        temporal_consistency = (weights[:, None] * step.square()).mean()
        velocity = (step - target.diff(dim=1)).norm(dim=-1).mean()
    else:
        temporal_consistency = velocity = weighted_mpjpe.new_zeros(())
    total = weighted_mpjpe + TEMPORAL_CONSISTENCY_WEIGHT * temporal_consistency + VELOCITY_WEIGHT * velocity
    return {'weighted_mpjpe': weighted_mpjpe, 'temporal_consistency': temporal_consistency, 'mpjve': velocity,
            'total': total}


def bone_symmetry(poses: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Return the difference in length of left and right bones, a scalar: the mean over frames, summed over pairs.

    Args:
        poses: (B, F, J, 3) metres.
        pairs: (P, 2, 2) for each pair the left and the right bone as (joint, parent), `Skeleton.bone_pairs`.
    """
    if not len(poses):  # a process without windows takes part with 0
        return poses.sum()
    ends = poses[:, :, pairs]  # (B, F, P, 2, 2, 3)
    lengths = (ends[..., 0, :] - ends[..., 1, :]).norm(dim=-1)  # (B, F, P, 2)
    return (lengths[..., 0] - lengths[..., 1]).abs().mean(dim=(0, 1)).sum()


def mean_mpjpe(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the MPJPE over all windows, frames and joints, a scalar: (B, A, J, 3) twice."""
    return mpjpe(predicted, target).mean()


def motion_loss(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return MPJPE + 0.5 N-MPJPE + 20 MPJVE inside windows, a scalar: (B, F, J, 3) twice, relative to the root.

    The velocity is 0 where there is no pair of frames (F = 1).
    """
    loss = mpjpe(predicted, target).mean() + MOTION_SCALE_WEIGHT * n_mpjpe(predicted, target).mean()
    if predicted.shape[1] > 1:
        loss = loss + MOTION_VELOCITY_WEIGHT * mpjve(predicted, target).mean()
    return loss


def refinement_loss(base: torch.Tensor, refined: torch.Tensor, target: torch.Tensor, pairs: torch.Tensor,
                    weights: RefinementRecipe,
                    criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = mean_mpjpe) -> torch.Tensor:
    """Return the MPJPE of refined poses, their bones' symmetry and the criterion of the base's poses, as weighed.

    Args:
        base, refined, target: (B, A, J, 3) metres.
        pairs: as `bone_symmetry` takes them.
        weights: of base and symmetry.
    """
    if not len(refined):  # a process without windows takes part with 0
        return refined.sum() + base.sum()
    loss = mean_mpjpe(refined, target)
    if weights.base:
        loss = loss + weights.base * criterion(base, target)
    if weights.symmetry:
        loss = loss + weights.symmetry * bone_symmetry(refined, pairs)
    return loss


def gradient_factor(total: torch.Tensor, kind: str) -> torch.Tensor | float:
    """Return the factor on the gradient of the total, for the objective `kind`.

    `half-square` minimises ½·total², whose gradient is that of the total times the total: the published code
    back-propagates the loss with its own value as upstream gradient. `plain` minimises the total itself.
    """
    return total.detach() if kind == 'half-square' else 1.0
