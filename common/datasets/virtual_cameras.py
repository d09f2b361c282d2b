"""Virtual cameras for motion that was never filmed: four views like Human3.6M's, and simulated 2D detections."""

import numpy as np

from common.datasets.h36m import LENSES, Lens
from common.geometry import quaternion
from common.geometry.camera import Camera

AZIMUTHS = (70, -70, 110, -110)  # degrees, as Human3.6M's four cameras stand around the room
HEIGHT = 1.55  # metres above the floor
TARGET = (0.0, 0.0, 0.9)  # what the cameras look at: the hip of a person in the middle
NEAREST = 4.5  # metres; Human3.6M's cameras stand 4 to 5.5 m away
MARGIN = 10  # pixels left free at the borders of the picture


def surround(motions: list[np.ndarray]) -> list[Camera]:
    """Place four cameras around the origin, as near as every joint of every frame stays inside all four pictures.

    Args:
        motions: (T, J, 3) world positions in metres, z up, floor at 0, each roughly centred on the origin.

    Raises ValueError for positions that are not finite, which no distance would bring into the picture.
    """
    points = np.concatenate([motion.reshape(-1, 3) for motion in motions]).astype(np.float64)
    if not np.isfinite(points).all():
        raise ValueError('cannot place cameras around positions that are NaN or infinite')
    distance = NEAREST
    while True:
        cameras = [_look_at_target(lens, azimuth, distance) for lens, azimuth in zip(LENSES, AZIMUTHS, strict=True)]
        if all(_sees(camera, points) for camera in cameras):
            return cameras
        distance *= 1.05


def _look_at_target(lens: Lens, azimuth: float, distance: float) -> Camera:
    angle = np.radians(azimuth)
    place = np.array([distance * np.cos(angle), distance * np.sin(angle), HEIGHT])
    forward = (TARGET - place) / np.linalg.norm(TARGET - place)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    camera_to_world = np.stack([right, np.cross(forward, right), forward], axis=1)
    return lens.at(quaternion.from_matrix(camera_to_world), place * 1000)


def _sees(camera: Camera, points: np.ndarray) -> bool:
    if camera.from_world(points)[:, 2].min() < 1:
        return False
    pixels = camera.project(points)
    return bool((pixels >= MARGIN).all() and (pixels <= np.array([camera.width, camera.height]) - MARGIN).all())


def project_all(motion: np.ndarray, cameras: list[Camera]) -> list[np.ndarray]:
    """Project a motion (T, J, 3) into each camera: one (T, J, 2) float32 array of pixels per camera."""
    return [camera.project(motion.astype(np.float64)).astype(np.float32) for camera in cameras]


def simulate_detections(views: list[np.ndarray], random: np.random.Generator, sigma: float = 5.0) -> list[np.ndarray]:
    """Add independent Gaussian noise of `sigma` pixels to the views (T, J, 2), to resemble a detector's output."""
    return [(view + sigma * random.standard_normal(view.shape)).astype(np.float32) for view in views]
