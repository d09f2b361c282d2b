"""Refusing the usual mistakes in a user's keypoints, each by name and with its remedy.

A lifter turns every input into some pose, so that mistakes would show only as absurd poses. Posture is judged over the
whole clip, and --as-is accepts what only looks like a mistake, such as a person lying down.

Letters: T frames, K keypoints.
"""

import numpy as np

from common.errors import FileError
from common.keypoints.layouts import better_layout, evenness
from common.skeleton import Skeleton

AS_IS = 'or say --as-is if they are right'
UNEVEN = 0.4  # evenness below this cannot be a person's; people have 0.7 to 0.9
OUTSIDE = 0.2  # share of points that may lie outside; detectors guess a few beyond the border
# Shares of points outside above which width and height count as swapped if swapping them leaves no more than ASTRAY.
SWAPPED, ASTRAY = 0.05, 0.005


def refuse_mistakes(points: np.ndarray, layout: Skeleton, size: tuple[float, float], source: str) -> None:
    """Raise FileError for points that cannot be a person of this layout in such a picture.

    Args:
        points: (T, K, 2) pixels, NaN where unseen.
        size: (width, height) of the picture.
        source: the file, to begin messages with.
    """
    refuse_normalised(points, source)
    _refuse_other_layout(points, layout, source)
    _refuse_posture(points, layout, source)
    _refuse_outside(points, size, source)


def refuse_normalised(points: np.ndarray, source: str) -> None:
    """Raise FileError for coordinates that are not pixels."""
    low, high = np.nanmin(points), np.nanmax(points)
    if high - low < 5:
        raise FileError(f'{source} looks normalised already: coordinates lie from {low:.2f} to {high:.2f}, expected '
                        f'pixels; multiply them back to the size of the picture')


def _refuse_other_layout(points: np.ndarray, layout: Skeleton, source: str) -> None:
    fit = evenness(points, layout)
    other, better = better_layout(points, layout)
    if fit < UNEVEN or (other != layout.name and better - fit > 0.15):
        if better >= max(UNEVEN, fit + 0.1):
            instead = f'with --layout {other} they would do ({better:.2f})'
        else:
            instead = f'no layout of {len(layout)} keypoints fits'
        raise FileError(f'{source}: read as layout {layout.name}, its bones have impossible relative lengths (evenness '
                        f'{fit:.2f}, people have 0.7 to 0.9): {instead}; name the order of the keypoints with '
                        f'--layout, {AS_IS}')


def _refuse_posture(points: np.ndarray, layout: Skeleton, source: str) -> None:
    """Raise FileError unless for half a clip heads are above feet (y points down) and people do not lie."""
    def middle(joint: str) -> np.ndarray:
        return points[:, [layout.joints.index(f'{side}_{joint}') for side in ('left', 'right')]].mean(axis=1)  # (T, 2)
    down = middle('hip') - middle('shoulder')  # (T, 2) along the trunk
    down = down[np.isfinite(down).all(axis=1)]
    if not len(down):
        return
    across, below = np.median(down, axis=0)
    if below < 0 and -below > 2 * abs(across):
        raise FileError(f'{source}: the person stands on the head, so y seems to grow upwards: write height - y, '
                        f'or turn the video, {AS_IS}')
    lying = np.abs(down[:, 0]) > 2 * np.abs(down[:, 1])
    if lying.mean() > 0.7 and abs(across) > 2 * abs(below):
        raise FileError(f'{source}: the person lies on the side, so x and y seem to be swapped: write x first, or '
                        f'turn the video, {AS_IS}')


def _refuse_outside(points: np.ndarray, size: tuple[float, float], source: str) -> None:
    def outside(width: float, height: float) -> float:
        beyond = (points < -0.05 * np.array([width, height])) | (points > 1.05 * np.array([width, height]))
        return np.any(beyond, axis=-1)[np.isfinite(points).all(axis=-1)].mean()
    width, height = size
    share, turned = outside(width, height), outside(height, width)
    swapped = turned <= OUTSIDE if share > OUTSIDE else share > SWAPPED and turned <= ASTRAY
    if share <= OUTSIDE and not swapped:
        return
    if swapped:
        remedy = f'width and height seem to be swapped: --image-size {height:g} {width:g}'
    else:
        remedy = 'give the size of the picture that the detector saw with --image-size WIDTH HEIGHT'
    reach = np.nanmax(points, axis=(0, 1))
    raise FileError(f'{source}: {share:.0%} of the points lie outside of a picture of {width:g}×{height:g} (they reach '
                    f'{reach[0]:.0f}, {reach[1]:.0f}): {remedy}, {AS_IS}')
