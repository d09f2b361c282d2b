"""All sequences of a split together on a device, and windows of them as models read them.

Letters: N frames of all sequences together, S sequences, B windows, F frames of a window, A
frames that it answers for, K keypoints, J joints.
"""

from collections.abc import Sequence as Ordered

import numpy as np
import torch

from common.augment import Batch, Mirror
from common.sequences import Sequence
from common.skeleton import Skeleton


class SequenceStore:
    """All sequences of a split, end to end, as a few tensors on one device. Nothing touches the CPU once it is built.

    Attributes:
        keypoints: (N, K, 2) float32 normalised screen coordinates.
        poses: (N, J, 3) float32 metres, root-relative; None unless all sequences have 3D.
        roots: (N, 3) float32 metres, the root joint in camera axes; None where some are unknown.
        intrinsics: (S, 9) float32 intrinsic vectors of the cameras; None where some are unknown.
        confidence: (N, K) float32, 1 in sequences that tell none; None where no sequence tells any.
        root: index of the root joint. joints: J.
        mirror: what swaps left and right.
        marks: (N,) int64 which frames count at test, as `PoseDataset.marks`; None where all do.
        takes: (subject, action, camera) of each sequence.
        lengths: frames of each sequence.
    """

    def __init__(self, sequences: Ordered[Sequence], layout: Skeleton, skeleton: Skeleton, device: torch.device):
        self.device = device
        self.takes = [(s.subject, s.action, s.camera) for s in sequences]
        self.lengths = [len(s.keypoints) for s in sequences]
        self.root, self.joints = skeleton.root, len(skeleton)
        self.keypoints = self._joined([s.keypoints for s in sequences])
        self.poses = self._joined([s.poses for s in sequences])
        self.roots = self._joined([s.root for s in sequences])
        intrinsics = [s.intrinsic for s in sequences]
        self.intrinsics = None if any(i is None for i in intrinsics) else torch.from_numpy(
            np.stack(intrinsics)).to(device)
        self.confidence = self.marks = None
        if any(s.confidence is not None for s in sequences):
            self.confidence = self._joined([np.ones(s.keypoints.shape[:2], np.float32) if s.confidence is None
                                            else s.confidence for s in sequences])
        if any(s.marks is not None for s in sequences):
            self.marks = self._joined([np.full(len(s.keypoints), -1) if s.marks is None else s.marks
                                       for s in sequences])
        self.mirror = Mirror(torch.tensor(layout.mirror, device=device), torch.tensor(skeleton.mirror, device=device))
        length = torch.tensor(self.lengths, device=device)
        self._end = length.cumsum(0)
        self._begin = self._end - length

    def _joined(self, parts: list[np.ndarray | None]) -> torch.Tensor | None:
        """Return the parts end to end on the device; None where one is missing."""
        known = [part for part in parts if part is not None]
        return torch.from_numpy(np.concatenate(known)).to(self.device) if len(known) == len(parts) else None

    def __len__(self):
        return len(self.keypoints)

    def frame_index(self, sequence: torch.Tensor, start: torch.Tensor, frames: int,
                    last: torch.Tensor | None = None) -> torch.Tensor:
        """Return the rows (B, F) of the store that windows read, edges replicated.

        Args:
            sequence: (B,). start: (B,) first frame in the sequence, which may lie outside.
            last: (B,) frame of the sequence after which nothing may be read; its end where None.
        """
        begin = self._begin[sequence, None]
        end = self._end[sequence, None] - 1 if last is None else begin + last[:, None]
        frame = begin + start[:, None] + torch.arange(frames, device=self.device)
        return torch.minimum(torch.maximum(frame, begin), end)

    def batch(self, sequence: torch.Tensor, rows: torch.Tensor, answers: range, needs: frozenset[str],
              truth: bool) -> Batch:
        """Return windows as a model reads them.

        Args:
            sequence: (B,) the sequence of each window. rows: (B, F) what it reads (`frame_index`).
            answers: those of its frames that come out.
            needs: what the model reads besides keypoints. truth: whether poses are asked for.
        """
        answered = rows[:, answers.start:answers.stop]
        keypoints = self.keypoints[rows]
        if 'confidence' in needs:
            confidence = torch.ones_like(keypoints[..., :1]) if self.confidence is None else \
                self.confidence[rows][..., None]
            keypoints = torch.cat([keypoints, confidence], dim=-1)
        return Batch(keypoints, self.poses[answered] if truth else None,
                     self.intrinsics[sequence] if 'intrinsic' in needs else None,
                     self.roots[answered][..., 2] if 'root_depth' in needs else None,
                     self.roots[answered] if 'root' in needs else None)

    def lacks(self, needs: frozenset[str]) -> str | None:
        """Return the first need that these sequences do not tell; None where they tell all. Confidence may be 1."""
        known = {'confidence': True, 'intrinsic': self.intrinsics is not None, 'root': self.roots is not None,
                 'root_depth': self.roots is not None}
        return next((need for need in sorted(needs) if not known[need]), None)
