"""The look that films and pages share: colours, the viewer's place, and how much is shown around a person.

Letters: T frames, J joints, K keypoints, N people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.skeleton import Skeleton

# Colours of the bones by side, of those by Okabe and Ito, which colour-blind readers tell apart: left dark and right
# bright, so that they differ in grey too.
LEFT, RIGHT, MIDDLE, GHOST = '#0072B2', '#E69F00', '#333333', '#AAAAAA'
ELEVATION = 15  # degrees by which the viewer looks down
TILE = 0.5  # metres between the lines of the floor
REACH = 0.5, 2.5  # metres shown around the root: at least, at most
SHOWN, FAINT = 10, 0.3  # hypotheses drawn behind their mean at most, and how opaque they are
TRUTH = 'ground truth'  # what its panel is called
# Those of several people, of the same colours, without the yellow that a white background swallows.
PEOPLE = '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9'
PALE = 0.5  # how far the colour of somebody's right side is on the way to white
WIDEST = 20.0  # metres from the middle of several people that are shown at most


@dataclass(frozen=True)
class People:
    """Several people in one panel, whose joints (T, N * J, 3) and keypoints (T, N * K, 2) are theirs one after another.

    Attributes:
        names: what each is called, N.
        there: (T, N) bool, the frames in which each is drawn.
    """

    names: tuple[str, ...]
    there: np.ndarray

    def colours(self) -> list[tuple[str, str, str]]:
        """Return the colours of each: of the middle, the left and, paler, the right."""
        own = [PEOPLE[index % len(PEOPLE)] for index in range(len(self.names))]
        return [(colour, colour, _paler(colour)) for colour in own]


def _paler(colour: str) -> str:
    parts = [int(colour[k:k + 2], 16) for k in (1, 3, 5)]
    return '#' + ''.join(f'{round(part + PALE * (255 - part)):02X}' for part in parts)


def bones_of(skeleton: Skeleton, people: People | None = None) -> list[tuple[int, int, int]]:
    """Return (joint, parent, side) of every bone; sides are 0 in the middle, 1 left, 2 right, and 3 more a person."""
    sides = {'left': 1, 'right': 2}
    count, joints = 1 if people is None else len(people.names), len(skeleton)
    return [(joints * n + joint, joints * n + parent, 3 * n + sides.get(skeleton.joints[joint].split('_')[0], 0))
            for n in range(count) for joint, parent in skeleton.edges]


def check_panels(everything: Sequence[np.ndarray]) -> None:
    """Raise ValueError unless all arrays are finite and of the same number of frames, at least one."""
    frames = len(everything[0])
    if not frames or any(len(array) != frames for array in everything):
        raise ValueError(f'expected one pose a frame in every panel, got {[len(array) for array in everything]}')
    if not all(np.isfinite(array).all() for array in everything):
        raise ValueError('poses or keypoints hold NaN or infinite coordinates')


def viewed_from(points: np.ndarray, azimuth: float) -> tuple[np.ndarray, np.ndarray]:
    """Return world points (..., 3), z up, as a distant viewer sees them: x right, y up (..., 2), and nearness (...).

    The view is orthographic, at the scale of the world: a metre across the line of sight is a metre of the picture.

    Args:
        azimuth: degrees from the x axis to where the viewer stands.
    """
    a, e = np.radians(azimuth), np.radians(ELEVATION)
    right = [-np.sin(a), np.cos(a), 0]
    up = [-np.sin(e) * np.cos(a), -np.sin(e) * np.sin(a), np.cos(e)]
    towards = [np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)]
    return points @ np.array([right, up], points.dtype).T, points @ np.array(towards, points.dtype)


def centres_of(panels: Mapping[str, np.ndarray], truth: np.ndarray | None, root: int) -> dict[str, np.ndarray]:
    """Return what each panel's view follows, (T, 2) metres: the root of the truth, or its own where there is none."""
    return {name: (poses if truth is None else truth)[:, root, :2] for name, poses in panels.items()}


def crowd(poses: np.ndarray, people: People, root: int) -> tuple[np.ndarray, float, float]:
    """Return the middle of the paths of several people (2,), and how far from it and how high joints get, in metres.

    Args:
        poses: (T, N * J, 3) metres, z up. root: the joint of each that the paths are of.
    """
    split = poses.reshape(len(poses), len(people.names), -1, 3)
    there = people.there[:len(poses)]
    shown = split[there] if there.any() else split.reshape(-1, *split.shape[2:])  # (shown, J, 3)
    paths = shown[:, root, :2]
    centre = (paths.min(axis=0) + paths.max(axis=0)) / 2
    far = np.linalg.norm(shown[..., :2] - centre, axis=-1).max()
    return centre, float(np.clip(far, REACH[0], WIDEST)), float(np.clip(shown[..., 2].max(), REACH[0], WIDEST))


def extent(panels: Mapping[str, np.ndarray], centres: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Return how far sideways from the root, and how high, joints get, in metres, clipped to REACH.

    Args:
        panels: (T, J, 3) poses in metres, z up. centres: (T, 2) where the root is.
    """
    far = max(np.linalg.norm(poses[..., :2] - centres[name][:, None], axis=-1).max()
              for name, poses in panels.items())
    high = max(poses[..., 2].max() for poses in panels.values())
    return float(np.clip(far, *REACH)), float(np.clip(high, *REACH))


def around(points: np.ndarray) -> tuple[float, float, float, float]:
    """Return a square around the whole path of keypoints (T, K, 2): left, top, right, bottom in pixels."""
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    half = max(0.58 * (high - low).max(), 1)
    (left, top), (right, bottom) = (low + high) / 2 - half, (low + high) / 2 + half
    return float(left), float(top), float(right), float(bottom)


def panel_errors(panels: Mapping[str, np.ndarray], truth: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return each panel's distance (T,) from the truth in millimetres, averaged over joints; none without a truth."""
    return {} if truth is None else {
        name: 1000 * np.linalg.norm(poses - truth, axis=-1).mean(axis=-1) for name, poses in panels.items()}
