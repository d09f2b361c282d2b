"""All sequences of a split together on a device, and windows of them as models read them.

Letters: N frames of all sequences together, S sequences, B windows, F frames of a window, A frames that it answers for,
K keypoints, J joints.
"""

import zlib
from collections.abc import Callable
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
        poses: (N, J, 3) float32 metres, root-relative; None unless all sequences have 3D. Where `units` are told, in
            the picture's units: what a model learns.
        units: (N,) float32 metres that a unit of what is learned is worth in each frame, as `Sequence.units`; None
            where poses are in metres, or nothing tells.
        roots: (N, 3) float32 metres, the root joint in camera axes; None where some are unknown.
        intrinsics: (S, 9) float32 intrinsic vectors of the cameras; None where some are unknown.
        upright: (S, 3, 3) float32 rotations from camera axes to axes whose z is up; None where some are unknown.
        confidence: (N, K) float32, 1 in sequences that tell none; None where no sequence tells any.
        root: index of the root joint. joints: J.
        mirror: what swaps left and right.
        marks: (N,) int64 which frames count at test, as `PoseDataset.marks`; None where all do.
        takes: (subject, action, camera) of each sequence.
        lengths: frames of each sequence.
        numbers: (S,) int64 below 2^31, made of the names of each take.
    """

    def __init__(self, sequences: Ordered[Sequence], layout: Skeleton, skeleton: Skeleton, device: torch.device):
        self.device = device
        self.takes = [(s.subject, s.action, s.camera) for s in sequences]
        self.lengths = [len(s.keypoints) for s in sequences]
        named = ['/'.join(map(str, take)).encode() for take in self.takes]
        self.numbers = torch.tensor([zlib.crc32(name) >> 1 for name in named], device=device)
        self.root, self.joints = skeleton.root, len(skeleton)
        self.keypoints = self._joined([s.keypoints for s in sequences])
        self.poses = self._all_joined([s.poses for s in sequences])
        self.units = self._all_joined([s.units for s in sequences])
        self._metres = self._all_joined([s.metres for s in sequences])
        self.roots = self._all_joined([s.root for s in sequences])
        self.intrinsics = self._all_joined([None if s.intrinsic is None else s.intrinsic[None] for s in sequences])
        self.upright = self._all_joined([None if s.upright is None else s.upright[None] for s in sequences])
        self.confidence = self._any_joined([s.confidence for s in sequences],
                                           lambda index: np.ones(sequences[index].keypoints.shape[:2], np.float32))
        self.marks = self._any_joined([s.marks for s in sequences],
                                      lambda index: np.full(len(sequences[index].keypoints), -1))
        self.mirror = Mirror(torch.tensor(layout.mirror, device=device), torch.tensor(skeleton.mirror, device=device))
        length = torch.tensor(self.lengths, device=device)
        self._end = length.cumsum(0)
        self._begin = self._end - length

    def _joined(self, parts: list[np.ndarray]) -> torch.Tensor:
        """Return the parts end to end on the device."""
        return torch.from_numpy(np.concatenate(parts)).to(self.device)

    def _all_joined(self, parts: list[np.ndarray | None]) -> torch.Tensor | None:
        """Return the parts end to end; None where one is missing."""
        known = [part for part in parts if part is not None]
        return self._joined(known) if len(known) == len(parts) else None

    def _any_joined(self, parts: list[np.ndarray | None],
                    instead: Callable[[int], np.ndarray]) -> torch.Tensor | None:
        """Return the parts end to end, `instead(index)` for each that is missing; None where all are."""
        if all(part is None for part in parts):
            return None
        return self._joined([instead(index) if part is None else part for index, part in enumerate(parts)])

    def __len__(self) -> int:
        """Return N."""
        return len(self.keypoints)

    @property
    def learned(self) -> torch.Tensor:
        """Return `poses`, which a model is to predict. Raises ValueError for sequences without 3D."""
        return _known(self.poses, 'true poses')

    @property
    def truth(self) -> torch.Tensor:
        """Return what predictions, times `units` where there are any, are judged by: (N, J, 3) metres.

        Raises ValueError for sequences without 3D.
        """
        return self.learned if self._metres is None else self._metres

    def frame_index(self, sequence: torch.Tensor, start: torch.Tensor, frames: int,
                    last: torch.Tensor | None = None, spacing: int = 1) -> torch.Tensor:
        """Return the rows (B, F) of the store that windows read, edges replicated.

        Args:
            sequence: (B,). start: (B,) first frame in the sequence, which may lie outside.
            spacing: from one frame of a window to the next.
            last: (B,) frame of the sequence after which nothing may be read; its end where None.
        """
        begin = self._begin[sequence, None]
        end = self._end[sequence, None] - 1 if last is None else begin + last[:, None]
        frame = begin + start[:, None] + spacing * torch.arange(frames, device=self.device)
        return torch.minimum(torch.maximum(frame, begin), end)

    def batch(self, sequence: torch.Tensor, rows: torch.Tensor, answers: range, needs: frozenset[str],
              truth: range | None) -> Batch:
        """Return windows as a model reads them.

        Args:
            sequence: (B,) the sequence of each window. rows: (B, F) what it reads (`frame_index`).
            answers: those of its frames that come out.
            needs: what the model reads besides keypoints.
            truth: those of its frames whose poses are asked for; None for none.

        Raises ValueError for a need that these sequences do not tell (`lacks`), and for truth that they do not have.
        """
        answered = rows[:, answers.start:answers.stop]
        keypoints = self.keypoints[rows]
        if 'confidence' in needs:
            confidence = torch.ones_like(keypoints[..., :1])
            if self.confidence is not None:
                confidence = self.confidence[rows][..., None]
            keypoints = torch.cat([keypoints, confidence], dim=-1)
        return Batch(keypoints, None if truth is None else self.learned[rows[:, truth.start:truth.stop]],
                     _known(self.intrinsics, 'intrinsic')[sequence] if 'intrinsic' in needs else None,
                     _known(self.roots, 'root_depth')[answered][..., 2] if 'root_depth' in needs else None,
                     _known(self.roots, 'root')[answered] if 'root' in needs else None)

    def moving(self, sequence: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the joints (B, F, J, 3) of windows, which move through space, in metres in axes whose z is up.

        Args:
            sequence, rows: as `batch` takes them.

        Raises ValueError for sequences that do not tell poses, the path of the root or which way is up.
        """
        joints = self.learned[rows] + _known(self.roots, 'root')[rows][..., None, :]
        return joints @ _known(self.upright, 'the direction up')[sequence].mT[:, None]

    def lacks(self, needs: frozenset[str]) -> str | None:
        """Return the first need that these sequences do not tell; None where they tell all. Confidence may be 1."""
        known = {'confidence': True, 'intrinsic': self.intrinsics is not None, 'root': self.roots is not None,
                 'root_depth': self.roots is not None}
        return next((need for need in sorted(needs) if not known[need]), None)


def _known(values: torch.Tensor | None, name: str) -> torch.Tensor:
    """Return the values. Raises ValueError where there are none."""
    if values is None:
        raise ValueError(f'expected sequences with {name}, got some without')
    return values
