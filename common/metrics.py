"""Errors of predicted poses: one value per frame, in the unit of the input. Letters: J joints, ... any leading axes.

Source: MPJPE and P-MPJPE (protocols 1 and 2) as Human3.6M is evaluated since Martinez et al., ICCV 2017; N-MPJPE from
Rhodin et al., CVPR 2018; MPJVE from Pavllo et al., "VideoPose3D", CVPR 2019; PCK and AUC as the test scripts of
MPI-INF-3DHP (Mehta et al., 3DV 2017) compute them. No metric moves the root to zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from common.geometry.procrustes import best_rotation

PCK_THRESHOLD = 150  # millimetres
AUC_THRESHOLDS = tuple(range(0, 151, 5))


def mpjpe(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean per-joint position error: (..., J, 3) twice -> (...)."""
    return (predicted - target).norm(dim=-1).mean(dim=-1)


def p_mpjpe(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return MPJPE after each frame's best rotation, scale and translation: (..., J, 3) twice -> (...), float64."""
    return aligned_errors(predicted, target).mean(dim=-1)


def aligned_errors(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return each joint's error after the frame's best alignment: (..., J, 3) twice -> (..., J), float64."""
    p, y = _centred(predicted), _centred(target)
    # A prediction whose joints coincide has no size to scale: it remains a point.
    p_size, y_size = (x.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny ** 0.5) for x in (p, y))
    rotation, likeness = best_rotation(p.mT @ y / (p_size * y_size))
    scale = likeness[..., None, None] * y_size / p_size
    return (p @ (scale * rotation)).sub_(y).norm(dim=-1)


def _centred(points: torch.Tensor) -> torch.Tensor:
    """Subtract from points (..., J, 3) their mean, in float64."""
    points = points.to(torch.float64, copy=True)
    return points.sub_(points.mean(dim=-2, keepdim=True))


def n_mpjpe(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return MPJPE after each frame's best scale: (..., J, 3) twice -> (...)."""
    scale = (predicted * target).sum(dim=(-2, -1)) / predicted.square().sum(dim=(-2, -1)).clamp_min(
        torch.finfo(predicted.dtype).tiny)
    return mpjpe(scale[..., None, None] * predicted, target)


def pck(predicted: torch.Tensor, target: torch.Tensor, thresholds: Sequence[float]) -> torch.Tensor:
    """Return the share of joints nearer than each of T thresholds, millimetres: (..., J, 3) twice, metres -> (..., T).

    The comparison is strict: at threshold 0 the share is 0 even for a perfect prediction, so that AUC, the mean over
    its 31 thresholds, is at most 30/31.
    """
    errors = 1000 * (predicted - target).double().norm(dim=-1)  # (..., J)
    limits = torch.tensor(thresholds, dtype=errors.dtype, device=errors.device)
    return (errors[..., None] < limits).double().mean(dim=-2)


def mpjve(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean per-joint velocity error of successive frames: (..., F, J, 3) twice -> (..., F-1), per frame."""
    return mpjpe(predicted.diff(dim=-3), target.diff(dim=-3))


def pck_at_150(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the share of joints nearer than 150 mm: (..., J, 3) twice, metres -> (...)."""
    return pck(predicted, target, (PCK_THRESHOLD,))[..., 0]


def auc(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean of the PCK over its 31 thresholds: (..., J, 3) twice, metres -> (...)."""
    return pck(predicted, target, AUC_THRESHOLDS).mean(dim=-1)


@dataclass(frozen=True)
class Metric:
    """A figure of the tables. To add one, write its function and its entry at the end of METRICS.

    Attributes:
        name: its key in results files. title: its column.
        function: predicted and true poses (..., J, 3) in metres -> figures (...), of each frame or of each pair of
            neighbouring frames; of any skeleton, which it is not told.
        unit: of the column. scale: from what the function returns to that unit. decimals: shown.
        per: `frame` or `pair`: what the figures are added up over.
        by_action: whether the tables by action show it. marked: whether the test of marked frames does.
        some_joints: whether it leaves out the joints that PCK leaves out.
    """

    name: str
    title: str
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    unit: str = 'mm'
    scale: float = 1000.0
    decimals: int = 2
    per: str = 'frame'
    by_action: bool = False
    marked: bool = False
    some_joints: bool = False

    def text(self, value: float | None) -> str:
        """Return a figure as tables show it, without its unit."""
        return '-' if value is None else f'{value:.{self.decimals}f}'

    def told(self, value: float | None) -> str:
        """Return a figure with its title and unit, for a sentence."""
        return f'{self.title} {self.text(value)} {self.unit}'


# Their order is that of columns; plots show the first two.
METRICS = (
    Metric('mpjpe', 'MPJPE', mpjpe, by_action=True, marked=True),
    Metric('p_mpjpe', 'P-MPJPE', p_mpjpe, by_action=True, marked=True),
    Metric('n_mpjpe', 'N-MPJPE', n_mpjpe, by_action=True),
    Metric('mpjve', 'MPJVE', mpjve, per='pair', by_action=True),
    Metric('pck', 'PCK', pck_at_150, '%', 100.0, marked=True, some_joints=True),
    Metric('auc', 'AUC', auc, '%', 100.0, marked=True, some_joints=True),
)
