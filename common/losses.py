"""Training losses, in metres: KTPFormer's weighted MPJPE with velocity terms, and that of a refined model.

Source: the loss of Zhang et al., "MixSTE", CVPR 2022, which KTPFormer trains with; Zou and Tang, "Modulated Graph
Convolutional Network for 3D Human Pose Estimation", ICCV 2021, for refinement. Letters: B windows, F frames, J joints.
"""

import torch

from common.metrics import mpjpe

SYMMETRY_WEIGHT = 0.01
TEMPORAL_CONSISTENCY_WEIGHT = 0.5
VELOCITY_WEIGHT = 2.0


def pose_loss(predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """The parts of the loss and their weighted sum, `total`, each a scalar averaged over everything.

    Args:
        predicted, target: (B, F, J, 3) metres.
        weights: (J,) weight of each joint.

    Differences in time over zero pairs (F = 1) are 0.
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
    """How much the lengths of left and right bones differ: the mean over frames, summed over pairs, a scalar.

    Args:
        poses: (B, F, J, 3) metres.
        pairs: (P, 2, 2) left and right bone of each pair, as (joint, parent): `Skeleton.bone_pairs`.
    """
    ends = poses[:, :, pairs]  # (B, F, P, 2, 2, 3)
    lengths = (ends[..., 0, :] - ends[..., 1, :]).norm(dim=-1)  # (B, F, P, 2)
    return (lengths[..., 0] - lengths[..., 1]).abs().mean(dim=(0, 1)).sum()


def refinement_loss(base: torch.Tensor, refined: torch.Tensor, target: torch.Tensor,
                    pairs: torch.Tensor) -> torch.Tensor:
    """MPJPE of the base and of the refined poses (B, F, J, 3), and the refined bones' symmetry; a scalar."""
    return (mpjpe(base, target).mean() + mpjpe(refined, target).mean()
            + SYMMETRY_WEIGHT * bone_symmetry(refined, pairs))


def gradient_factor(total: torch.Tensor, kind: str) -> torch.Tensor | float:
    """What the gradient of the total is multiplied by, for the objective that is minimised.

    `half-square` is ½·total², whose gradient is the total times its own: the published code back-propagates the loss
    with its own value as upstream gradient. `plain` is the total itself.
    """
    return total.detach() if kind == 'half-square' else 1.0
