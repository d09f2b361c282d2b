"""Mirroring left and right: the one augmentation of training, and the second half of every test."""

import torch


def mirror(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Negate the horizontal coordinate and swap left and right.

    Args:
        x: (..., J, 2 or 3) screen coordinates or camera-space poses; x is the horizontal axis of both.
        order: (J,) the permutation `Skeleton.mirror` of the layout that x is in.
    """
    swapped = x[..., order, :]
    return torch.cat([-swapped[..., :1], swapped[..., 1:]], dim=-1)


def mirror_intrinsic(intrinsic: torch.Tensor) -> torch.Tensor:
    """The cameras (..., 9) that see mirrored people as `mirror` shows them: centre x and p1 negated."""
    mirrored = intrinsic.clone()
    mirrored[..., 2].neg_()
    mirrored[..., 7].neg_()
    return mirrored
