"""Measure how well keypoints fit a person when read in a layout, and how tall that person is in the picture.

No bone is seen longer than it is: each distance between two points, divided by the most that it can be in a person of
height 1, is at most the person's height in the picture. Read in the right layout, the limbs come near to that height in
most postures and nothing exceeds it; read in another, something does.

Letters: T frames, K keypoints.
"""

import warnings

import numpy as np

from common.skeleton import Skeleton

# Limbs and the widths of the trunk with their lengths as shares of a person's height (Drillis and Contini 1966).
LIMBS = (
    *((f'{side}_{near}', f'{side}_{far}', length) for side in ('left', 'right') for near, far, length in (
        ('shoulder', 'elbow', 0.186), ('elbow', 'wrist', 0.146), ('hip', 'knee', 0.245), ('knee', 'ankle', 0.246))),
    ('left_shoulder', 'right_shoulder', 0.259), ('left_hip', 'right_hip', 0.191))
# Metres of both arms and legs of an average adult together, without hands and feet.
AVERAGE_HEIGHT = 1.70
LIMBS_OF_A_PERSON = AVERAGE_HEIGHT * sum(share for a, b, share in LIMBS if a.split('_')[0] == b.split('_')[0])
# Other pairs, with the most that they are apart; ~ is the middle of the two shoulders, or of the two hips.
APART = (
    *((f'{side}_{near}', f'{side}_{far}', most) for side in ('left', 'right') for near, far, most in (
        ('shoulder', 'hip', 0.34), ('ankle', 'big_toe', 0.18), ('ankle', 'small_toe', 0.18), ('ankle', 'heel', 0.1),
        ('ankle', 'foot', 0.18), ('wrist', 'hand', 0.1), ('wrist', 'hand_tip', 0.16), ('wrist', 'thumb', 0.12),
        ('eye', 'ear', 0.1))),
    *((f'{side}_{part}', '~shoulder', 0.28) for side in ('left', 'right') for part in ('eye', 'ear')),
    ('left_eye', 'nose', 0.06), ('right_eye', 'nose', 0.06), ('left_eye', 'right_eye', 0.06),
    ('left_ear', 'right_ear', 0.13), ('nose', '~shoulder', 0.24), ('neck', '~shoulder', 0.19), ('thorax', 'neck', 0.15),
    ('head', '~shoulder', 0.28), ('head', 'neck', 0.16), ('head', 'nose', 0.16), ('head', 'thorax', 0.26),
    ('thorax', '~shoulder', 0.07), ('hip', '~hip', 0.08), ('spine', '~hip', 0.26), ('spine', '~shoulder', 0.26))
# Pairs along the trunk, with the least that they are apart: seen much shorter than that through a whole clip, they are
# something else.
UPRIGHT = (('head', 'thorax', 0.1), ('head', '~shoulder', 0.1), ('thorax', '~hip', 0.25), ('hip', '~shoulder', 0.25))
TOLERANCE = 0.02  # of the height, by which a detector may be wrong about the places of both ends of a pair
SHORT, SHORTENED = 0.45, 0.3  # share of the least that counts as too short, and what that takes off


def evenness(points: np.ndarray, layout: Skeleton) -> float:
    """Return how well the distances in (T, K, 2) points, read in a layout, fit a person, from 0 to 1.

    It is the height that the median limb implies over the most that any pair of points implies, in the median of the
    frames: about 0.7 to 0.9 for people, whatever they do, and 0.1 to 0.6 for people read in another layout. NaN where
    no frame shows half of the limbs.
    """
    limbs, longest, shown = _limbs(points, layout)
    if not len(longest):
        return float('nan')
    points = points[shown]
    heights = np.stack([(_distance(points, layout, a, b) - TOLERANCE * longest) / most for a, b, most in APART]
                       + [longest], axis=1)
    tallest = np.nanmax(heights, axis=1)
    even = float(np.median(np.nanmedian(limbs, axis=1) / tallest))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)  # pairs that this layout does not have are all NaN
        shares = [np.nanmedian(_distance(points, layout, a, b) / (least * longest)) for a, b, least in UPRIGHT]
    return max(0.0, even - SHORTENED * sum(share < SHORT for share in shares))


def stature(points: np.ndarray, layout: Skeleton) -> float:
    """Estimate a person's height in the picture, in the units of (T, K, 2) points, whatever the posture.

    It is the median over frames of the height that the least foreshortened limb implies. NaN where no frame shows half
    of the limbs.
    """
    _, longest, _ = _limbs(points, layout)
    return float(np.median(longest)) if len(longest) else float('nan')


def length_of_limbs(poses: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Return the length of both arms and legs together, without hands and feet, of poses (T, J, 3): (T,)."""
    chains = ((pair for near, middle, far in skeleton.limbs for pair in ((near, middle), (middle, far))))
    return np.sum([np.linalg.norm(poses[:, a] - poses[:, b], axis=-1) for a, b in chains], axis=0)


def _limbs(points: np.ndarray, layout: Skeleton) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the heights that limbs imply (S, limbs), NaN where unseen, the largest of each frame (S,), and S's frames.

    S are the frames that show half of the limbs.
    """
    heights = np.stack([_distance(points, layout, a, b) / length for a, b, length in LIMBS], axis=1)
    longest = np.nanmax(heights, axis=1, initial=0)
    shown = (np.isfinite(heights).sum(axis=1) * 2 >= len(LIMBS)) & (longest > 0)
    return heights[shown], longest[shown], shown


def _distance(points: np.ndarray, layout: Skeleton, a: str, b: str) -> np.ndarray:
    """Return (T,) distances between two points of a layout; NaN where it lacks one of them."""
    if not all(_has(layout, name) for name in (a, b)):
        return np.full(len(points), np.nan)
    return np.linalg.norm(_place(points, layout, a) - _place(points, layout, b), axis=-1)


def _has(layout: Skeleton, name: str) -> bool:
    return name in layout.joints or (name[0] == '~' and all(_sides(name)[i] in layout.joints for i in (0, 1)))


def _sides(name: str) -> tuple[str, str]:
    return f'left_{name[1:]}', f'right_{name[1:]}'


def _place(points: np.ndarray, layout: Skeleton, name: str) -> np.ndarray:
    if name[0] != '~':
        return points[:, layout.joints.index(name)]
    left, right = (layout.joints.index(side) for side in _sides(name))
    return (points[:, left] + points[:, right]) / 2
