"""Recognising the layout of a file's keypoints, and converting them to the layout that a lifter reads.

Letters: T frames, K keypoints of the file, L keypoints of the lifter.
"""

from collections.abc import Container

import numpy as np

from common.errors import FileError
from common.skeleton import SKELETONS, STAND_INS, Skeleton

LAYOUTS = ('coco', 'h36m', 'halpe26', 'body25', 'body25b', 'mpii', '3dhp')
# Larger layouts whose first keypoints are those of a known one: COCO-WholeBody and Halpe-136.
LEADING = {133: 'coco', 136: 'halpe26'}
# Bones and their lengths as shares of a person's height (Drillis and Contini 1966).
PROPORTIONS = (
    *((f'{side}_{near}', f'{side}_{far}', length) for side in ('left', 'right') for near, far, length in (
        ('shoulder', 'elbow', 0.186), ('elbow', 'wrist', 0.146), ('hip', 'knee', 0.245), ('knee', 'ankle', 0.246))),
    ('left_shoulder', 'right_shoulder', 0.259), ('left_hip', 'right_hip', 0.191))
# Points that a detector lacks, as weighted sums of points that it has; the first possible sum is used. Head and neck
# from the face follow MHFormer's demo; from the trunk alone they follow CMU's motion, with errors of some 4 cm.
_TRUNK = ('left_shoulder', 'right_shoulder', 'left_hip', 'right_hip')


def _above(height: float) -> dict[str, float]:
    """Return the weights of the point on the trunk's axis that is `height` trunk lengths above the shoulders."""
    return dict(zip(_TRUNK, ((1 + height) / 2, (1 + height) / 2, -height / 2, -height / 2), strict=True))


_BESIDE_HEAD = ({'nose': 1.0}, {'neck': 0.5, 'head': 0.5}, _above(0.33))
ESTIMATES = {
    'head': ({'left_eye': 0.75, 'right_eye': 0.75, 'left_ear': 0.25, 'right_ear': 0.25, 'nose': -1.0}, _above(0.42)),
    'neck': ({'nose': 0.75, 'thorax': 0.25}, {'head': 0.5, 'thorax': 0.5}, _above(0.25)),
    'nose': ({'neck': 1.0}, {'head': 1.0}, _above(0.25)),
    **{name: _BESIDE_HEAD for name in ('left_eye', 'right_eye', 'left_ear', 'right_ear')},
}
# A keypoint of the head or trunk is used if it is seen in this share of the frames with a person, else estimated.
OFTEN = 0.5


def evenness(points: np.ndarray, layout: Skeleton) -> float:
    """Return how well the relative lengths of the bones of (T, K, 2) points fit a person, from 0 to 1.

    Each bone's length is divided by its share of a person's height. The result is the median over frames of the median
    bone divided by the longest one: about 0.7 to 0.9 for people, whatever they do, and 0.1 to 0.6 for people read in
    another layout. NaN where no frame shows half of the bones.
    """
    lengths, longest = _bones(points, layout)
    return float(np.median(np.nanmedian(lengths, axis=1) / longest)) if len(longest) else float('nan')


def stature(points: np.ndarray, layout: Skeleton) -> float:
    """Estimate a person's height in the picture, in the units of (T, K, 2) points, whatever the posture.

    It is the median over frames of the height that the least foreshortened bone implies. NaN where no frame shows half
    of the bones.
    """
    _, longest = _bones(points, layout)
    return float(np.median(longest)) if len(longest) else float('nan')


