"""A motion to export, with y up as animators and OpenSim have it.

Letters: T frames, J joints.
"""

from dataclasses import dataclass, replace

import numpy as np

from common.skeleton import Skeleton

UNEVEN = 0.01  # of a frame: times that are off by less come evenly


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


def since_start(motion: Motion) -> np.ndarray:
    """Return when each frame is (T,), in seconds after the first: by `fps` alone, where times do not rise."""
    seconds = motion.seconds - motion.seconds[0]
    return seconds if (np.diff(seconds) > 0).all() else np.arange(len(seconds)) / motion.fps


def evenly(motion: Motion) -> Motion:
    """Return the motion with frames that come evenly, as many as there are, interpolated where they did not."""
    seconds = since_start(motion)
    if len(seconds) < 2:
        return replace(motion, seconds=seconds)
    fps = (len(seconds) - 1) / seconds[-1]
    even = np.arange(len(seconds)) / fps
    positions = motion.positions
    if np.abs(even - seconds).max() * fps > UNEVEN:
        flat = positions.reshape(len(positions), -1)
        positions = np.stack([np.interp(even, seconds, column) for column in flat.T], axis=-1).reshape(positions.shape)
    return replace(motion, positions=positions, seconds=even, fps=float(fps))
