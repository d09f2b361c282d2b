"""Projection of tensors, as `common.geometry.camera.project` projects arrays. Letters: B windows."""

import torch


def project(points: torch.Tensor, intrinsic: torch.Tensor, linear: bool = False) -> torch.Tensor:
    """Project camera-space points to normalised screen coordinates.

    Args:
        points: (B, ..., 3) metres. intrinsic: (B, 9) the cameras of the windows.
        linear: leave the distortion out.

    Returns (B, ..., 2).
    """
    by_window = intrinsic.view(len(intrinsic), *[1] * (points.ndim - 2), intrinsic.shape[-1])
    focal, centre, radial, tangential = by_window.split([2, 2, 3, 2], dim=-1)
    xy = (points[..., :2] / points[..., 2:]).clamp(-1, 1)
    if linear:
        return focal * xy + centre
    r2 = xy.square().sum(-1, keepdim=True)
    powers = torch.cat([r2, r2 ** 2, r2 ** 3], dim=-1)
    stretch = 1 + (powers * radial).sum(-1, keepdim=True) + (xy * tangential).sum(-1, keepdim=True)
    return focal * (xy * stretch + tangential * r2) + centre
