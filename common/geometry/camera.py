"""Cameras: world to camera axes, projection with distortion, normalised screen coordinates.

The conventions are VideoPose3D's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from common.geometry import quaternion

MOST_PIXELS = 1_000_000  # no picture is wider or higher


@dataclass(frozen=True)
class Camera:
    """A calibrated camera. World z is up; camera axes are x right, y down, z forward; lengths are metres.

    Attributes:
        orientation: unit quaternion (w, x, y, z) that rotates camera to world.
        translation: (3,) position in the world, metres.
        width, height: pixels.
        intrinsic: (9,) focal x, y, centre x, y in normalised units, then k1, k2, k3, p1, p2; None where unknown.
    """

    orientation: np.ndarray
    translation: np.ndarray
    width: int
    height: int
    intrinsic: np.ndarray | None = None

    @property
    def upright(self) -> np.ndarray:
        """Return the rotation from this camera's axes to the world's, (3, 3) float32."""
        return quaternion.to_matrix(self.orientation).astype(np.float32)

    def from_world(self, points: np.ndarray) -> np.ndarray:
        """Transform world points (..., 3) in metres to this camera's axes."""
        return quaternion.rotate(quaternion.conjugate(self.orientation), points - self.translation.astype(points.dtype))

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """Transform points (..., 3) in this camera's axes, in metres, to the world."""
        return quaternion.rotate(self.orientation, points) + self.translation.astype(points.dtype)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project world points (..., 3) in metres to pixels (..., 2), distortion included.

        Raises ValueError where the camera's intrinsic parameters are unknown.
        """
        if self.intrinsic is None:
            raise ValueError('cannot project with a camera whose intrinsic parameters are unknown')
        return denormalise(project(self.from_world(points), self.intrinsic), self.width, self.height)


def pinhole_intrinsic(focal: ArrayLike, centre: ArrayLike, radial: ArrayLike, tangential: ArrayLike, width: float,
                      height: float) -> np.ndarray:
    """Return the (9,) float32 intrinsic vector of a camera (`Camera.intrinsic`).

    Args:
        focal, centre: (2,) each, pixels.
        radial: k1, k2, k3.
        tangential: p1, p2.
        width, height: of the picture, pixels.
    """
    focal = 2 * np.asarray(focal, dtype=np.float64) / width
    centre = normalise(np.asarray(centre, dtype=np.float64), width, height)
    return np.concatenate([focal, centre, radial, tangential]).astype(np.float32)


def normalise(pixels: np.ndarray, width: float, height: float) -> np.ndarray:
    """Convert pixels (..., 2) to screen coordinates: x in [-1, 1], y on the same scale, so that the aspect is kept."""
    return pixels / np.asarray(width / 2, pixels.dtype) - np.array([1, height / width], pixels.dtype)


def denormalise(screen: np.ndarray, width: float, height: float) -> np.ndarray:
    """Convert screen coordinates (..., 2) back to pixels: the inverse of `normalise`."""
    return (screen + np.array([1, height / width], screen.dtype)) * np.asarray(width / 2, screen.dtype)


def project(points: np.ndarray, intrinsic: np.ndarray) -> np.ndarray:
    """Project camera-space points (..., 3) to normalised screen coordinates (..., 2).

    Distortion pairs p1 with x and p2 with y, as the ground-truth 2D of the public Human3.6M files was made.
    """
    f, c, k, p = np.split(intrinsic.astype(points.dtype), [2, 4, 7])
    xy = np.clip(points[..., :2] / points[..., 2:], -1, 1)
    r2 = (xy**2).sum(-1, keepdims=True)
    radial = 1 + r2 * (k[0] + r2 * (k[1] + r2 * k[2]))
    tangential = (xy * p).sum(-1, keepdims=True)
    return f * (xy * (radial + tangential) + p * r2) + c
