"""Sequences on the device, and the windows gathered from them by index. Nothing here touches the CPU once it is built.

Letters: N frames of all sequences together, S sequences, W windows, B windows of a batch, F frames of a window,
K keypoints, J joints.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from common.augment import mirror, mirror_intrinsic
from common.skeleton import Skeleton
from common.windows import chunk_starts, windows_of


class SequenceStore:
    """All sequences of a split, end to end, as two tensors on one device.

    Attributes:
        keypoints: (N, K, 2) float32 normalised screen coordinates.
        poses: (N, J, 3) float32 metres, root-relative.
        root_depths: (N,) float32 metres from the camera to the root joint along its axis; None where unknown.
        intrinsics: (S, 9) float32 intrinsic vectors of the cameras; None where some are unknown.
        root: index of the root joint.
        marks: (N,) int64 which frames count at test, as `PoseDataset.marks`; None where all do.
        takes: (subject, action, camera) of each sequence.
        lengths: frames of each sequence.
    """

    def __init__(self, sequences: list, layout: Skeleton, skeleton: Skeleton, device: torch.device):
        """sequences: objects like `datasets.Sequence`."""
        self.device = device
        self.takes = [(s.subject, s.action, s.camera) for s in sequences]
        self.lengths = [len(s.poses) for s in sequences]
        self.keypoints = torch.from_numpy(np.concatenate([s.keypoints for s in sequences])).to(device)
        self.poses = torch.from_numpy(np.concatenate([s.poses for s in sequences])).to(device)
        self.root = skeleton.root
        self.root_depths = self.intrinsics = None
        if all(s.root_depth is not None and s.intrinsic is not None for s in sequences):
            self.root_depths = torch.from_numpy(np.concatenate([s.root_depth for s in sequences])).to(device)
            self.intrinsics = torch.from_numpy(np.stack([s.intrinsic for s in sequences])).to(device)
        self.marks = None
        if any(s.marks is not None for s in sequences):
            marks = [np.full(len(s.poses), -1) if s.marks is None else s.marks for s in sequences]
            self.marks = torch.from_numpy(np.concatenate(marks)).to(device)
        self.keypoint_mirror = torch.tensor(layout.mirror, device=device)
        self.joint_mirror = torch.tensor(skeleton.mirror, device=device)
        length = torch.tensor(self.lengths, device=device)
        self._end = length.cumsum(0)
        self._begin = self._end - length

    def __len__(self):
        return len(self.poses)

    def frame_index(self, sequence: torch.Tensor, start: torch.Tensor, frames: int) -> torch.Tensor:
        """(B, F) rows of the store that windows read: sequence (B,) and start (B,), edges replicated."""
        begin, end = self._begin[sequence, None], self._end[sequence, None]
        frame = begin + start[:, None] + torch.arange(frames, device=self.device)
        return torch.minimum(torch.maximum(frame, begin), end - 1)


class Batch(NamedTuple):
    """One process's part of a step.

    Attributes:
        step: its number in the epoch.
        whole, before: windows of the whole step, and those of them before this part.
        keypoints: (B, F, K, 2). poses: (B, F, J, 3).
        intrinsic: (B, 9) and root_depth: (B, F), what a refinement reads; None unless the sampler was asked for them.
    """

    step: int
    whole: int
    before: int
    keypoints: torch.Tensor
    poses: torch.Tensor
    intrinsic: torch.Tensor | None = None
    root_depth: torch.Tensor | None = None


class WindowSampler:
    """Epochs of shuffled training windows.

    The order is the published one: sequence by sequence all windows, then all of them mirrored, permuted once per epoch
    by a single numpy RandomState that lives as long as the run.
    """

    def __init__(self, store: SequenceStore, frames: int, flip: bool, seed: int, step: int | None = None,
                 views: bool = False):
        """Lay the windows out.

        Args:
            flip: whether every window comes a second time, mirrored.
            step: frames from window to window, F if None.
            views: whether batches tell the camera and the root's depth, which the store must then know.
        """
        self.store, self.frames, self.seed, self.views = store, frames, seed, views
        sequence, start = windows_of(store.lengths, frames, partial(chunk_starts, step=step))
        table = np.stack([sequence, start, np.zeros_like(start)], axis=1)
        if flip:
            # Mirrored windows follow the plain ones of the same sequence.
            table = np.concatenate([table, table + [0, 0, 1]])
            table = table[np.argsort(table[:, 0] * 2 + table[:, 2], kind='stable')]
        self._table = torch.from_numpy(table).to(store.device)
        self._restart()

    def __len__(self):
        """Windows of an epoch."""
        return len(self._table)

    def _restart(self):
        self._random, self._drawn = np.random.RandomState(self.seed), 0

    def order(self, draw: int) -> np.ndarray:
        """The permutation (W,) that is the draw-th of the run, counted from 0; earlier ones are drawn on the way."""
        if draw < self._drawn:
            self._restart()
        while True:
            order = self._random.permutation(len(self))
            self._drawn += 1
            if self._drawn > draw:
                return order

    def epoch(self, draw: int, batch: int, share=lambda count: (0, count), first_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, the last one may be short.

        Args:
            batch: windows of a step, those of all processes together.
            share: count -> [begin, end), this process's part of a step's windows.
            first_step: the step to begin with.
        """
        table = self._table[torch.from_numpy(self.order(draw)).to(self.store.device)]
        for step in range(first_step, self.steps(batch)):
            windows = table[step * batch:(step + 1) * batch]
            begin, end = share(len(windows))
            yield Batch(step, len(windows), begin, *self.gather(windows[begin:end]))

    def steps(self, batch: int) -> int:
        """Steps of an epoch."""
        return -(-len(self) // batch)

    def gather(self, windows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Rows (B, 3) of sequence, start, mirrored? -> keypoints (B, F, K, 2) and poses (B, F, J, 3), and, with views,
        intrinsic (B, 9) and root_depth (B, F)."""
        store = self.store
        rows = store.frame_index(windows[:, 0], windows[:, 1], self.frames)
        flipped = windows[:, 2].bool()[:, None, None, None]
        keypoints, poses = store.keypoints[rows], store.poses[rows]
        gathered = (torch.where(flipped, mirror(keypoints, store.keypoint_mirror), keypoints),
                    torch.where(flipped, mirror(poses, store.joint_mirror), poses))
        if not self.views:
            return gathered
        intrinsic = store.intrinsics[windows[:, 0]]
        return (*gathered, torch.where(flipped[:, :, 0, 0], mirror_intrinsic(intrinsic), intrinsic),
                store.root_depths[rows])