def _bones(points: np.ndarray, layout: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Return the heights that the bones imply (S, bones), NaN where unseen, and the largest of each frame (S,).

    A bone implies its length divided by its share of a person's height. S are the frames that show half of the bones.
    """
    pairs = [(layout.joints.index(a), layout.joints.index(b), length) for a, b, length in PROPORTIONS]
    a, b, length = (np.array(column) for column in zip(*pairs, strict=True))
    lengths = np.linalg.norm(points[:, a] - points[:, b], axis=-1) / length
    lengths = lengths[np.isfinite(lengths).sum(axis=1) * 2 >= len(pairs)]
    longest = np.nanmax(lengths, axis=1, initial=0)
    return lengths[longest > 0], longest[longest > 0]


def find_layout(points: np.ndarray, asked: str, usual: tuple[str, ...], kind: str) -> tuple[Skeleton, str]:
    """Find the layout of (T, K, 2) points; return it and, in words, how it was found.

    Args:
        asked: value of --layout; `auto` takes the file's usual layout, unless the bones fit another one clearly better.
        usual: names of the layouts that such a file usually has.
        kind: the kind of file, in words.

    Raises FileError where no layout, or not the one asked for, has so many keypoints.
    """
    count = points.shape[1]
    if asked != 'auto':
        return _layout_asked_for(asked, count, kind), 'as --layout says'
    known = [SKELETONS[name] for name in LAYOUTS if len(SKELETONS[name]) == count]
    if not known:
        sizes = ', '.join(f'{name} {len(SKELETONS[name])}' for name in LAYOUTS)
        raise FileError(f'{kind} has {count} keypoints, which no known layout has; there are {sizes}')
    known.sort(key=lambda layout: layout.name not in usual)  # stable: the usual one first
    better = _clearly_better(points, known)
    how = f'by its {count} keypoints'
    if better is not None:
        how += f' and the lengths of its bones, which are not those of {known[0].name}'
    elif usual and len(known) > 1:
        how += ' and the kind of file'
    return known[0] if better is None else better, f'{how} (--layout says otherwise)'


def _clearly_better(points: np.ndarray, layouts: list[Skeleton]) -> Skeleton | None:
    """Return the layout that the bones of (T, K, 2) points fit clearly better than the first one; None without one."""
    fits = [evenness(points, layout) for layout in layouts]
    best = int(np.nanargmax(fits)) if np.isfinite(fits).any() else 0
    return layouts[best] if best != 0 and fits[best] - np.nan_to_num(fits[0]) > 0.1 else None


def _layout_asked_for(name: str, count: int, kind: str) -> Skeleton:
    """Return the layout that --layout names. Raises FileError unless it has as many keypoints as the file."""
    if len(SKELETONS[name]) != count:
        fitting = ', '.join(other for other in LAYOUTS if len(SKELETONS[other]) == count)
        raise FileError(f'{kind} has {count} keypoints, but --layout {name} has {len(SKELETONS[name])}; it can be '
                        f'{fitting or "none that is known"}')
    return SKELETONS[name]


def better_layout(points: np.ndarray, layout: Skeleton) -> tuple[str, float]:
    """Return the name of the equally large layout that the bones fit best, and its evenness."""
    fits = {name: evenness(points, SKELETONS[name]) for name in LAYOUTS if len(SKELETONS[name]) == len(layout)}
    return max(fits.items(), key=lambda item: np.nan_to_num(item[1]))


def conversion(wanted: Skeleton, given: Skeleton, usable: np.ndarray) -> tuple[np.ndarray, dict[str, tuple[str, ...]]]:
    """Return the float64 matrix (L, K) from the file's keypoints to the lifter's, by name; each row sums to 1.

    Args:
        usable: (K,) bool, the keypoints that may be used.

    Returns the matrix, and for each point that is combined from others its name -> their names.
    Raises FileError for a point that is not usable and cannot be combined from others.
    """
    have = {name: k for k, name in enumerate(given.joints) if usable[k]}
    matrix = np.zeros((len(wanted), len(given)))
    made: dict[str, tuple[str, ...]] = {}
    for row, name in zip(matrix, wanted.joints, strict=True):
        weights = _weights(name, have)
        if weights is None:
            if name in given.joints:
                raise FileError(f'{name} is never seen: a lifter needs whole bodies; lower --min-score, or film all of '
                                f'the person')
            raise FileError(f'nothing of layout {given.name} that is seen can stand for {name} of {wanted.name}')
        for part, weight in weights.items():
            row[have[part]] += weight
        if name not in weights:
            made[name] = tuple(weights)
    return matrix, made


def _weights(name: str, have: Container[str]) -> dict[str, float] | None:
    """Return the weights of the points in `have` that make up a point; None where they cannot."""
    if name in have:
        return {name: 1.0}
    equal = [dict.fromkeys(names, 1 / len(names)) for names in STAND_INS.get(name, ())]
    for candidate in (*ESTIMATES.get(name, ()), *equal):
        total: dict[str, float] = {}
        for part, weight in candidate.items():
            middle = part in ('hip', 'thorax') and part not in have
            for source in STAND_INS[part][0] if middle else (part,):
                total[source] = total.get(source, 0.0) + weight / (2 if middle else 1)
        if all(source in have for source in total):
            return total
    return None


def usable_keypoints(seen: np.ndarray, layout: Skeleton) -> np.ndarray:
    """Return (K,) bool: keypoints seen at all and, if others could replace them, in at least half of the frames."""
    present = max(1, int(seen.any(axis=1).sum()))
    share = seen.sum(axis=0) / present
    face_or_trunk = {'nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear', *STAND_INS}
    return np.array([s >= (OFTEN if name in face_or_trunk else 1e-9)
                     for name, s in zip(layout.joints, share, strict=True)])
