"""Batches of windows, and mirroring left and right: the augmentation of training, and the second half of every test.

Letters: B windows, F frames, A frames that a window answers for, S frames whose truth a loss reads (the same A unless a
model says otherwise), K keypoints, J joints.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch


def mirror(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Negate the horizontal coordinate and swap left and right.

    Args:
        x: (..., J, 2 or 3) screen coordinates, also with confidence, or camera-space poses; x is the horizontal axis.
        order: (J,) the permutation `Skeleton.mirror` of the layout that x is in.
    """
    swapped = x[..., order, :]
    return torch.cat([-swapped[..., :1], swapped[..., 1:]], dim=-1)


def mirror_intrinsic(intrinsic: torch.Tensor) -> torch.Tensor:
    """Return the cameras (..., 9) that see mirrored people as `mirror` shows them: centre x and p1 negated."""
    mirrored = intrinsic.clone()
    mirrored[..., 2].neg_()
    mirrored[..., 7].neg_()
    return mirrored


def generator_of(device: torch.device, *words: int) -> torch.Generator:
    """Return a generator whose stream is a function of these numbers, each from 0 to 2^32 - 1.

    Always of equally many, since zeros at the end would make no difference.
    """
    seed = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(seed >> 1))


class Batch(NamedTuple):
    """Windows as a model reads them. What nobody asked for, or nobody knows, is None.

    Attributes:
        keypoints: (B, F, K, 2) normalised screen coordinates, or (B, F, K, 3) with confidence.
        poses: (B, S, J, 3) metres in camera axes, relative to the root: the truth.
        intrinsic: (B, 9) intrinsic vectors of the cameras.
        root_depth: (B, A) metres from the camera to the root along its axis.
        root: (B, A, 3) metres, the root in camera axes.
        window: (B,) int64, a number of its own for each test window of a store, none of them negative.
    """

    keypoints: torch.Tensor
    poses: torch.Tensor | None = None
    intrinsic: torch.Tensor | None = None
    root_depth: torch.Tensor | None = None
    root: torch.Tensor | None = None
    window: torch.Tensor | None = None

    @property
    def truth(self) -> torch.Tensor:
        """Return `poses`. Raises ValueError for a batch that was made without them."""
        if self.poses is None:
            raise ValueError('expected a batch with true poses, got one without')
        return self.poses

    def beside(self, other: 'Batch') -> 'Batch':
        """Return the windows of both, one after the other."""
        return self._joined(other, lambda mine, its: torch.cat([mine, its]))

    def where(self, chosen: torch.Tensor, other: 'Batch') -> 'Batch':
        """Return the other's windows where `chosen` (B,) is True, and these elsewhere."""
        return self._joined(other, lambda mine, its: torch.where(chosen.view(-1, *[1] * (mine.ndim - 1)), its, mine))

    def _joined(self, other: 'Batch', join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> 'Batch':
        """Return what `join` makes of each pair of tensors; None where either is."""
        def both(mine: torch.Tensor | None, its: torch.Tensor | None) -> torch.Tensor | None:
            return None if mine is None or its is None else join(mine, its)
        return Batch(join(self.keypoints, other.keypoints), both(self.poses, other.poses),
                     both(self.intrinsic, other.intrinsic), both(self.root_depth, other.root_depth),
                     both(self.root, other.root))


class Mirror(NamedTuple):
    """Left and right of a layout of keypoints (K,) and of a skeleton's joints (J,): the permutations that swap them."""

    keypoints: torch.Tensor
    joints: torch.Tensor

    def poses(self, poses: torch.Tensor) -> torch.Tensor:
        """Return poses (..., J, 3) mirrored."""
        return mirror(poses, self.joints)

    def batch(self, batch: Batch) -> Batch:
        """Return all that a batch holds as a mirror shows it."""
        root = batch.root
        return Batch(
            mirror(batch.keypoints, self.keypoints),
            None if batch.poses is None else mirror(batch.poses, self.joints),
            None if batch.intrinsic is None else mirror_intrinsic(batch.intrinsic),
            batch.root_depth,
            None if root is None else torch.cat([-root[..., :1], root[..., 1:]], dim=-1))
