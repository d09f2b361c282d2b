"""Errors of predicted poses, one figure per frame, in the unit of the input. Letters: J joints, ... any leading axes.

Source: MPJPE and P-MPJPE (protocols 1 and 2) as Human3.6M is evaluated since Martinez et al., ICCV 2017; N-MPJPE from
Rhodin et al., CVPR 2018; MPJVE from Pavllo et al., "VideoPose3D", CVPR 2019; PCK and AUC as the test scripts of
MPI-INF-3DHP (Mehta et al., 3DV 2017) compute them. None of them moves the root to zero.
"""

import torch

from common.geometry.procrustes import best_rotation

PCK_THRESHOLD = 150  # millimetres
AUC_THRESHOLDS = tuple(range(0, 151, 5))


def mpjpe(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean per-joint position error: (..., J, 3) twice -> (...)."""
    return (predicted - target).norm(dim=-1).mean(dim=-1)


def p_mpjpe(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """MPJPE after each frame's best rotation, scale and translation: (..., J, 3) twice -> (...) in float64."""
    p, y = _centred(predicted), _centred(target)
    # A prediction whose joints coincide has no scale: it stays the point it is.
    p_size, y_size = (x.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny ** 0.5) for x in (p, y))
    rotation, likeness = best_rotation(p.mT @ y / (p_size * y_size))
    scale = likeness[..., None, None] * y_size / p_size
    return (p @ (scale * rotation)).sub_(y).norm(dim=-1).mean(dim=-1)


def _centred(points: torch.Tensor) -> torch.Tensor:
    """Points (..., J, 3) about their mean, in float64."""
    points = points.to(torch.float64, copy=True)
    return points.sub_(points.mean(dim=-2, keepdim=True))


def n_mpjpe(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """MPJPE after each frame's best scale alone: (..., J, 3) twice -> (...)."""
    scale = (predicted * target).sum(dim=(-2, -1)) / predicted.square().sum(dim=(-2, -1)).clamp_min(
        torch.finfo(predicted.dtype).tiny)
    return mpjpe(scale[..., None, None] * predicted, target)


def pck(predicted: torch.Tensor, target: torch.Tensor, thresholds) -> torch.Tensor:
    """The share of joints nearer than each of T thresholds in millimetres: (..., J, 3) twice, metres -> (..., T).

    Nearer, not as near: at threshold 0 the share is 0 for a perfect prediction too, so that AUC, the mean over its 31
    thresholds, is 30/31 at the most.
    """
    errors = 1000 * (predicted - target).double().norm(dim=-1)  # (..., J)
    limits = torch.tensor(thresholds, dtype=errors.dtype, device=errors.device)
    return (errors[..., None] < limits).double().mean(dim=-2)


def mpjve(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean per-joint velocity error between neighbours: (..., F, J, 3) twice -> (..., F-1), length per frame."""
    return mpjpe(predicted.diff(dim=-3), target.diff(dim=-3))
