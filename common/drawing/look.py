"""The look that films and pages share: colours, the viewer's place, and how much is shown around a person.

Letters: T frames, J joints.
"""

from collections.abc import Mapping, Sequence

import numpy as np

# Colours of the bones by side, of those by Okabe and Ito, which colour-blind readers tell apart: left dark and right
# bright, so that they differ in grey too.
LEFT, RIGHT, MIDDLE, GHOST = '#0072B2', '#E69F00', '#333333', '#AAAAAA'
ELEVATION = 15  # degrees by which the viewer looks down
TILE = 0.5  # metres between the lines of the floor
REACH = 0.5, 2.5  # metres shown around the root: at least, at most
SHOWN, FAINT = 10, 0.3  # hypotheses drawn behind their mean at most, and how opaque they are
TRUTH = 'ground truth'  # what its panel is called


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
