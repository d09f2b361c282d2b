"""A sequence of keypoints and poses, as a data set gives it. Letters: T frames, K keypoints, J joints."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.geometry.camera import Camera


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
        units: (T,) float32, for poses that are not in metres but in the picture's normalised units: metres that one
            such unit is worth in each frame; None for poses in metres, and where nothing tells.
        metres: (T, J, 3) float32, what predictions times `units` are compared with; None as `units` is.
        upright: (3, 3) float32, the rotation from camera axes to axes whose z is up; None where nothing tells.
        seen_by: the camera, where it is none of the data set's.
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
    units: np.ndarray | None = None
    metres: np.ndarray | None = None
    upright: np.ndarray | None = None
    seen_by: Camera | None = None


class Body(NamedTuple):
    """Some frames of one take as one camera sees them.

    Attributes:
        number: of the camera. camera: its picture and its lens.
        joints: (T, J, 3) metres in its axes. pixels: (T, K, 2).
    """

    number: int
    camera: Camera
    joints: np.ndarray
    pixels: np.ndarray
