"""Cameras: world to camera, projection with distortion, normalised screen coordinates; VideoPose3D's conventions."""

from dataclasses import dataclass

import numpy as np

from common.geometry import quaternion


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

    def from_world(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) in metres to this camera's axes."""
        return quaternion.rotate(quaternion.conjugate(self.orientation), points - self.translation.astype(points.dtype))

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) in this camera's axes to the world, metres."""
        return quaternion.rotate(self.orientation, points) + self.translation.astype(points.dtype)

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) in metres to pixels (..., 2), distortion included."""
        return denormalise(project(self.from_world(points), self.intrinsic), self.width, self.height)


def pinhole_intrinsic(focal, centre, radial, tangential, width, height) -> np.ndarray:
    """The (9,) float32 intrinsic vector from pixel focal lengths (2,) and centre (2,), k1..k3 and p1, p2."""
    focal = 2 * np.asarray(focal, dtype=np.float64) / width
    centre = normalise(np.asarray(centre, dtype=np.float64), width, height)
    return np.concatenate([focal, centre, radial, tangential]).astype(np.float32)


def normalise(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pixels (..., 2) to screen coordinates: x in [-1, 1], y by the same scale, so that the aspect is kept."""
    return pixels / np.asarray(width / 2, pixels.dtype) - np.array([1, height / width], pixels.dtype)


def denormalise(screen: np.ndarray, width: int, height: int) -> np.ndarray:
    """The inverse of `normalise`."""
    return (screen + np.array([1, height / width], screen.dtype)) * np.asarray(width / 2, screen.dtype)


def project(points: np.ndarray, intrinsic: np.ndarray) -> np.ndarray:
    """Camera-space points (..., 3) to normalised screen coordinates (..., 2).

    Distortion pairs p1 with x and p2 with y, as the ground-truth 2D of the public Human3.6M files was made.
    """
    f, c, k, p = np.split(intrinsic.astype(points.dtype), [2, 4, 7])
    xy = np.clip(points[..., :2] / points[..., 2:], -1, 1)
    r2 = (xy**2).sum(-1, keepdims=True)
    radial = 1 + r2 * (k[0] + r2 * (k[1] + r2 * k[2]))
    tangential = (xy * p).sum(-1, keepdims=True)
    return f * (xy * (radial + tangential) + p * r2) + c
