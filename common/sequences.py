"""A sequence of keypoints and poses, as a data set gives it. Letters: T frames, K keypoints, J joints."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sequence:
    """One take of one subject seen by one camera, in network units.

    Attributes:
        keypoints: (T, K, 2) float32 normalised screen coordinates.
        poses: (T, J, 3) float32 metres in camera axes, relative to the root; None where there is no 3D.
        root: (T, 3) float32 metres, the root joint in camera axes; None where nothing tells.
        intrinsic: (9,) float32, the camera's (`Camera.intrinsic`); None where unknown.
        marks: (T,) int64 which frames count, as `PoseDataset.marks`; None where all do.
        confidence: (T, K) float32, the detector's confidence in each keypoint; None where the file tells none.
    """

    subject: str
    action: str
    camera: int
    keypoints: np.ndarray
    poses: np.ndarray | None
    root: np.ndarray | None = None
    intrinsic: np.ndarray | None = None
    marks: np.ndarray | None = None
    confidence: np.ndarray | None = None
