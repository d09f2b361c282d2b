"""A motion to export, with y up as animators and OpenSim have it.

Letters: T frames, J joints.
"""

from dataclasses import dataclass

import numpy as np

from common.skeleton import Skeleton


@dataclass(frozen=True)
class Motion:
    """The motion of one person.

    Attributes:
        skeleton: names and tree of the joints.
        positions: (T, J, 3) float64 metres: x right, y up, z towards the camera.
        seconds: (T,) float64, when each frame is.
        fps: frames per second, on average.
    """

    skeleton: Skeleton
    positions: np.ndarray
    seconds: np.ndarray
    fps: float


def of_world(skeleton: Skeleton, world: np.ndarray, seconds: np.ndarray, fps: float) -> Motion:
    """Return the motion of poses (T, J, 3) in the z-up world of --predict: x right, y away from the camera."""
    world = world.astype(np.float64)
    turned = np.stack([world[..., 0], world[..., 2], -world[..., 1]], axis=-1)
    return Motion(skeleton, turned, seconds.astype(np.float64), fps)
